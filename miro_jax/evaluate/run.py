"""The evaluation stage: a trained network in, numbers, pictures and the report out.

`WORKDIR/evaluation.json` is a list with one entry for each evaluation: step, settings, reward
identities, what the network was trained on, its size, and the results of the evaluators by name. An
entry of the same step and settings is replaced. Pictures lie in `WORKDIR/evaluation/step-XXXXXX/`.
`report.html` shows the last entry.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from miro_jax import evaluate, report
from miro_jax.cli import build, run_folder
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest, require_rewards
from miro_jax.data.shapes import scene
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.evaluate import dials
from miro_jax.rewards.names import short_name
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import restore

FILE = "evaluation.json"


def validate(config) -> None:
    """Check `config.evaluate` without data or a device; ValueError names the key."""
    c = config.evaluate
    evaluate.check_names(c.evaluators)
    dials.check_levels(c.levels)
    unknown = [n for n in c.categories if n not in scene.CATEGORIES]
    if isinstance(c.categories, str) or unknown or not c.categories:
        raise ValueError(
            f"config.evaluate.categories must be a tuple of names from "
            f"{', '.join(scene.CATEGORIES)}; got {c.categories!r}."
        )
    for key in ("batch_size", "images_per_level", "prompts_per_category", "images_per_prompt"):
        if c[key] < 1:
            raise ValueError(f"config.evaluate.{key} must be at least 1; got {c[key]}.")
    known = [short_name(name) for name in config.rewards]
    if "conflict" in c.evaluators and short_name(c.conflict_reward) not in known:
        raise ValueError(
            f"config.evaluate.conflict_reward must be one of config.rewards "
            f"{', '.join(known)}; got {c.conflict_reward!r}."
        )


def run(config, workdir) -> None:
    """Evaluate the latest checkpoint of a run with `config.evaluate.evaluators`; write the report.

    Raises:
      FileNotFoundError: no checkpoint or no records. ValueError: they are not of this config.
      EvaluatorFailed: an evaluator raised.
    """
    validate(config)
    workdir = Path(workdir)
    records = run_folder.records_folder(config, workdir)
    rewards = build.load_rewards(config)
    identities = [r.identity for r in rewards]
    manifest = Manifest.load(records)
    require_rewards(manifest, identities)
    bins = Bins.load(records)
    training = training_scores(records, rewards, config.data.synthetic_caption_prob)
    trained = restore(config, workdir)
    pipeline, step = MiroPipeline(trained, config.evaluate.batch_size), trained.step
    begin = time.perf_counter()
    evaluators = evaluate.build_evaluators(
        config,
        rewards=rewards,
        bins=bins,
        training=training,
        folder=pictures_folder(workdir, step),
    )
    results = evaluate.run_evaluators(evaluators, pipeline, step)
    entry = {
        "step": step,
        "settings": {
            "evaluate": json.loads(config.evaluate.to_json()),
            "sample": json.loads(config.sample.to_json()),
        },
        "rewards": identities,
        "training": {"num_records": manifest.num_records, "rewards": training},
        "num_parameters": sum(x.size for x in jax.tree.leaves(pipeline.weights[0])),
        "seconds": time.perf_counter() - begin,
        "results": results,
    }
    if jax.process_index() == 0:
        append(workdir / FILE, entry)
        report.write(workdir)


def pictures_folder(workdir: Path, step: int) -> Path:
    """Folder of the pictures of one evaluation."""
    return Path(workdir) / "evaluation" / f"step-{step:06d}"


def training_scores(records: Path, rewards, synthetic_share: float) -> dict[str, dict[str, float]]:
    """Return reward name -> mean and std of the scores that training sees.

    Args:
      records: the folder with `stats.json`.
      rewards: those asked for.
      synthetic_share: share of training steps that use synthetic captions and their scores.

    Raises:
      FileNotFoundError: there is no `stats.json`; the annotate stage writes it.
    """
    path = Path(records) / "stats.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; the annotate stage writes it (--stage=annotate)."
        )
    stats = json.loads(path.read_bytes())
    out = {}
    for reward in rewards:
        parts, weights = [], []
        for kind, share in (
            ("captions", 1 - synthetic_share),
            ("synthetic_captions", synthetic_share),
        ):
            part = stats[kind]["rewards"][reward.identity]
            if part["count"] and share:
                parts.append(part)
                weights.append(share)
        if not parts:  # training takes its own caption where there is no synthetic one
            parts, weights = [stats["captions"]["rewards"][reward.identity]], [1.0]
        if not parts[0]["count"]:
            raise ValueError(f"{path} has no score of {reward.identity}: leave that reward out.")
        means, stds = (np.array([p[key] for p in parts]) for key in ("mean", "std"))
        mean = float(np.average(means, weights=weights))
        spread = np.average(stds**2 + (means - mean) ** 2, weights=weights)
        out[reward.name] = {"mean": mean, "std": float(np.sqrt(spread))}
    return out


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add an entry to the list in a JSON file, in one atomic exchange of the file.

    Raises:
      ValueError: the file holds something else than such a list.
    """
    entries = []
    if path.exists():
        try:
            entries = json.loads(path.read_bytes())
            kept = [
                e
                for e in entries
                if (e["step"], e["settings"]) != (entry["step"], entry["settings"])
            ]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} must be a list of evaluations; it is damaged ({error}). Move it away."
            ) from error
        entries = kept
    write_atomic(path, to_json([*entries, entry]))


if __name__ == "__main__":
    raise SystemExit("This is a stage of python -m miro_jax.main: see its --help.")
