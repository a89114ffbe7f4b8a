"""The end: what describes a set as a whole, from what stands beside its shards.

    failures.jsonl    piece, position, key, cause and detail of every sample that is no record
    coverage.json     how many of the source's samples became records, by cause and by piece
    stats.json        distributions and correlations of the scores
    bins.json         edges of the levels, see `bins`
    report.html       all of this for people, with the best and worst pictures
    manifest.json     what the set is; written last: with it the set is complete

One pass over sidecars and scores; no image latents are read, and no picture but the few of the
report.

Letters: N records, R rewards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import numpy as np

from miro_jax.annotate import coverage, origin, parts
from miro_jax.annotate.extremes import read_extremes
from miro_jax.annotate.plan import Plan
from miro_jax.annotate.publish import is_done, shard_name
from miro_jax.annotate.tally import Tally
from miro_jax.data.records import bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.records.shards import join_scores, read_published
from miro_jax.data.sources import Piece
from miro_jax.data.storage.files import to_json
from miro_jax.report import scored
from miro_jax.report.statistics import summarize

FAILURES_NAME, STATS_NAME = "failures.jsonl", "stats.json"
# What the content of a record depends on, besides the configuration.
_PACKAGES = ("numpy", "pillow", "simplejpeg", "array_record")
_THREADS = 16  # reading small files of an object store is a matter of waiting


def merge(todo: Plan) -> Manifest:
    """Finish a set whose pieces are all published; any number of processes may do so at once.

    Raises:
        RuntimeError: pieces are missing, no sample is usable, or too many failed.
        ValueError: pieces were made with different models.
        OSError: a file is damaged, or cannot be read or written.
    """
    try:
        return _merge(todo)
    except OSError:
        if not origin.has_all(todo.folder):  # by another process, which also cleaned up
            raise
        return Manifest.load(str(todo.folder))


def _merge(todo: Plan) -> Manifest:
    folder = todo.folder
    numbers = [piece.number for piece in todo.source.pieces]
    with ThreadPoolExecutor(_THREADS) as pool:
        done = list(pool.map(lambda number: is_done(folder, number), numbers))
    _require_all(todo, [n for n, there in zip(numbers, done, strict=True) if not there])
    sidecars, scores = read_all(todo)
    failures = [failure for sidecar in sidecars for failure in sidecar["failures"]]
    tally = Tally(todo.max_failure_rate, todo.remedy)
    for sidecar in sidecars:
        tally.add(sidecar["num_samples"], sidecar["failures"])
    lost = coverage.lost_samples(todo.source.pieces, sidecars)
    tally.lose(sum(lost.values()), coverage.describe_lost(lost))
    lines = [json.dumps(f, sort_keys=True, ensure_ascii=False) + "\n" for f in failures]
    folder.write(FAILURES_NAME, "".join(lines).encode("utf-8"))  # also where they are too many
    tally.check()
    if not len(scores):
        causes = ", ".join(f"{cause} ({n})" for cause, n in tally.causes.most_common(5))
        raise RuntimeError(f"At least one sample must be usable; none was: {causes}.")
    configuration = _configuration(todo, sidecars)
    names = configuration["rewards"]
    folder.write(coverage.FILE, to_json(coverage.summarize(sidecars, tally, lost, scores)))
    stats = {
        "captions": summarize(scores[:, 0], names),
        "synthetic_captions": summarize(scores[:, 1], names),
        "failures": dict(tally.causes),
    }
    folder.write(STATS_NAME, to_json(stats))
    manifest = Manifest(
        configuration=configuration,
        shards={shard_name(n): s["count"] for n, s in zip(numbers, sidecars, strict=True)},
        num_samples=tally.samples,
        num_failures=tally.samples - len(scores),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )
    fit_levels(todo, manifest, sidecars, scores)
    manifest.save(str(folder))
    origin.clean(folder)
    return manifest


def _require_all(todo: Plan, missing: Sequence[int]) -> None:
    if missing:
        begun = [n for n in missing if todo.folder.names(parts.place(n))]
        listed = ",".join(map(str, missing[:20])) + (",..." if len(missing) > 20 else "")
        raise RuntimeError(
            f"All {len(todo.source.pieces)} pieces must be published; {len(missing)} are not "
            f"({len(begun)} of them are begun). Annotate them first: --pieces={listed}"
        )


def _configuration(todo: Plan, sidecars: Sequence[dict]) -> dict[str, Any]:
    """Return the plan's configuration with the identities of the models that were used."""
    facts = _models_of(sidecars[0])
    for sidecar in sidecars:
        if _models_of(sidecar) != facts:
            raise ValueError(
                f"All pieces must be made with the same models; {sidecar['piece']} and "
                f"{sidecars[0]['piece']} were not. Delete the shard of one of them in "
                f"{todo.folder} and annotate it again."
            )
    rewards = [facts["rewards"][name] for name in todo.toolbox.names]
    facts |= {
        "rewards": [reward["identity"] for reward in rewards],
        "towers": {reward["identity"]: reward["tower"] for reward in rewards},
        "synthetic_forms": {r["identity"]: r["synthetic_form"] for r in rewards},
    }
    return todo.configuration | facts


def _models_of(sidecar: Mapping) -> dict[str, Any]:
    """Return the facts of the models of a piece, in whatever groups they were."""
    facts: dict[str, Any] = {}
    for group in sidecar["models"].values():
        rewards = facts.get("rewards", {}) | group["rewards"]
        facts |= group | {"rewards": rewards}
    return facts


def finished(todo: Plan) -> Manifest:
    """Check a complete set; fit its levels anew if others are asked for than it has.

    Raises:
        OSError: a file is missing or damaged.
    """
    folder, manifest = todo.folder, Manifest.load(str(todo.folder))
    todo.toolbox.check_width(manifest.configuration)
    if manifest.schema_version > 1:  # the first one does not name weights
        todo.toolbox.check_weights(manifest.configuration)
    sidecars, scores = read_all(todo)
    try:
        present = bins.Bins.from_bytes(folder.read(bins.BINS_NAME))
        found = (present.num_bins, present.strategy, present.manifest_digest)
    except (FileNotFoundError, ValueError):  # it is made of the scores, again
        found = None
    wanted = (todo.num_bins, todo.bins_strategy, manifest.digest)
    if found != wanted:
        before = "none" if found is None else f"{found[0]} ({found[1]})"
        print(
            f"levels are fitted anew: {before} before, {wanted[0]} ({wanted[1]}) now",
            file=sys.stderr,
        )
        fit_levels(todo, manifest, sidecars, scores)
    return manifest


def fit_levels(
    todo: Plan, manifest: Manifest, sidecars: Sequence[dict], scores: np.ndarray
) -> None:
    """Fit the levels over own and synthetic captions together; write the page and the bins."""
    folder, names = todo.folder, manifest.rewards
    fitted = bins.fit_bins(scores, names, todo.num_bins, todo.bins_strategy, manifest.digest)
    if folder.exists(coverage.FILE):  # sets of the first schema version have none
        covered, stats = map(folder.read_json, (coverage.FILE, STATS_NAME))
        failures = [failure for sidecar in sidecars for failure in sidecar["failures"]]
        best, worst, searched = read_extremes(names, scores[:, 0], todo.source.pieces, sidecars)
        page = scored.Scored(
            manifest, fitted, stats, covered, scores, failures, best, worst, searched
        )
        folder.write(scored.FILE, scored.render(page))
    folder.write(bins.BINS_NAME, fitted.to_bytes())  # after the page, which is thereby its own


def read_all(todo: Plan) -> tuple[list[dict], np.ndarray]:
    """Read the sidecars of all pieces, and their scores [N, 2, R].

    Raises:
        FileNotFoundError, Damaged: see `shards.read_published`.
    """

    def read(piece: Piece) -> tuple[dict, np.ndarray]:
        return read_published(todo.folder, shard_name(piece.number))

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(read, todo.source.pieces))
    return [sidecar for sidecar, _ in found], join_scores([table for _, table in found])
