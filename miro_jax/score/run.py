"""Score pictures into a table: load, score part by part, merge.

    OUT                    one row a picture: key, caption, width, height, a column per reward
    OUT.failures.jsonl     key, cause and detail of each picture without a row
    OUT.summary.json       moments and percentiles, failures, speed, versions; written last
    OUT.histograms.svg     the distributions

A run that was killed goes on at the last part, see `parts`; the table it ends with is the same,
byte for byte, where batch size and devices are the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from miro_jax.annotate.loading import Loader
from miro_jax.annotate.tally import MIN_SAMPLES, Tally
from miro_jax.cli.progress import Progress
from miro_jax.data.sources import Tables
from miro_jax.data.sources.captions import TextIndex, index_captions
from miro_jax.data.storage import files
from miro_jax.models import sharding
from miro_jax.rewards import base, has_weights, load_rewards
from miro_jax.score import histograms, output, parts, summary
from miro_jax.score.inputs import Texts
from miro_jax.score.parts import Parts
from miro_jax.score.pictures import Scored, score_entries
from miro_jax.score.plan import Plan, finished, plan

# A part is published after so much of either: what a kill costs, and how many files there are.
PART_SECONDS = 30.0
PART_ENTRIES = 65536
SCALES = {False: "the model's own scale", True: "the scale of records"}


def score_images(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    rewards: Sequence[str | base.Reward],
    out: str | os.PathLike,
    **options,
) -> dict:
    """Score pictures into a table; return at once where that is done.

    Args:
        path, rewards, out, options: see `plan`.

    Returns:
        What OUT.summary.json says.

    Raises:
        ValueError, TypeError, OSError: a bad argument, see `plan`, or weights that cannot be read.
        RuntimeError: too many pictures failed, or all of them.
    """
    todo = plan(path, rewards, out, **options)
    done = finished(todo)
    return execute(prepare(todo)) if done is None else done


@dataclasses.dataclass(frozen=True)
class Job:
    """A plan with its rewards loaded; command: what the scores depend on, in full."""

    plan: Plan
    rewards: tuple[base.Reward, ...]
    captions: TextIndex | None
    command: dict


def prepare(todo: Plan) -> Job:
    """Index the captions and load the rewards.

    Raises:
        ValueError: captions contradict each other or are missing as a whole, weights do not fit,
            or the parts that are there belong to another command.
        OSError: a file of weights is missing.
    """
    index = None if todo.captions is None else index_captions(todo.captions)
    try:
        if index is not None and (clash := index.first_clash()):
            raise ValueError(
                f"{todo.captions.path} must give a picture one caption; it gives {clash[0]!r} two, "
                f"in lines {clash[1]} and {clash[2]}. Score the table itself to judge every row."
            )
        rewards = _load(todo)
        identities = [reward.identity for reward in rewards]
        if len(set(identities)) < len(identities):
            raise ValueError(f"rewards must differ from each other; got {', '.join(identities)}.")
        if not todo.source.may_have_captions:
            if names := [reward.name for reward in rewards if reward.needs_caption]:
                raise ValueError(
                    f"captions are needed for {', '.join(names)}; the table has no column of them. "
                    "Give --captions or --caption-column."
                )
        towers = [reward.tower for reward in rewards]
        command = todo.command | {"identities": identities, "towers": towers}
        parts.check_command(todo.parts_folder, command)
    except BaseException:
        if index is not None:
            index.close()
        raise
    return Job(todo, tuple(rewards), index, command)


def _load(todo: Plan) -> list[base.Reward]:
    names = [r for r in todo.rewards if isinstance(r, str)]
    mesh = None
    if any(map(has_weights, names)):
        mesh = sharding.local_mesh(*todo.mesh)
    loaded = load_rewards(names, weights=todo.weights, dtype=todo.dtype, mesh=mesh)
    known = dict(zip(names, loaded, strict=True))
    return [known[r] if isinstance(r, str) else r for r in todo.rewards]


def execute(job: Job) -> dict:
    """Score what is missing, merge the parts and return the summary; see `score_images`."""
    todo = job.plan
    identities = [reward.identity for reward in job.rewards]
    parts.write_command(todo.parts_folder, job.command)
    done = Parts(todo.parts_folder, identities)
    try:
        _score_missing(job, done)
    finally:
        if job.captions is not None:
            job.captions.close()
    return _finish(job, done, identities)


def _score_missing(job: Job, done: Parts) -> None:
    todo, tally = job.plan, _tally(job.plan)
    for part in done:
        tally.add(part.num_entries, part.failures)
    left = None if todo.limit is None else todo.limit - tally.samples
    tables = None if job.captions is None else Tables(captions=job.captions)
    texts = Texts(tables, any(reward.needs_caption for reward in job.rewards))
    entries = itertools.islice(todo.source.entries(done.after, texts), left)
    total = todo.source.count
    if todo.limit is not None:
        total = todo.limit if total is None else min(total, todo.limit)
    with (
        Loader(todo.num_threads) as loader,
        Progress("score", "images", total, tally.samples) as progress,
    ):
        batches = score_entries(entries, job.rewards, loader, todo.batch_size, todo.stored)
        try:
            for batch in _published(batches, done):
                tally.add(batch.num_entries, batch.failures)
                if total is None and batch.share:
                    progress.total = tally.samples / batch.share
                progress.update(batch.num_entries)
                tally.check(MIN_SAMPLES)
            progress.total = tally.samples  # what was guessed is known now
        except BaseException:
            loader.stop()
            raise
    if todo.limit is None and total is not None and tally.samples != total:
        raise RuntimeError(
            f"The input must not change while it is scored: it held {total} pictures at first and "
            f"{tally.samples} then. Delete {todo.parts_folder} and run again."
        )


def _published(batches: Iterator[Scored], done: Parts) -> Iterator[Scored]:
    """Hand batches on, and publish a part whenever enough has come together, and at the end."""
    waiting, start = [], time.monotonic()
    for batch in batches:
        waiting.append(batch)
        yield batch
        seconds = time.monotonic() - start
        if seconds >= PART_SECONDS or sum(b.num_entries for b in waiting) >= PART_ENTRIES:
            done.publish(waiting, seconds)
            waiting, start = [], time.monotonic()
    if waiting:
        done.publish(waiting, time.monotonic() - start)


def _tally(todo: Plan) -> Tally:
    remedy = (
        f"Mend the input and delete {todo.parts_folder}, or raise max_failure_rate and run again: "
        "what is done is kept."
    )
    return Tally(todo.max_failure_rate, remedy)


def _finish(job: Job, done: Parts, identities: Sequence[str]) -> dict:
    """Write what stands beside the table, the table, and the summary as the last of all."""
    todo = job.plan
    output.write_failures(todo.beside(".failures.jsonl"), done)
    facts = summary.summarize(done, identities)
    if not facts["num_scored"]:
        done.remove()  # the input must be mended, and is another one then
        causes = ", ".join(f"{cause} ({n})" for cause, n in facts["failures"].items())
        raise RuntimeError(
            f"At least one picture must get its scores; none of {facts['num_images']} did: "
            f"{causes or 'there were none'}. See {todo.beside('.failures.jsonl')}."
        )
    tally = _tally(todo)
    for part in done:
        tally.add(part.num_entries, part.failures)
    tally.check()
    picture = histograms.draw(facts["rewards"], SCALES[todo.stored])
    files.write_atomic(todo.beside(".histograms.svg"), picture.encode("utf-8"))
    output.write_scores(todo.out, parts.schema(identities), done.tables())
    for reward in job.rewards:
        facts["rewards"][reward.identity]["tower"] = reward.tower
    facts |= {
        "scale": SCALES[todo.stored],
        "left_out": todo.left_out,
        "command": job.command,
    }
    files.write_atomic(todo.summary_path, files.to_json(facts))
    done.remove()
    return facts


def outputs(todo: Plan) -> list[Path]:
    """Return the files of a complete run, the table first."""
    endings = (".summary.json", ".histograms.svg", ".failures.jsonl")
    return [todo.out, *(todo.beside(ending) for ending in endings)]
