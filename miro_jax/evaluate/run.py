"""The evaluation stage: a trained network in, numbers, images and the report out.

`WORKDIR/evaluation.json` is a list with one entry for each evaluation: step, settings, prompts,
reward identities, what the network was trained on, its size, and the results of the evaluators by
name. An entry of the same step and settings is replaced; one of some evaluators takes the results
of the others from earlier entries, see `kept`. Images lie in `WORKDIR/evaluation/step-XXXXXX/`.
`report.html` shows the last entry.
"""

import contextlib
import functools
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from miro_jax import report, sample
from miro_jax.cli import build, run_folder
from miro_jax.cli.exit import is_out_of_memory, say
from miro_jax.cli.progress import Progress
from miro_jax.cli.stored_checkpoint import digest_of
from miro_jax.data.json_file import read_json
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest, require_rewards
from miro_jax.data.records.shards import read_scores
from miro_jax.data.storage import check_writable
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.data.storage.lease import locked
from miro_jax.evaluate import base, beside
from miro_jax.evaluate.kept import earlier_results
from miro_jax.evaluate.prompts import make_prompts
from miro_jax.evaluate.settings import Settings, choose, evaluator_of, trained_on_shapes, validate
from miro_jax.report.facts import EVALUATIONS, read_facts
from miro_jax.report.results import GenEval, Result
from miro_jax.report.sections import headline
from miro_jax.sample.draw import describe_pipeline
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import Trained, restore, use_all_devices, weights_name
from miro_jax.train import components, peers

LOCK = ".lock-evaluate"
log = logging.getLogger("miro_jax")
__all__ = ["run", "run_evaluators", "training_scores", "validate"]


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Check all sections of a config before a device is used; ValueError names the key."""
    for check in (components.validate, sample.validate, validate):
        check(config)


def validate_run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Check the evaluation of a run's folder before a device is used; ValueError names the key."""
    sample.validate(config)
    records = run_folder.records_folder(config, workdir)
    validate(config, records)
    require_rewards(Manifest.load(records), build.reward_labels(config))


def run_here(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Run on all devices of this machine, whatever the run was trained on; see `run`."""
    use_all_devices(config)
    try:
        run(config, workdir)
    except base.EvaluatorFailed as error:
        if error.__cause__ is not None and is_out_of_memory(error.__cause__):
            raise error.__cause__ from error
        raise


def run(config: ml_collections.ConfigDict, workdir: Path | str) -> None:
    """Evaluate the latest checkpoint of a run; write the report, print what stands at its top.

    Raises:
      FileNotFoundError: no checkpoint or no records. ValueError: they are not of this config.
      PermissionError: the folder cannot be written. BlockingIOError: another process evaluates it.
      EvaluatorFailed: an evaluator raised.
    """
    validate(config)
    with contextlib.ExitStack() as stack:
        if jax.process_count() > 1:
            stack.enter_context(peers.watched(config.mesh.heartbeat_seconds))
        if jax.process_index() == 0:
            check_writable(workdir)
            stack.enter_context(locked(workdir, LOCK, f"the evaluation of {workdir}"))
        _evaluate(config, Path(workdir))


def _evaluate(config: ml_collections.ConfigDict, workdir: Path) -> None:
    settings = Settings(**config.evaluate)
    records = run_folder.records_folder(config, workdir)
    manifest = Manifest.load(records)
    is_shapes = trained_on_shapes(config, records)
    names = choose(config, is_shapes)
    prompts = make_prompts(settings, is_shapes, records, config.sample.seed)
    rewards = build.load_rewards(config)
    identities = [reward.identity for reward in rewards]
    require_rewards(manifest, identities)
    names_of_rewards = [reward.name for reward in rewards]
    share = config.data.synthetic_caption_prob
    training = training_scores(read_scores(records), names_of_rewards, share)
    trained = restore(config, workdir)
    inputs = base.Inputs(
        settings,
        base.make_sampling(config),
        base.Judges(rewards, _levels_of_training(trained, records, identities)),
        prompts,
        config.sample.prompts,
        config.sample.images_per_prompt,
        training,
        workdir / "evaluation" / f"step-{trained.step:06d}",
    )
    begin = time.perf_counter()
    pipeline = MiroPipeline(trained, settings.batch_size)
    evaluators = {name: evaluator_of(name).build(inputs) for name in names}
    results = run_evaluators(evaluators, pipeline, trained.step, inputs.folder / "drawn")
    entry = {
        "step": trained.step,
        "checkpoint": digest_of(weights_name(trained)),
        "settings": {
            "evaluate": json.loads(config.evaluate.to_json()),
            "sample": json.loads(config.sample.to_json()),
            "weights": json.loads(config.weights.to_json()),
            "model": {key: config.model[key] for key in ("dtype", "attention")},
        },
        "shapes": is_shapes,
        "prompts": prompts.to_json(),
        "rewards": identities,
        "training": {"num_records": manifest.num_records, "rewards": training},
        "num_parameters": sum(x.size for x in jax.tree.leaves(pipeline.weights[0])),
        "seconds": time.perf_counter() - begin,
        "results": {name: result.to_json() for name, result in results.items()},
    }
    entry["results"] |= earlier_results(read_entries(workdir / EVALUATIONS), entry)
    if GenEval.evaluator in entry["results"]:
        other = beside.read(settings.beside, entry)
        entry |= {} if other is None else {"beside": other}
    if jax.process_index() == 0:
        append(workdir / EVALUATIONS, entry)
        path = report.write(workdir)
        say("\n".join([f"{workdir}, step {trained.step:,}:", *headline_lines(workdir)]))
        say(f"report: {path}")


def headline_lines(workdir: Path) -> list[str]:
    """Return the numbers at the top of the report as lines of text."""
    lines = []
    for tile in headline(read_facts(workdir)):
        line = f"  {tile.value} {tile.what}" + (f" ({tile.note})" if tile.note else "")
        lines.append(" ".join(["", *line.split()]))  # without typographic spaces
    return lines


def run_evaluators(
    evaluators: Mapping[str, base.Evaluator], pipeline: Any, step: int, drawn: Path | None = None
) -> dict[str, Result]:
    """Run each evaluator with progress on stderr; returns name -> its result.

    Args:
      drawn: folder for the images of an evaluation that is stopped, which the next call reads; by
        one process alone.

    Raises:
      EvaluatorFailed: one of them raised; names it and the step.
    """
    results: dict[str, Result] = {}
    total = sum(one.num_images(pipeline.reward_names) for one in evaluators.values())
    silent = jax.process_index() != 0
    with Progress("evaluate", "images", total, silent=silent) as progress:
        keep = drawn is not None and jax.process_count() == 1
        facts = describe_pipeline(pipeline) if keep else None
        remembering = base.Remembering(pipeline, drawn if keep else None, facts)
        for name, evaluator in evaluators.items():
            remembering.on_images = functools.partial(progress.update, where=name)
            with base.named_failure(name, step):
                results[name] = evaluator.run(remembering)
            if not (silent or sys.stderr.isatty()) and progress.done < total:
                print(progress.line(name), file=sys.stderr, flush=True)
    remembering.clear()
    return results


def _levels_of_training(trained: Trained, records: Path, identities: Sequence[str]) -> Bins:
    """Return the levels that the network was trained with.

    Raises:
      ValueError: they are of other rewards.
    """
    bins = trained.bins
    if bins is None:
        log.info("The checkpoint keeps no levels: those of %s are used", records)
        return Bins.load(records)
    if list(bins.names) != list(identities):
        raise ValueError(
            f"The network was trained with levels of {', '.join(bins.names)}; the config names "
            f"{', '.join(identities)}. Use the config and the weights of that run."
        )
    if bins.manifest_digest != Manifest.load(records).digest:
        log.warning("%s has changed since training: means of its scores are of now", records)
    return bins


def training_scores(
    scores: np.ndarray, names: Sequence[str], synthetic_share: float
) -> dict[str, dict[str, float]]:
    """Return reward name -> mean and std of the scores that training sees.

    A record with a synthetic caption counts by the share of steps that use it; one without always
    counts by its own caption.

    Args:
      scores: [N, 2, R] float32, own and synthetic captions, NaN is missing; see `read_scores`.
      names: [R], rewards.
      synthetic_share: share of training steps that use a synthetic caption where there is one.

    Raises:
      ValueError: a reward has no score.
    """
    has_synthetic = ~np.isnan(scores[:, 1]).all(axis=1)
    groups = (  # scores, and how often training uses each
        (scores[has_synthetic, 0], 1 - synthetic_share),
        (scores[has_synthetic, 1], synthetic_share),
        (scores[~has_synthetic, 0], 1.0),
    )
    out = {}
    for column, name in enumerate(names):
        used = [(group[:, column], weight) for group, weight in groups if weight]
        used = [(np.sort(s[~np.isnan(s)]), weight) for s, weight in used]
        used = [(s, weight * len(s) / len(scores)) for s, weight in used if len(s)]
        if not used:
            raise ValueError(f"The records have no score of {name}: remove it from config.rewards.")
        weights = [weight for _, weight in used]
        means = np.array([s.mean(dtype=np.float64) for s, _ in used])
        stds = np.array([s.std(dtype=np.float64) for s, _ in used])
        mean = np.average(means, weights=weights)
        std = np.sqrt(np.average(stds**2 + (means - mean) ** 2, weights=weights))
        out[name] = {"mean": float(mean), "std": float(std)}
    return out


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a JSON file of evaluations, none where it is missing.

    Raises:
      ValueError: the file holds something else than such a list.
    """
    if not path.exists():
        return []
    try:
        return read_json(path, [{"step": int, "settings": dict}])
    except ValueError as error:
        raise ValueError(
            f"{path} must be a list of evaluations; it is damaged ({error}) Move it away."
        ) from error


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry to the list in a JSON file, in one atomic exchange of the file; ValueError as
    `read_entries` raises it.
    """
    others = read_entries(path)
    same = entry["step"], entry["settings"]
    others = [other for other in others if (other["step"], other["settings"]) != same]
    write_atomic(path, to_json([*others, entry]))
