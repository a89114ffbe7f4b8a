"""The card of an exported network: README.md with what somebody needs who finds it on the hub.

Rewards with their identities and licences, dials and scores of the run's last evaluation with all
that they depend on, the config of training, how to load it. What the run does not know is said to
be unknown and never left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax import __version__
from miro_jax.data.json_file import dump_json, read_json
from miro_jax.data.printable import counted
from miro_jax.data.regular_file import open_regular
from miro_jax.report.results import Dials
from miro_jax.rewards import card_of, label

CARD_NAME = "README.md"
_LIBRARY = "library_name: miro_jax"  # a line of every card
_MOST_HEADER = 1 << 12  # bytes
EVALUATION, RECORDS = "evaluation.json", "records/manifest.json"
UNKNOWN = "not stated"


def write_card(
    workdir: Path | str,
    config: Mapping[str, Any],
    step: int | None,
    hub_id: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    folder: str | None = None,
) -> str:
    """Return the card of a run, as Markdown with the hub's header.

    Args:
      workdir: the run's folder; its evaluation and its records' manifest are read where they are.
      config: of the run. step: updates done.
      hub_id: where it will be, "owner/name". licence, data_licence: of weights and training images.
      folder: name of the exported one, which loads it where there is no `hub_id`.

    Raises:
      ValueError: the evaluation or the manifest is damaged.
    """
    workdir, names = Path(workdir), config["data"]["train_rewards"]
    evaluation = _last_evaluation(workdir)
    name = (hub_id or workdir.absolute().name).rpartition("/")[2]
    parts = [
        _header(licence),
        f"# {name}\n\nA text-to-image model conditioned on rewards: MIRO ([arXiv 2510.25897]"
        f"(https://arxiv.org/abs/2510.25897)), trained by miro_jax {__version__}"
        f"{'' if step is None else f' for {step} updates'}. Each reward can be requested at a "
        "level from 0 to 1, its quantile among the training images.",
        "## Load it\n\n" + _loading(hub_id or folder or str(name), names),
        "## Rewards\n\n" + _rewards(names),
        "## Dials\n\n" + _dials(evaluation),
        "## Evaluation\n\n" + _evaluation(evaluation),
        "## Training data\n\n" + _data(workdir, data_licence),
        "## Training config\n\n```json\n" + dump_json(_without_paths(config), indent=1) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def is_card(path: Path) -> bool:
    """Return whether a file is a card, by its header; False where there is none."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        return _LIBRARY.encode() in file.read(_MOST_HEADER).splitlines()


def _header(licence: str | None) -> str:
    lines = [f"license: {licence}"] if licence else []
    lines += [_LIBRARY, "pipeline_tag: text-to-image"]
    return "\n".join(["---", *lines, "tags: [miro, reward-conditioned, jax]", "---"])


def _loading(where: str, names: Sequence[str]) -> str:
    target = f', targets={{"{names[0]}": 0.6}}' if names else ""
    return (
        "```python\nfrom miro_jax import MiroPipeline\n\n"
        f'pipe = MiroPipeline.from_pretrained("{where}")\n'
        f'images = pipe("a red circle", num_images=4{target}, seed=0)\n```\n\n'
        "In the authors' package, whose layout the files have:\n\n"
        "```python\nfrom miro import MiroPipeline\n\n"
        f'pipe = MiroPipeline.from_pretrained("{where}")\n'
        "```\n\nIt brings the encoders of the release; a model trained on others (see the config) "
        "needs them there, too."
    )


def _rewards(names: Sequence[str]) -> str:
    if not names:
        return "None: the network is conditioned on captions alone."
    rows = []
    for name in names:
        card = card_of(name)
        if card is None:
            rows.append((f"`{label(name)}`", "that of its code", "it has none"))
            continue
        licences = ", ".join(f"{one.name} ({one.weights})" for one in card.licences)
        rows.append((f"`{card.identity}`", card.scale, licences))
    return _table(("identity", "raw scale", "licence of its weights"), rows)


def _dials(evaluation: Mapping[str, Any] | None) -> str:
    values = (evaluation or {}).get("results", {}).get("dials")
    if not values:
        return "Not measured."
    dials = Dials.from_json(values, EVALUATION)
    head = ("reward", *(f"at {level:g}" for level in dials.asked_levels), "rank correlation")
    rows = []
    for name, dial in dials.dials.items():
        means = (f"{score['mean']:.3f}" for score in dial["score"])
        rank = dial["rank_of_means"]
        rows.append((name, *means, "-" if rank is None else f"{rank:.2f}"))
    return (
        _table(head, rows)
        + f"\n\nMean score of {counted(dials.images_per_level, 'image')} at each requested level, "
        "all other rewards at 1."
    )


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "Not evaluated."
    rows = []
    for row in evaluation.get("results", {}).get("reward_scores", {}).get("rows", ()):
        for name, value in sorted(row["rewards"].items()):
            mean = value["score"]
            interval = f"{mean['mean']:.4f} ({mean['low']:.4f} to {mean['high']:.4f})"
            rows.append((name, f"{row['guidance_scale']:g}", interval))
    table = _table(("reward", "guidance", "mean score, 95 %"), rows) if rows else "No scores."
    kept = {key: evaluation.get(key) for key in ("step", "prompts", "rewards", "settings")}
    return f"{table}\n\nMade with:\n\n```json\n{dump_json(kept, indent=1)}\n```"


def _data(workdir: Path, licence: str | None) -> str:
    path = workdir / RECORDS
    if not path.is_file():
        return f"Its manifest is not in the run's folder. Licence: {licence or UNKNOWN}."
    manifest = read_json(path, dict)
    about = manifest.get("configuration", {})
    source = about.get("source")  # its paths are those of a machine
    kind = source.get("kind", UNKNOWN) if isinstance(source, dict) else UNKNOWN
    count = manifest.get("num_samples", "An unknown number of")
    return f"{count} images; source: `{kind}`. Licence of the images: {licence or UNKNOWN}."


def _last_evaluation(workdir: Path) -> dict[str, Any] | None:
    path = workdir / EVALUATION
    entries = read_json(path, list) if path.is_file() else []
    return entries[-1] if entries else None


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a config that say how it was trained, without paths of a machine."""
    kept = ("model", "optim", "train", "encoder", "sample", "seed")
    return {key: config[key] for key in kept if key in config}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = (" | ".join(str(cell).replace("|", "/") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)
