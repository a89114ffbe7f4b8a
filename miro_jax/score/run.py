"""Score images into a table: the engine for its pieces, then one file of all rows.

    OUT                    one row an image: key, caption, width, height, a column per reward
    OUT.failures.jsonl     key, cause and detail of each image without a row, and of each caption
                           that cannot be read
    OUT.summary.json       moments and percentiles, failures, speed, versions; written last
    OUT.histograms.svg     the distributions

A run that was killed resumes at the last batch; the table it ends with is the same, byte for byte,
where batch size and devices are the same.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.annotate.finish import describe_unfinished, gather
from miro_jax.annotate.models import noted_name
from miro_jax.annotate.settings import pieces_of_call
from miro_jax.annotate.work import work_on
from miro_jax.cli.exit import note, say
from miro_jax.cli.flags import from_call
from miro_jax.data.json_file import dump_lines
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.ahead import map_ahead
from miro_jax.data.storage.files import to_json
from miro_jax.data.storage.lease import Lease, locked
from miro_jax.rewards import base
from miro_jax.score import summary, table
from miro_jax.score.inputs import names_of
from miro_jax.score.plan import TableJob, plan
from miro_jax.score.settings import Settings

SCALES = {False: "the model's own scale", True: "the scale of records"}
_WORKERS = "workers"  # folder of leases
_FAILURES, _HISTOGRAMS = ".failures.jsonl", ".histograms.svg"


def score_images(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    rewards: Sequence[str | base.Reward],
    out: str | os.PathLike,
    *,
    pieces: Any = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Score images into a table; return at once where that is done.

    Args:
      path: a folder of images, a table of paths, tar files or sources; see `score.inputs`.
      rewards: names, and rewards of your own.
      out: .parquet, .csv or .jsonl file to write, or its URL in an object store.
      pieces: numbers of the pieces to do now, or text as for `--pieces`; None is all, or
        with `worker_index`, `num_workers` or `distributed` those of this worker.
      **options: further fields of `Settings`.

    Returns:
      The content of OUT.summary.json, or None while pieces or groups are left to others.

    Raises:
      ValueError, TypeError, OSError: a bad argument, or weights that cannot be read.
      RuntimeError: too many images failed, or all of them.
    """
    given = {"path": path, "rewards": rewards, "out": out}
    given |= {"pieces": pieces_of_call(pieces, options)}
    return execute(plan(from_call(Settings, given | options)))


def make_job(settings: Settings) -> TableJob:
    """Check the settings of a command line; see `plan`."""
    job = plan(settings)
    for name, why in job.dropped.items():
        note(f"dropped by --commercial-only: {name}; {why}")
    if len(job.pieces) < len(job.source.pieces):
        note(f"score: {job.why}")
    return job


def run_job(job: TableJob) -> None:
    """Do what a command line requests, and print what was made."""
    if (facts := execute(job)) is None:
        say(describe_unfinished(job))
        return
    say(summary.as_text(facts))
    endings = ("", ".summary.json", _HISTOGRAMS, _FAILURES)
    say("\n".join(job.out + ending for ending in endings))


def execute(job: TableJob) -> dict[str, Any] | None:
    """Do what is not done yet of a job; see `score_images`."""
    if not job.is_complete:
        numbers = [piece.number for piece in job.pieces] or [-1]
        groups = "+".join(group.name for group in job.groups)
        lease = f"{_WORKERS}/{groups}-{numbers[0]}-{numbers[-1]}-{len(numbers)}"
        try:
            with locked(job.folder, lease, job.out) as held:
                _execute(job, held)
        finally:
            job.scorers.clear()
            _clean(job)
    if job.is_complete:
        return job.home.read_json(job.claim.manifest, summary.SCHEMA)
    return None


def _execute(job: TableJob, lease: Lease) -> None:
    if job.is_complete:  # by another process, which has just ended
        return
    if job.settings.one_by_one:  # a group that ends gives its memory to the next one
        job.scorers.clear()
    if not job.settings.merge:
        work_on(job, "score")
    if job.is_whole or job.settings.merge:
        lease.check()
        finish(job)


def _clean(job: TableJob) -> None:
    """Delete what only unfinished tables have; of a run that could not start, empty folders."""
    if job.is_complete:
        job.folder.remove("")
    elif isinstance(job.folder, LocalFolder):
        for path in (job.folder.path / _WORKERS, job.folder.path):
            with contextlib.suppress(OSError):
                path.rmdir()


def finish(job: TableJob) -> None:
    """Write what stands beside the table, the table, and the summary as the last of all.

    Raises:
      RuntimeError: pieces are missing, no image has scores, or too many failed.
      ValueError: pieces were made with different models.
      Damaged: a piece or the table does not read back.
    """
    job.require_all()
    published = gather(job)
    made = [published.models["rewards"][noted_name(name)] for name in job.toolbox.names]
    rewards = {reward["identity"]: reward for reward in made}
    reading = [name for name, reward in rewards.items() if reward["synthetic_form"] is not None]
    columns = dict(zip(rewards, np.concatenate(published.scores).T, strict=True))
    listed = [one for facts in published.facts for one in _listed(facts, bool(reading))]
    fields = ("key", "cause", "detail")
    failures = dump_lines({name: one[name] for name in fields} for one in listed)
    job.home.write(job.name + _FAILURES, failures)
    report = summary.summarize(published.facts, columns, published.failures, reading)
    if not report["num_scored"]:
        job.folder.remove("")  # the input must be mended, and is another one then
        causes = ", ".join(f"{cause} ({n})" for cause, n in report["failures"].items())
        advice = ""
        if "missing caption" in report["failures"]:
            advice = f" {summary.where_captions_stand(job.request['input'])}."
        raise RuntimeError(
            f"At least one image must get its scores; none of {report['num_images']} did: "
            f"{causes or 'there were none'}. See {job.out}{_FAILURES}.{advice}"
        )
    published.tally.check()
    drawing = summary.draw_histograms(report["rewards"], SCALES[job.stored])
    job.home.write(job.name + _HISTOGRAMS, drawing.encode("utf-8"))
    _write_table(job, list(rewards))
    report |= _describe_captions(job)
    towers = [reward["tower"] for reward in rewards.values()]
    for identity, tower in zip(rewards, towers, strict=True):
        report["rewards"][identity]["tower"] = tower
    made_with = {"identities": list(rewards), "towers": towers}
    if kernel := published.models.get("attention"):
        made_with["attention"] = kernel
    report |= {
        "scale": SCALES[job.stored],
        "left_out": job.dropped,
        "command": job.request | made_with,
    }
    job.claim.finish(to_json(report))


def _listed(facts: Mapping[str, Any], reading: bool) -> list[dict[str, Any]]:
    """Return the failures of a piece by position, and the captions that nobody can read.

    reading: some rewards need captions; otherwise these do not matter.
    """
    # Pieces that an older version finished have no list of captions.
    captions = facts.get("bad_captions", ()) if reading else ()
    return sorted([*facts["failures"], *captions], key=lambda one: one["position"])


def _describe_captions(job: TableJob) -> dict[str, Any]:
    """Return what the summary says of `--captions`; nothing where only archives could tell."""
    index = job.source.pieces[0].tables.captions
    if index is None or job.settings.limit is not None or next(names_of(job.source), None) is None:
        return {}
    unused, first = index.unused(names_of(job.source))
    return {"captions": {"without_image": unused, "first_without_image": first}}


def _write_table(job: TableJob, identities: Sequence[str]) -> None:
    """Write the table, read it back, and publish it."""

    def pieces() -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        return map_ahead(lambda p: table.read_rows(job.folder, p.number), job.source.pieces)

    raw = job.settings.raw_csv
    with job.folder.scratch("") as scratch:
        path = Path(scratch) / job.name
        rows = (table.to_arrow(scores, one, identities) for scores, one in pieces())
        table.write_table(path, identities, rows, raw)
        table.check_table(path, (key for _, one in pieces() for key in one["keys"]), raw)
        job.home.put(job.name, path)
