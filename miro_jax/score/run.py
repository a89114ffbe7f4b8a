"""Score pictures into a table: load, score part by part, merge.

    OUT                    one row a picture: key, caption, width, height, a column per reward
    OUT.failures.jsonl     key, cause and detail of each picture without a row
    OUT.summary.json       moments and percentiles, failures, speed, versions; written last
    OUT.histograms.svg     the distributions

A run that was killed goes on at the last part, see `parts`; the table it ends with is the same,
byte for byte, where batch size and devices are the same.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from miro_jax import files, sharding
from miro_jax.progress import Progress
from miro_jax.rewards import base, has_weights, load_rewards
from miro_jax.score import histograms, output, parts, summary
from miro_jax.score.inputs import Entry
from miro_jax.score.parts import Parts
from miro_jax.score.pictures import Scored, score_entries
from miro_jax.score.plan import Plan, finished, plan
from miro_jax.sources.captions import TextIndex, index_captions

# A part is published after so much of either: what a kill costs, and how many files there are.
PART_SECONDS = 30.0
PART_ENTRIES = 65536
# Before so many pictures a rate says little, and a run should not end over its first bad ones.
_MIN_ENTRIES_FOR_RATE = 1000
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
    todo = job.plan
    count = _Count(todo)
    for part in done:
        count.add(part.num_entries, part.failures)
    left = None if todo.limit is None else todo.limit - count.entries
    entries = itertools.islice(todo.source.entries(done.after, job.captions), left)
    total = todo.source.count
    if todo.limit is not None:
        total = todo.limit if total is None else min(total, todo.limit)
    with (
        ThreadPoolExecutor(todo.num_threads) as pool,
        Progress("score", "images", total, count.entries) as progress,
    ):
        try:
            for batch in _published(_batches(job, entries, pool), done):
                count.add(batch.num_entries, batch.failures)
                if total is None and batch.share:
                    progress.total = count.entries / batch.share
                progress.update(batch.num_entries)
                count.check(_MIN_ENTRIES_FOR_RATE)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if todo.limit is None and total is not None and count.entries != total:
        raise RuntimeError(
            f"The input must not change while it is scored: it held {total} pictures at first and "
            f"{count.entries} then. Delete {todo.parts_folder} and run again."
        )


def _batches(job: Job, entries: Iterator[Entry], pool: ThreadPoolExecutor) -> Iterator[Scored]:
    return score_entries(entries, job.rewards, pool, job.plan.batch_size, job.plan.stored)


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


class _Count:
    """Counts entries and failures of a run, earlier parts included."""

    def __init__(self, todo: Plan):
        self._plan, self.entries, self.causes = todo, 0, collections.Counter()

    def add(self, num_entries: int, failures: list[dict[str, str]]) -> None:
        """Count a batch or a part."""
        self.entries += num_entries
        self.causes.update(failure["cause"] for failure in failures)

    def check(self, min_entries: int) -> None:
        """Raise RuntimeError where more failed than may, of at least `min_entries`."""
        rate = self.causes.total() / max(self.entries, 1)
        if self.entries >= min_entries and rate > self._plan.max_failure_rate:
            causes = ", ".join(f"{c} ({n})" for c, n in self.causes.most_common(5))
            raise RuntimeError(
                f"At most {self._plan.max_failure_rate:.2%} of the pictures may fail; "
                f"{self.causes.total()} of {self.entries} did: {causes}. Mend the input and delete "
                f"{self._plan.parts_folder}, or raise --max-failure-rate and run again: what is "
                "done is kept."
            )


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
    count = _Count(todo)
    for part in done:
        count.add(part.num_entries, part.failures)
    count.check(1)
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
