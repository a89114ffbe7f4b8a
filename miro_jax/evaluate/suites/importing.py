"""Results of the original tools as an evaluation of ours: published runs can then be compared.

GenEval's `results.jsonl` has a line for each image with `filename`, `tag`, `prompt`, `correct` and
`reason`; `rewards.jsonl` of the authors' scorers has `filename`, `prompt` and a number for each
scorer. Both are joined by the folder's number and the name of the file. Who judged, and with which
weights, neither says: the judge is unknown unless it is declared.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax import rewards
from miro_jax.data.json_file import parse_json
from miro_jax.data.printable import counted
from miro_jax.data.regular_file import read_regular
from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate.suites import manifest
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.find import File, Found, SuiteImage, match
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation
from miro_jax.evaluate.suites.measure import STATISTICS, describe_result, measure, rewards_of
from miro_jax.evaluate.suites.tables import write_results

# Scorers of the authors' tool -> the reward, with the version that they load.
SCORERS = {
    "aesthetic": "aesthetic",
    "pick_score": "pick_score",
    "image_reward": "image_reward",
    "hpsv2": "hpsv2@2.0",
    "clip_jina": "clip",
    "clip_openai": "openai_clip",
}
_MOST_BYTES = 1 << 30
_LINE = {"filename": str, "prompt": str, "correct?": bool, "reason?": (str, None), "tag?": str}
_LINE |= {f"{name}?": (float, None) for name in SCORERS}
_NAME = re.compile(r"(\d+)/(?:samples/)?([^/]+)$")


def import_results(
    files: Sequence[str | Path],
    suite: Suite,
    out: Path,
    judge: Mapping[str, str] | None = None,
    per_prompt: int | None = None,
    partial: bool = False,
) -> Evaluation:
    """Write an evaluation from result files of the original tools.

    Args:
      files: one or more of them, of the same images. suite: whose prompts they are of.
      out: folder of the evaluation. judge: what is known of who judged, such as its name.
      per_prompt, partial: as for images, see `find.find_images`.

    Raises:
      FileNotFoundError: a file is missing. ValueError: it holds something else, or other images;
        or images lack a score, and the set is not `partial`.
    """
    if (out / manifest.NAME).exists():
        raise ValueError(f"{out} must hold no evaluation yet; it does. Give another --out.")
    merged = _merge({str(path): _read(Path(path)) for path in files})
    listed = [File(name, line["prompt"], name, _nothing) for name, line in merged.items()]
    where = " and ".join(map(str, files))
    found = match(where, manifest.IMPORTED, listed, suite, per_prompt, partial)
    judged = bool(suite.score) and _has_verdicts(merged, where)
    rows = [_row(image, merged[image.file], judged) for image in found.images]
    groups = _groups(suite, found, rows, where, dict(judge or {}), judged)
    if (count := groups["result"]["unscored"]) and not partial:
        raise ValueError(
            f"{where} must hold every score of every image; {counted(count, 'image')} "
            f"{'lacks' if count == 1 else 'lack'} one. Complete it, or give --partial, which marks "
            "the result."
        )
    write_results(out, rows, groups)
    write_atomic(out / manifest.NAME, manifest.dump(groups, request={"imported": where}))
    return manifest.read(out)


def _merge(read: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Join the lines of files; ValueError unless they are of the same images and prompts."""
    (first, lines), *others = read.items()
    merged = {name: dict(line) for name, line in lines.items()}
    for path, own in others:
        if alone := sorted(merged.keys() ^ own.keys()):
            raise ValueError(
                f"{first} and {path} must be of the same images; {len(alone)} are in one alone, "
                f"such as {alone[0]} in {first if alone[0] in merged else path}."
            )
        for name, line in own.items():
            if line["prompt"] != merged[name]["prompt"]:
                raise ValueError(
                    f"{first} and {path} must be of the same images; {name} is of "
                    f"{merged[name]['prompt'][:60]!r} and of {line['prompt'][:60]!r}."
                )
            merged[name] |= line
    return merged


def _has_verdicts(merged: Mapping[str, Mapping[str, Any]], where: str) -> bool:
    """Return whether lines hold verdicts; ValueError where only some do."""
    lacking = [name for name, line in merged.items() if "correct" not in line]
    if lacking and len(lacking) < len(merged):
        raise ValueError(
            f"{where} must hold a verdict of every image, or of none; {lacking[0]} has none."
        )
    return not lacking


def _order(name: str) -> tuple[str, int, str]:
    """Return what names are sorted by: 2.png comes before 10.png, as in the folder of images."""
    folder, _, file = name.partition("/samples/")
    number = re.match(r"\d+", file)
    return folder, int(number[0]) if number else 0, file


def _nothing() -> bytes:
    raise FileNotFoundError("an imported result has no images")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return name of an image -> its line; a name is FOLDER/FILE."""
    lines: dict[str, dict[str, Any]] = {}
    if not path.exists():
        raise FileNotFoundError(
            f"FILE must be results.jsonl of GenEval's evaluation or rewards.jsonl of the authors' "
            f"scorers; there is no file {path}."
        )
    for number, text in enumerate(read_regular(path, _MOST_BYTES).splitlines(), 1):
        where = f"line {number} of {path}"
        line = parse_json(text, where, _LINE)
        name = _NAME.search(line["filename"])
        if name is None:
            raise ValueError(
                f"{where}: filename must end in NUMBER/samples/FILE; got {line['filename']!r}."
            )
        key = f"{int(name[1]):05d}/samples/{name[2]}"
        if key in lines:
            raise ValueError(f"{where}: the image {key} stands there twice.")
        lines[key] = line
    if not lines:
        raise ValueError(f"{path} must hold a line for each image; it is empty.")
    return {name: lines[name] for name in sorted(lines, key=_order)}


def _row(image: SuiteImage, line: Mapping[str, Any], judged: bool) -> dict[str, Any]:
    row = image.row(UNKNOWN)
    if judged:
        reasons = sorted(filter(None, (line.get("reason") or "").splitlines()))
        row |= {"correct": line["correct"], "reasons": [{"rule": text} for text in reasons]}
    if scores := {name: line[key] for key, name in _identities().items() if key in line}:
        row["rewards"] = scores
    return row


def _identities() -> dict[str, str]:
    cards = {key: rewards.card_of(name) for key, name in SCORERS.items()}
    return {key: card.identity for key, card in cards.items() if card is not None}


def _groups(
    suite: Suite,
    found: Found,
    rows: Sequence[Mapping[str, Any]],
    where: str,
    judge: dict[str, str],
    judged: bool,
) -> dict[str, Any]:
    verdicts = "verdicts, or " if suite.score else ""
    suite = suite if judged else suite.without_judge()
    metrics = measure(suite, rows)
    if not metrics:
        raise ValueError(
            f"{where} must hold {verdicts}numbers of {', '.join(SCORERS)}; it holds none that "
            f"count for {suite.name}."
        )
    towers = dict.fromkeys(rewards_of(rows), UNKNOWN)
    return {
        "benchmark": suite.describe() | {"samples_per_prompt": found.per_prompt},
        "judge": {"name": UNKNOWN} | judge if judged else {},
        "rewards": towers,
        "images": {"sha256": UNKNOWN, "count": len(rows), "path": where, "layout": found.layout},
        "model": {"name": UNKNOWN},
        "sampling": {},
        "post_selection": {"best_of": UNKNOWN, "prompt_rewriting": UNKNOWN},
        "statistics": STATISTICS,
        "machine": {"platform": UNKNOWN},
        "result": describe_result(metrics, rows, found.missing),
    }
