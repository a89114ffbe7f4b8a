"""Score images into a table: the engine for its pieces, then one file of all rows.

    OUT                    one row an image: key, caption, width, height, a column per reward
    OUT.failures.jsonl     key, cause and detail of each image without a row
    OUT.summary.json       moments and percentiles, failures, speed, versions; written last
    OUT.histograms.svg     the distributions

A run that was killed resumes at the last batch; the table it ends with is the same, byte for byte,
where batch size and devices are the same.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.annotate.finish import describe_unfinished
from miro_jax.annotate.settings import ALL
from miro_jax.annotate.tally import Tally
from miro_jax.annotate.work import work_on
from miro_jax.cli.exit import say
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.claim import locked
from miro_jax.data.storage.files import to_json
from miro_jax.pretrained.weights.hub import OfflineError
from miro_jax.rewards import base
from miro_jax.score import histograms, summary, table
from miro_jax.score.plan import TableJob, plan
from miro_jax.score.settings import Settings

SCALES = {False: "the model's own scale", True: "the scale of records"}
_FAILURES, _HISTOGRAMS = ".failures.jsonl", ".histograms.svg"


def score_images(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    rewards: Sequence[str | base.Reward],
    out: str | os.PathLike,
    *,
    pieces: Any = ALL,
    **options: Any,
) -> dict[str, Any] | None:
    """Score images into a table; return at once where that is done.

    Args:
      path: a folder of images, a table of paths, tar files or sources; see `score.inputs`.
      rewards: names, and rewards of your own.
      out: .parquet, .csv or .jsonl file to write, or its URL in an object store.
      pieces: numbers of the pieces to do now, or text as for `--pieces`; None is all.
      **options: further fields of `Settings`.

    Returns:
      The content of OUT.summary.json, or None while pieces or groups are left to others.

    Raises:
      ValueError, TypeError, OSError: a bad argument, or weights that cannot be read.
      RuntimeError: too many images failed, or all of them.
    """
    pieces = ALL if pieces is None else pieces
    return execute(plan(Settings(path=path, rewards=rewards, out=out, pieces=pieces, **options)))


def make_job(settings: Settings) -> TableJob:
    """Check the settings of a command line; see `plan`."""
    job = plan(settings)
    for name, why in job.dropped.items():
        print(f"dropped by --commercial-only: {name}; {why}", file=sys.stderr)
    if len(job.pieces) < len(job.source.pieces):
        print(f"score: {job.why}", file=sys.stderr)
    return job


def run_job(job: TableJob) -> None:
    """Do what a command line requests, and print what was made."""
    try:
        facts = execute(job)
    except OfflineError as error:  # weights that a bad argument or a missing one names
        raise ValueError(str(error)) from error
    if facts is None:
        say(describe_unfinished(job))
        return
    say(summary.as_text(facts))
    endings = ("", ".summary.json", _HISTOGRAMS, _FAILURES)
    say("\n".join(job.out + ending for ending in endings))


def execute(job: TableJob) -> dict[str, Any] | None:
    """Do what is not done yet of a job; see `score_images`."""
    if job.is_complete:
        return job.home.read_json(job.claim.manifest)
    with _alone(job):
        if not job.settings.merge:
            work_on(job, "score")
        if job.is_whole or job.settings.merge:
            return finish(job)
    return None


@contextlib.contextmanager
def _alone(job: TableJob) -> Iterator[None]:
    """Keep a second process from doing the same pieces and groups."""
    if not isinstance(job.folder, LocalFolder):
        yield
        return
    numbers = [piece.number for piece in job.pieces] or [-1]
    groups = "+".join(group.name for group in job.groups)
    name = f"{groups}-{numbers[0]}-{numbers[-1]}-{len(job.pieces)}"
    path = job.folder.path / "workers" / name
    try:
        with locked(path):
            yield
    finally:  # a run that could not start leaves nothing
        for place in (path, path.parent, path.parent.parent):
            with contextlib.suppress(OSError):
                place.rmdir()


def finish(job: TableJob) -> dict[str, Any]:
    """Write what stands beside the table, the table, and the summary as the last of all.

    Raises:
      RuntimeError: pieces are missing, no image has scores, or too many failed.
      ValueError: pieces were made with different models.
      Damaged: a piece or the table does not read back.
    """
    job.require_all()
    numbers = [piece.number for piece in job.source.pieces]
    facts, columns, failures = _read_facts(job, numbers)
    lines = [
        json.dumps({key: one[key] for key in ("key", "cause", "detail")}, ensure_ascii=False)
        for one in failures
    ]
    job.home.write(job.name + _FAILURES, "".join(f"{line}\n" for line in lines).encode("utf-8"))
    report = summary.summarize(facts, columns, failures)
    if not report["num_scored"]:
        job.folder.remove("")  # the input must be mended, and is another one then
        causes = ", ".join(f"{cause} ({n})" for cause, n in report["failures"].items())
        raise RuntimeError(
            f"At least one image must get its scores; none of {report['num_images']} did: "
            f"{causes or 'there were none'}. See {job.out}{_FAILURES}."
        )
    tally = Tally(job.settings.max_failure_rate, job.remedy)
    tally.add(sum(one["num_samples"] for one in facts), failures)
    tally.check()
    drawing = histograms.draw(report["rewards"], SCALES[job.stored])
    job.home.write(job.name + _HISTOGRAMS, drawing.encode("utf-8"))
    identities = list(columns)
    _write_table(job, numbers, identities)
    towers = {r["identity"]: r["tower"] for r in table.rewards_of(facts[0]).values()}
    for identity in identities:
        report["rewards"][identity]["tower"] = towers[identity]
    made_with = {"identities": identities, "towers": [towers[name] for name in identities]}
    report |= {
        "scale": SCALES[job.stored],
        "left_out": job.dropped,
        "command": job.request | made_with,
    }
    job.claim.finish(to_json(report))
    job.folder.remove("")
    return json.loads(to_json(report))


def _read_facts(
    job: TableJob, numbers: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], list[dict]]:
    """Read all pieces: what is known of each, the scores by identity, the failures.

    Of texts only the causes are kept: those of a large table fill the memory.
    """
    facts, scores, failures = [], [], []
    for number in numbers:
        array, one = table.read_rows(job.folder, number)
        one = {key: one[key] for key in ("num_samples", "seconds", "models", "causes")} | {
            "piece": one["piece"],
            "failures": one["failures"],
        }
        if table.rewards_of(one) != table.rewards_of(facts[0] if facts else one):
            raise ValueError(
                f"All pieces must be made with the same models; {one['piece']} and "
                f"{facts[0]['piece']} were not. Delete {job.folder} and run again."
            )
        failures += one.pop("failures")
        facts.append(one)
        scores.append(array)
    known = table.rewards_of(facts[0])
    identities = [known[name]["identity"] for name in job.toolbox.names]
    return facts, dict(zip(identities, np.concatenate(scores).T, strict=True)), failures


def _write_table(job: TableJob, numbers: Sequence[int], identities: Sequence[str]) -> None:
    """Write the table, read it back, and publish it."""

    def pieces() -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        return (table.read_rows(job.folder, number) for number in numbers)

    with job.folder.scratch("") as scratch:
        path = Path(scratch) / job.name
        rows = (table.to_arrow(scores, one, identities) for scores, one in pieces())
        table.write_table(path, identities, rows)
        table.check_table(path, (key for _, one in pieces() for key in one["keys"]))
        job.home.put(job.name, path)
