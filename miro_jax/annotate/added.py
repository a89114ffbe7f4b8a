"""One more reward for a finished set: its source is read again, and only that reward scores it.

    OUT/base.json                          where the records of the set are; nothing there changes
    OUT/NAME.array_record.scores.npy       for each of its shards the scores of all rewards, the new
    OUT/NAME.array_record.json             one last, and the sidecar
    OUT/bins.json, manifest.json, ...      as of any set; the old levels stay what they were

OUT is a set like any other for training and evaluation. The engine is that of annotate: killed, it
resumes at the next batch, and any number of processes may share the pieces. Scores are joined with
records by key. A record that the new reward could not score has none, so its level is missing.

Letters: N records, R rewards of the set.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.annotate import origin, parts
from miro_jax.annotate.finish import COVERAGE_NAME, FAILURES_NAME, gather, write_levels, write_stats
from miro_jax.annotate.models import ENCODERS
from miro_jax.annotate.plan import Job, make_job, make_toolbox, sign
from miro_jax.annotate.publish import Rows, models_of, shard_name
from miro_jax.annotate.settings import ALL, Settings
from miro_jax.annotate.tally import Tally
from miro_jax.annotate.work import work_on
from miro_jax.data.json_file import dump_lines
from miro_jax.data.records import bins, shards
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.sources import Source
from miro_jax.data.storage import Damaged, Folder, LocalFolder, check_writable
from miro_jax.data.storage.files import to_json
from miro_jax.rewards import card_of

# What must be as it was when the records were made.
_OF_THE_SET = ("source", "pieces", "image_size")
_REMEDY = "Name the source that these records were made of: config.source.spec."
_OF_A_SHARD = ("count", "bytes", "sha256", "first_key", "last_key", "scores_sha256")


class AddedScores:
    """Pieces become scores and sidecars beside the shards of another folder; see `publish.Sink`.

    Args:
      base: folder of the finished set.
    """

    inside = ""
    needs_caption = takes_synthetic = True
    reads_every_image = False

    def __init__(self, base: Folder):
        self._base = base

    def is_done(self, folder: Folder, piece: int) -> bool:
        """See `Sink`."""
        ends = (shards.SCORES_ENDING, shards.SIDECAR_ENDING)
        return all(folder.exists(shard_name(piece) + end) for end in ends)

    def discard_spoiled(self, folder: Folder, piece: int) -> None:
        """Delete a sidecar that does not belong to its scores."""
        try:
            if self.is_done(folder, piece):
                shards.read_published(folder, shard_name(piece))
        except Damaged:
            folder.remove(shard_name(piece) + shards.SIDECAR_ENDING)

    def discard(self, folder: Folder, piece: int) -> None:
        """See `Sink`."""
        for ending in (shards.SIDECAR_ENDING, shards.SCORES_ENDING):
            folder.remove(shard_name(piece) + ending)

    def facts(self, folder: Folder, piece: int) -> Mapping[str, Any]:
        """Return what is the new reward's own; see `Sink`."""
        return shards.read_sidecar(folder, shard_name(piece))["added"][-1]

    def read(self, folder: Folder, piece: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the facts of the set's piece, the new ones in `added`; scores [N, 2, R + 1]."""
        return shards.read_published(folder, shard_name(piece))

    def write(self, folder: Folder, piece: int, rows: Rows, facts: dict[str, Any]) -> None:
        """Publish a piece: the scores of each record of the set's shard, in the shard's order."""
        name = shard_name(piece)
        before, scores = shards.read_published(self._base, name)
        home = shards.home_of(self._base)
        with folder.scratch(parts.folder_of(piece)) as scratch:
            written = shards.read_back(home.local(name, scratch), home / name)
        row_of = {key: row for row, key in enumerate(written.keys)}
        if written.sha256 != before["sha256"] or len(row_of) != len(scores):
            raise Damaged(f"{home / name} must hold {len(scores)} records of different keys.")
        added = np.full((len(scores), 2, 1), np.nan, np.float32)
        for sample, fields in rows:
            if sample.key in row_of:  # else another model of the set could not use it
                added[row_of[sample.key]] = fields["scores"], fields["synthetic_scores"]
        extra = {key: value for key, value in before.items() if key not in _OF_A_SHARD}
        del facts["seconds"]  # equal sets are equal byte by byte
        extra["added"] = [*before.get("added", []), facts]
        joined = dataclasses.replace(written, scores=list(np.concatenate([scores, added], axis=2)))
        if not folder.exists(shards.BASE_NAME):
            where = os.path.relpath(str(home), os.path.realpath(str(folder)))
            folder.write(shards.BASE_NAME, to_json({"records": where}))
        shards.write_beside(folder, name, joined, extra)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedJob(Job):
    """A job that adds a reward to the set in `base`."""

    base: Path


def plan(settings: Settings, base: Path) -> AddedJob:
    """Check all that can be checked before a device is touched.

    Args:
      settings: of the new reward; `source` is that of the set, open. base: folder of the set.

    Raises:
      ValueError: the set has this reward, or was made of another source, or the folder for the new
        one belongs to another request. OSError: something is missing, or cannot be written.
    """
    out, manifest, source = Path(settings.out), Manifest.load(base), settings.source
    if not isinstance(source, Source):
        raise TypeError(f"the source must be open; got {source!r}.")
    if out.resolve() == base.resolve():
        raise ValueError(f"The new scores need a folder of their own; got {out} of the set itself.")
    # The groups of a config are of all its rewards.
    settings = dataclasses.replace(settings, groups=(), stages=ALL)
    toolbox = make_toolbox(settings, settings.rewards, settings.image_encoder)
    groups = [group for group in toolbox.groups if not set(group.members) & set(ENCODERS)]
    toolbox = dataclasses.replace(toolbox, groups=tuple(groups))
    signed, labels = sign(source.pieces), toolbox.labels()
    (given,), (new,) = toolbox.rewards, labels["rewards"]
    # Of a published reward several versions may stand side by side; targets name others apart.
    is_published = isinstance(given, str) and card_of(given) is not None
    for name in manifest.rewards:
        short = name.partition("@")[0]
        if new in (name, short) or (not is_published and new.partition("@")[0] == short):
            raise ValueError(f"The records in {base} have scores of {name} already; got {new}.")
    request = {
        **labels,
        "source": source.facts,
        "pieces": signed,
        "rewards": [*manifest.rewards, *labels["rewards"]],
        "extends": manifest.extends or manifest.digest,
    }
    made = dataclasses.replace(origin.make_claim(LocalFolder(base)), remedy=_REMEDY)
    made.check({key: request[key] for key in _OF_THE_SET})
    folder = LocalFolder(out)
    claim = origin.make_claim(folder)
    more = {"folder": folder, "claim": claim, "sink": AddedScores(LocalFolder(base)), "base": base}
    job = make_job(AddedJob, settings, source, toolbox, request, signed, **more)
    origin.check(job.claim, job.request)
    if not origin.is_complete(folder):
        check_writable(out)
    return job


def execute(job: AddedJob) -> Manifest | None:
    """Do what is not done yet.

    Returns:
      The manifest of the complete set, or None while pieces are left to others.
    """
    if origin.is_complete(job.folder):
        return Manifest.load(str(job.folder))
    if not job.settings.merge:
        work_on(job, "annotate")
    return finish(job) if job.is_whole else None


def finish(job: AddedJob) -> Manifest:
    """Write what describes the set as a whole, the manifest last.

    Raises:
      RuntimeError: pieces are missing, no record has the new score, or too many failed.
      ValueError: pieces were made with different models. OSError: a file cannot be read or written.
    """
    job.require_all()
    folder, base = job.folder, Manifest.load(job.base)
    published = gather(job)
    new = [facts["added"][-1] for facts in published.facts]
    if any(models_of(one) != models_of(new[0]) for one in new):
        raise ValueError(f"All pieces must be made with the same models. Delete {folder}.")
    tally = Tally(job.settings.max_failure_rate, job.remedy)
    for one in new:
        tally.add(one["num_samples"], one["failures"])
    failures = dump_lines([f for one in new for f in one["failures"]], sort_keys=True)
    folder.write(FAILURES_NAME, failures)
    tally.check()
    scores = shards.join_scores(published.scores)
    if np.isnan(scores[..., -1]).all():
        raise RuntimeError(f"At least one record must get a score; see {folder / FAILURES_NAME}.")
    manifest = dataclasses.replace(base, configuration=_configuration(job, base, models_of(new[0])))
    covered = LocalFolder(job.base)
    if covered.exists(COVERAGE_NAME):  # sets of the first schema version have none
        folder.write(COVERAGE_NAME, covered.read(COVERAGE_NAME))
    write_stats(folder, manifest.rewards, scores, tally)
    write_levels(job, manifest, published, scores, _levels(job, manifest, scores))
    manifest.save(str(folder))
    origin.clean(folder)
    return manifest


def _configuration(job: AddedJob, base: Manifest, models: dict[str, Any]) -> dict[str, Any]:
    """Return that of the set, with the new reward."""
    (reward,), made = models["rewards"].values(), base.configuration
    more = {"rewards": [*base.rewards, reward["identity"]], "extends": job.request["extends"]}
    for key, of in (("towers", "tower"), ("synthetic_forms", "synthetic_form")):
        if key in made:
            more[key] = made[key] | {reward["identity"]: reward[of]}
    return made | more


def _levels(job: AddedJob, manifest: Manifest, scores: np.ndarray) -> bins.Bins:
    """Return the levels of the set as they are, and as many of the new reward."""
    old = bins.Bins.load(job.base)
    names = manifest.rewards[-1:]
    new = bins.fit_bins(scores[..., -1:], names, old.num_bins, old.strategy)
    return dataclasses.replace(
        old,
        names=manifest.rewards,
        edges=np.concatenate([old.edges, new.edges]),
        counts=(*old.counts, *new.counts),
        manifest_digest=manifest.digest,
    )
