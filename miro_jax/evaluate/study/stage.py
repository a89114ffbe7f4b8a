"""The study stage: several variants and seeds trained and measured, then the paper's claims.

In `WORKDIR/study/`: `states-K`, the states of the runs of group K, which train side by side, behind
a digest; `measured.json` and `cells/`, what was measured of them, see `measured`; `study.json` and
`study.html`. A group's state is written after what was measured of it, so a study that is stopped
anywhere goes on from its last measurement and ends as if it had not been stopped. One that has
ended goes on, too, where groups are added behind the others: by more variants.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from miro_jax import annotate
from miro_jax.annotate.parts import seal, unseal
from miro_jax.cli import build, run_folder
from miro_jax.cli.exit import INTERRUPTED, note, say
from miro_jax.cli.progress import Progress
from miro_jax.data.records.batches import load_all
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.options import Options
from miro_jax.data.storage import Damaged, LocalFolder
from miro_jax.data.storage.lease import locked
from miro_jax.evaluate import base
from miro_jax.evaluate.study import judging, measure, measured, page, train
from miro_jax.evaluate.study.measured import Cell, Measured
from miro_jax.evaluate.study.settings import Run, Study, make_runs
from miro_jax.models import sharding
from miro_jax.models.compiling import cores
from miro_jax.rewards.names import short_name
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import of_parts
from miro_jax.train import components
from miro_jax.train.settings import Training

FOLDER, LOCK = "study", ".lock-study"
_UPDATES_AT_ONCE = 50  # between two looks at the losses and at the progress bar


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Train, measure and write the page; resumes where it was stopped.

    Raises:
      ValueError: `config.study` is missing or wrong, the folder holds another study, or several
        processes run it.
      FloatingPointError: the loss of a run is not finite.
      SystemExit: a signal stopped it, with 128 and the signal's number.
    """
    study, runs = check(config)
    if (count := jax.process_count()) > 1:
        raise ValueError(
            f"--stage=study is for one process, without config.mesh.distributed; got {count}."
        )
    if not run_folder.has_records(config, workdir):
        annotate.run(config, workdir)
    folder = LocalFolder(Path(workdir) / FOLDER)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.path, LOCK, f"the study {workdir}"):
        bench = Bench.open(config, workdir, study)
        _run_groups(bench, folder, _groups(runs, study.runs_at_once))
        written = page.write(folder.path, measured.load(folder.path))
    say("\n".join([f"{workdir}:", *(f"  {line}" for line in written.lines)]))
    say(f"report: {written.page}")


def check(config: ml_collections.ConfigDict) -> tuple[Study, list[Run]]:
    """Return the options and runs of a study; ValueError names the key."""
    if "study" not in config:
        raise ValueError("config.study is missing: use --config=configs/study.py or one like it.")
    study = Study(**config.study)
    if study.measure_steps[-1] != config.train.num_steps:
        raise ValueError(
            f"config.study.measure_steps must end with config.train.num_steps "
            f"{config.train.num_steps}; got {study.measure_steps}."
        )
    if config.train.microbatches != 1:
        raise ValueError(
            "config.train.microbatches must be 1 for a study, whose runs take a batch at once; got "
            f"{config.train.microbatches}. Set a smaller config.study.runs_at_once for memory."
        )
    names = [short_name(name) for name in config.data.train_rewards]
    if names != [short_name(name) for name in config.rewards]:
        raise ValueError(
            "config.data.train_rewards of a study must be config.rewards in their order, "
            f"{tuple(config.rewards)}; got {tuple(config.data.train_rewards)}. Which runs train "
            "with which of them is what config.study.variants says."
        )
    return study, make_runs(study, names, config.data.synthetic_caption_prob)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all runs of a study share.

    Attributes:
      config: of the study. study: its options. parts: of a run conditioned on all rewards.
      examples: all records, on the device. pipeline: without weights.
      sampling, judges: as of an evaluation. frame: rewards and prompts, without what is measured.
      chunk: see `train.make_chunk`. records: digest of their manifest.
    """

    config: ml_collections.ConfigDict
    study: Study
    parts: components.Components
    examples: dict[str, jax.Array]
    pipeline: MiroPipeline
    sampling: base.Sampling
    judges: base.Judges
    frame: Measured
    chunk: Any
    records: str

    @classmethod
    def open(cls, config: ml_collections.ConfigDict, workdir: Path, study: Study) -> "Bench":
        """Build everything, and read the records."""
        parts = components.build_components(config)
        components.check_batch(study.batch_size, "study.batch_size", parts.mesh)
        records = run_folder.records_folder(config, workdir)
        bins, labels = Bins.load(records), build.reward_labels(config)
        options = {
            "batch_size": config.train.batch_size,
            "seed": config.seed,
            "max_tokens": config.encoder.caption.max_tokens,
            "latent_shape": parts.image_encoder.latent_shape,
            "caption_width": parts.caption_encoder.width,
        }
        both = [
            load_all(records, bins, labels, Options(synthetic_caption_prob=share, **options))
            for share in (0.0, 1.0)
        ]
        trained = of_parts(parts, ())
        judges = base.Judges(build.load_rewards(config))
        sets = measure.make_prompts(study, config.sample.seed)
        return cls(
            config,
            study,
            parts,
            train.load_examples(*both),
            MiroPipeline(trained, study.batch_size),
            base.make_sampling(config),
            judges,
            Measured(
                tuple(judges.names),
                config.train.batch_size,
                *sets,
                conflict_reward=short_name(config.evaluate.conflict_reward),
            ),
            train.make_chunk(parts, Training(**config.train)),
            bins.manifest_digest,
        )


def _groups(runs: Sequence[Run], at_once: int) -> list[list[Run]]:
    """Cut the runs into groups that train side by side."""
    if at_once == 0:
        at_once = 1 if jax.default_backend() == "cpu" else len(runs)
    return [list(runs[i : i + at_once]) for i in range(0, len(runs), at_once)]


def _run_groups(bench: Bench, folder: LocalFolder, groups: Sequence[Sequence[Run]]) -> None:
    """Train and measure all groups; leave with a line on what is kept where a signal comes."""
    total, kept = sum(map(len, groups)) * bench.config.train.num_steps, 0
    judges = measure.judged_by(bench.judges)
    processes = min(judging.MOST, cores()) if len(groups[0]) > 1 else 0
    try:
        with (
            Progress("study", "updates", total) as progress,
            sharding.use_mesh(bench.parts.mesh),
            judging.judging(judges, processes) as submit,
        ):
            for number, group in enumerate(groups):
                before = kept
                for at in _run_group(bench, folder, f"{number}", group, progress, submit):
                    kept = before + at * len(group)
    except KeyboardInterrupt as stop:
        note(
            f"stopped by {str(stop) or 'SIGINT'}; {kept:,} of {total:,} updates and what was "
            "measured after them are kept; the same command resumes from there."
        )
        raise SystemExit(getattr(stop, "status", INTERRUPTED)) from stop


def _run_group(
    bench: Bench,
    folder: LocalFolder,
    name: str,
    runs: Sequence[Run],
    progress: Progress,
    submit: judging.Submit,
) -> Iterator[int]:
    """Train and measure a group from where it stands; yield the updates of each kept state."""
    facts = {
        "name": f"states-{name}",
        "config": bench.config.to_json(),
        "runs": [[run.variant, run.seed] for run in runs],
        "records": bench.records,
    }
    states, at = _restore(bench, folder, runs, facts)
    measured.save_frame(folder.path, bench.frame)  # not of a study that was refused
    progress.update(at * len(runs), f"group {name}")
    yield at
    stacked = train.stack_runs(runs)
    for step in bench.study.measure_steps:
        if step <= at:
            continue
        while at < step:
            count = min(step - at, _UPDATES_AT_ONCE)
            states, losses = bench.chunk(states, stacked, bench.examples, count)
            _check_finite(runs, np.asarray(losses), at + count)
            at += count
            progress.update(count * len(runs), f"group {name}")
        cells = _measure(bench, runs, states, step, submit)
        measured.save_cells(folder.path, f"group-{name}-{step:06d}", bench.frame, cells)
        folder.write(facts["name"], seal(train.to_arrays(states), facts))
        yield at


def _restore(
    bench: Bench, folder: LocalFolder, runs: Sequence[Run], facts: dict[str, Any]
) -> tuple[Any, int]:
    """Return the states of a group and the updates that they have seen."""
    name = facts["name"]
    if not folder.exists(name):
        return train.start(bench.parts, runs), 0
    try:
        arrays, found = unseal(folder.read(name), name)
        found, wanted = _of_a_group(found), _of_a_group(facts)
        if wrong := [key for key, value in wanted.items() if found.get(key) != value]:
            raise ValueError(f"the {wrong[0]} of the study was another")
        states = train.from_arrays(jax.eval_shape(lambda: train.start(bench.parts, runs)), arrays)
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder.path / name} must hold the states of this study: "
            f"{str(error).rstrip('.')}. Delete the folder to begin anew, or give another --workdir."
        ) from error
    return states, int(states.step[0])


def _of_a_group(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts without the list of all runs, which may grow: a group names its own."""
    config = json.loads(facts["config"])
    for key in ("variants", "seeds"):
        config["study"].pop(key, None)
    return facts | {"config": config}


def _check_finite(runs: Sequence[Run], losses: np.ndarray, step: int) -> None:
    for run, loss in zip(runs, losses, strict=True):
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss must be finite; {run.variant} with seed {run.seed} gave {loss} before "
                f"step {step}. Lower config.optim.learning_rate and begin anew."
            )


def _measure(
    bench: Bench, runs: Sequence[Run], states: Any, step: int, submit: judging.Submit
) -> list[Cell]:
    """Measure a group: draw one cell after the other, while those drawn before are judged."""
    is_last, drawn = step == bench.study.measure_steps[-1], []
    names, frame, sampling = bench.judges.names, bench.frame, bench.sampling
    facts = frame.prompts, names, frame.conflict_reward, sampling.seed
    for row, run in enumerate(runs):
        bench.pipeline.weights = train.take((states.ema_params, states.buffers), row)
        for request in measure.requests(bench.study, run, is_last, *facts):
            images, texts = measure.draw(bench.pipeline, run, request, sampling, names)
            drawn.append((run, request, submit(images, texts)))
    return [measure.to_cell(run, step, request, scores()) for run, request, scores in drawn]
