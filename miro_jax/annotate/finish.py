"""The end: what describes a set as a whole, from what stands beside its shards.

    failures.jsonl    piece, position, key, cause and detail of every sample that is no record
    coverage.json     how many of the source's samples became records, by cause and by piece
    stats.json        distributions and correlations of the scores
    bins.json         edges of the levels, see `bins`
    report.html       all of this for people, with the best and worst images
    manifest.json     what the set is; written last: with it the set is complete

One pass over sidecars and scores; no image latents are read, and no image but the few of the
report.

Letters: N records, R rewards.
"""

import collections
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from miro_jax.annotate import origin
from miro_jax.annotate.extremes import read_extremes
from miro_jax.annotate.models import noted_name
from miro_jax.annotate.plan import Job
from miro_jax.annotate.publish import models_of, shard_name
from miro_jax.annotate.tally import Tally
from miro_jax.cli.exit import note
from miro_jax.data.json_file import dump_lines
from miro_jax.data.printable import counted, some
from miro_jax.data.records import bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.records.shards import join_scores
from miro_jax.data.sources import Piece, causes
from miro_jax.data.storage import Damaged, Folder
from miro_jax.data.storage.ahead import map_ahead
from miro_jax.data.storage.files import to_json
from miro_jax.report import scored
from miro_jax.report.statistics import summarize as describe_scores

FAILURES_NAME, STATS_NAME, COVERAGE_NAME = "failures.jsonl", "stats.json", "coverage.json"
# What the content of a record depends on, besides the request.
_PACKAGES = ("numpy", "pillow", "simplejpeg", "array_record")


def merge(job: Job) -> Manifest:
    """Finish a set whose pieces are all published; any number of processes may do so at once.

    Raises:
      RuntimeError: pieces are missing, no sample is usable, or too many failed.
      ValueError: pieces were made with different models.
      OSError: a file is damaged, or cannot be read or written.
    """
    try:
        return _merge(job)
    except OSError:
        if not origin.has_all(job.folder):  # by another process, which also cleaned up
            raise
        return Manifest.load(str(job.folder))


def _merge(job: Job) -> Manifest:
    folder, pieces = job.folder, job.source.pieces
    job.require_all()
    published = gather(job)
    sidecars, tally, scores = published.facts, published.tally, join_scores(published.scores)
    lost = _lost_samples(pieces, sidecars)
    tally.lose(sum(lost.values()), describe_lost(lost))
    failures = dump_lines(published.failures, sort_keys=True)
    folder.write(FAILURES_NAME, failures)  # also where they are too many
    tally.check()
    if not len(scores):
        listed = ", ".join(f"{cause} ({n})" for cause, n in tally.causes.most_common(5))
        raise RuntimeError(
            f"At least one sample of {job.source.spec} must be usable; none was: "
            f"{listed or 'there are none'}. Mend it or give another source."
        )
    configuration = _configuration(job, published)
    names = configuration["rewards"]
    folder.write(COVERAGE_NAME, to_json(_coverage(sidecars, tally, lost, scores)))
    write_stats(folder, names, scores, tally)
    manifest = Manifest(
        configuration=configuration,
        shards={shard_name(p.number): s["count"] for p, s in zip(pieces, sidecars, strict=True)},
        num_samples=tally.samples,
        num_failures=tally.samples - len(scores),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )
    _fit_levels(job, manifest, published, scores)
    manifest.save(str(folder))
    origin.clean(folder)
    return manifest


def write_stats(folder: Folder, names: Sequence[str], scores: np.ndarray, tally: Tally) -> None:
    """Write stats.json: distributions and correlations of scores [N, 2, R], failures by cause."""
    stats = {
        "captions": describe_scores(scores[:, 0], names),
        "synthetic_captions": describe_scores(scores[:, 1], names),
        "failures": dict(tally.causes),
    }
    folder.write(STATS_NAME, to_json(stats))


def _configuration(job: Job, published: "Published") -> dict[str, Any]:
    """Return the request with the identities of the models that were used."""
    facts = published.models
    rewards = [facts["rewards"][noted_name(name)] for name in job.toolbox.names]
    facts = facts | {
        "rewards": [reward["identity"] for reward in rewards],
        "towers": {reward["identity"]: reward["tower"] for reward in rewards},
        "synthetic_forms": {r["identity"]: r["synthetic_form"] for r in rewards},
    }
    return job.request | facts


def finished(job: Job) -> Manifest:
    """Check a complete set; fit its levels anew if others are requested than it has.

    Raises:
      OSError: a file is missing or damaged.
    """
    folder, manifest = job.folder, Manifest.load(str(job.folder))
    job.toolbox.check_width(manifest.configuration)
    if manifest.schema_version > 1:  # the first one does not name weights
        job.toolbox.check_weights(manifest.configuration)
    published = gather(job)
    try:
        fitted = bins.Bins.from_bytes(folder.read(bins.BINS_NAME))
        present = (fitted.num_bins, fitted.strategy, fitted.manifest_digest)
    except (FileNotFoundError, ValueError):  # it is made of the scores, again
        present = None
    wanted = (job.settings.num_bins, job.settings.bins_strategy, manifest.digest)
    if present != wanted:
        before = "none" if present is None else f"{present[0]} ({present[1]})"
        note(f"levels are fitted anew: {before} before, {wanted[0]} ({wanted[1]}) now")
        _fit_levels(job, manifest, published, join_scores(published.scores))
    return manifest


def _fit_levels(job: Job, manifest: Manifest, published: "Published", scores: np.ndarray) -> None:
    """Fit the levels over own and synthetic captions together; see `write_levels`."""
    num_bins, strategy = job.settings.num_bins, job.settings.bins_strategy
    fitted = bins.fit_bins(scores, manifest.rewards, num_bins, strategy, manifest.digest)
    write_levels(job, manifest, published, scores, fitted)


def write_levels(
    job: Job, manifest: Manifest, published: "Published", scores: np.ndarray, fitted: bins.Bins
) -> None:
    """Write the page of a set and its bins; scores are [N, 2, R]."""
    folder, names = job.folder, manifest.rewards
    if folder.exists(COVERAGE_NAME):  # sets of the first schema version have none
        covered, stats = map(folder.read_json, (COVERAGE_NAME, STATS_NAME))
        failures, sidecars = published.failures, published.facts
        best, worst, searched = read_extremes(names, scores[:, 0], job.source.pieces, sidecars)
        page = scored.Scored(
            manifest, fitted, stats, covered, scores, failures, best, worst, searched
        )
        folder.write(scored.FILE, scored.render(page))
    folder.write(bins.BINS_NAME, fitted.to_bytes())  # after the page, which is thereby its own


@dataclasses.dataclass(frozen=True)
class Published:
    """All pieces of a job, published.

    facts, scores: of each, see `Sink.read`. failures: of all. models: that made them, see
    `models_of`. tally: of all samples.
    """

    facts: list[dict[str, Any]]
    scores: list[np.ndarray]
    failures: list[dict]
    models: dict[str, Any]
    tally: Tally


def gather(job: Job) -> Published:
    """Read what is known of all pieces of a job, and their scores.

    Raises:
      FileNotFoundError, Damaged: a piece is missing or damaged.
      ValueError: pieces were made with different models.
    """
    folder = job.listed()
    pieces = list(map_ahead(lambda piece: job.sink.read(folder, piece.number), job.source.pieces))
    facts = [one for one, _ in pieces]
    failures: list[dict] = []
    tally, models = Tally(job.settings.max_failure_rate, job.remedy), models_of(facts[0])
    for one in facts:
        if models_of(one) != models:
            raise ValueError(
                f"All pieces must be made with the same models; {one['piece']} and "
                f"{facts[0]['piece']} were not. Delete what one of them became in {job.folder} "
                "and run again."
            )
        tally.add(one["num_samples"], one["failures"])
        failures += one["failures"]
    for one, scores in pieces:
        _require_every_sample(job, one, len(scores))
    return Published(facts, [scores for _, scores in pieces], failures, models, tally)


def _require_every_sample(job: Job, facts: Mapping[str, Any], rows: int) -> None:
    """Raise Damaged unless each sample of a piece has a row or is a failure, and one of them."""
    if "models" not in facts:  # of the first schema version, which numbers no failures
        return
    failed = {f["position"] for f in facts["failures"] if f["cause"] not in causes.OF_A_PIECE}
    if rows + len(failed) != facts["num_samples"]:
        raise Damaged(
            f"{facts['piece']} has {facts['num_samples']} samples; {job.folder} holds {rows} rows "
            f"and {len(failed)} failures of it. Delete what it became and run again."
        )


def _lost_samples(pieces: Sequence[Piece], sidecars: Sequence[Mapping]) -> dict[str, int]:
    """Estimate what damage of files has cost: piece -> samples that it lacks.

    Of the number it is known to have, else of that of an undamaged one, the median.
    """
    damaged = [
        any(failure["cause"] in causes.OF_A_PIECE for failure in sidecar["failures"])
        for sidecar in sidecars
    ]
    sound = [s["num_samples"] for s, bad in zip(sidecars, damaged, strict=True) if not bad]
    usual = statistics.median_low(sound) if sound else 0
    return {
        sidecar["piece"]: max(0, (piece.count or usual) - sidecar["num_samples"])
        for piece, sidecar, bad in zip(pieces, sidecars, damaged, strict=True)
        if bad
    }


def _coverage(
    sidecars: Sequence[Mapping], tally: Tally, lost: Mapping[str, int], scores: np.ndarray
) -> dict[str, Any]:
    """Return the content of coverage.json: share is that of all samples, lost ones included."""
    return {
        "samples": tally.samples,
        "records": len(scores),
        "share": len(scores) / max(tally.samples + sum(lost.values()), 1),
        "records_with_synthetic_caption": int((~np.isnan(scores[:, 1])).any(axis=1).sum()),
        "causes": dict(tally.causes.most_common()),
        "lost_about": sum(lost.values()),
        "damaged_pieces": dict(lost),
        "pieces": {
            sidecar["piece"]: {
                "samples": sidecar["num_samples"],
                "records": sidecar["count"],
                "causes": dict(collections.Counter(f["cause"] for f in sidecar["failures"])),
            }
            for sidecar in sidecars
        },
    }


def describe_lost(lost: Mapping[str, int]) -> str:
    """Describe what damage has cost; nothing where there is none."""
    if not lost:
        return ""
    worst = sorted(lost, key=lambda piece: -lost[piece])
    noun = "damaged piece lacks" if len(lost) == 1 else "damaged pieces lack"
    return f"{len(lost):,} {noun} about {counted(sum(lost.values()), 'sample')}, {some(worst)}"


def summarize(job: Job, manifest: Manifest | None, was_complete: bool = False) -> str:
    """Return in a line what a run has made, or what is left to do.

    Args:
      manifest: of a complete set. was_complete: when the run began.
    """
    if manifest is None:
        return describe_unfinished(job)
    lost = {}
    if job.folder.exists(COVERAGE_NAME):  # sets of the first schema version have none
        lost = job.folder.read_json(COVERAGE_NAME, {"damaged_pieces": {str: int}})["damaged_pieces"]
    text = f", {describe_lost(lost)}" if lost else ""
    return (
        f"{counted(manifest.num_records, 'record')}, "
        f"{counted(manifest.num_failures, 'failure')}{text}"
        f"{', complete already' if was_complete else ''}: {job.folder}"
    )


def describe_unfinished(job: Job) -> str:
    """Return in a line what is published, and what pieces wait for."""
    waiting = job.missing_pieces(job.pieces)
    mine, everyone = len(job.pieces), len(job.source.pieces)
    done = f"published: all {mine} {'pieces' if mine == everyone else 'pieces of this worker'}"
    if waiting:
        stages = []
        for group in job.toolbox.groups:
            if not job.assembly.is_whole(waiting[0], group.name):
                others = job.assembly.batch_sizes(waiting[0], group.name)
                others -= {job.settings.batch_size}
                made = f" (made in batches of {others.pop()}; all need the same)" if others else ""
                stages.append(group.name + made)
        done = f"published: {mine - len(waiting)} of {mine} pieces; the others wait for "
        done += f"the stages {', '.join(stages)}"
    when = f"when all {everyone} are, finish" if waiting or mine < everyone else "finish"
    return f"{done}; {when} with --merge, or without a choice of pieces and stages: {job.folder}"
