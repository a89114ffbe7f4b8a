"""From the parts of a piece to what it becomes: merged, written, published once.

A piece is done if and only if it is published; then its parts go. A process that was slower finds
it done and leaves.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from miro_jax.annotate import parts
from miro_jax.annotate.models import Group
from miro_jax.annotate.parts import Part
from miro_jax.data.records import shards
from miro_jax.data.records.record import Record
from miro_jax.data.sources import Sample
from miro_jax.data.storage import Damaged, Folder

Rows = Iterator[tuple[Sample, dict[str, Any]]]  # a sample, its fields by name


class Sink(Protocol):
    """What pieces become.

    Attributes:
      inside: folder below the set's that published pieces are in.
      needs_caption: a sample without a usable caption is a failure.
      reads_every_image: the image of such a sample is decoded, too, and its damage is the cause.
      takes_synthetic: synthetic captions are read.
    """

    inside: str
    needs_caption: bool
    reads_every_image: bool
    takes_synthetic: bool

    def is_done(self, folder: Folder, piece: int) -> bool:
        """Return whether a piece is published."""
        ...

    def discard_spoiled(self, folder: Folder, piece: int) -> None:
        """Delete what is left of a piece that is published in part, or damaged.

        To be called before work on the piece begins, when no other process can be about to end it.
        """
        ...

    def discard(self, folder: Folder, piece: int) -> None:
        """Delete a published piece of a set in the making: its samples are tried again."""
        ...

    def facts(self, folder: Folder, piece: int) -> Mapping[str, Any]:
        """Return num_samples and failures of a published piece; see `Folder.once`."""
        ...

    def read(self, folder: Folder, piece: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the facts that `write` was given for a published piece, and its scores."""
        ...

    def write(self, folder: Folder, piece: int, rows: Rows, facts: dict[str, Any]) -> None:
        """Publish a piece; facts are complete only when all rows are read.

        Args:
          rows: of the usable samples, in order, with `scores` and `synthetic_scores` [R] among
            their fields.
          facts: piece (its id), num_samples, failures, models (by group), seconds.
        """
        ...


class Records:
    """Pieces become shards of records."""

    inside = ""
    needs_caption = takes_synthetic = True
    reads_every_image = False

    def is_done(self, folder: Folder, piece: int) -> bool:
        """See `Sink`."""
        return shards.is_published(folder, shard_name(piece))

    def discard_spoiled(self, folder: Folder, piece: int) -> None:
        """Delete a sidecar whose shard somebody deleted: it would be taken for the next one's."""
        sidecar = shard_name(piece) + shards.SIDECAR_ENDING
        # In this order, since writers make the sidecar last.
        if folder.exists(sidecar) and not folder.exists(shard_name(piece)):
            folder.remove(sidecar)

    def discard(self, folder: Folder, piece: int) -> None:
        """See `Sink`."""
        for ending in ("", shards.SIDECAR_ENDING, shards.SCORES_ENDING):  # see `discard_spoiled`
            folder.remove(shard_name(piece) + ending)

    def facts(self, folder: Folder, piece: int) -> Mapping[str, Any]:
        """See `Sink`."""
        return shards.read_sidecar(folder, shard_name(piece))

    def read(self, folder: Folder, piece: int) -> tuple[dict[str, Any], np.ndarray]:
        """See `Sink`; scores are [N, 2, R]."""
        return shards.read_published(folder, shard_name(piece))

    def write(self, folder: Folder, piece: int, rows: Rows, facts: dict[str, Any]) -> None:
        """See `Sink`."""

        def records() -> Iterator[Record]:
            for s, fields in rows:
                long = s.synthetic.get("long")
                if long is None:
                    fields |= {"synthetic_scores": None, "synthetic_caption_tokens": None}
                yield Record(s.key, s.caption, long, s.width, s.height, **fields)
            del facts["seconds"]  # equal sets are equal byte by byte

        shards.write_shard(folder, shard_name(piece), records(), facts, parts.folder_of(piece))


def models_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the models of a published piece, in whatever groups they were."""
    models: dict[str, Any] = {}
    for group in facts.get("models", {}).values():  # sets of the first schema version have none
        rewards = models.get("rewards", {}) | group["rewards"]
        models |= group | {"rewards": rewards}
    return models


def shard_name(piece: int) -> str:
    """Return the name of a piece's shard."""
    return f"shard-{piece:05d}{shards.SHARD_SUFFIX}"


class SourceChanged(OSError):
    """A piece of the source is no longer what it was when the work on it began."""


class _Spoiled(Exception):
    """A part was damaged, and is deleted."""


def discard_changed(folder: Folder, piece: int, piece_id: str) -> SourceChanged:
    """Return the error that says so, and delete what was made of the piece so far."""
    folder.remove(parts.folder_of(piece))
    return SourceChanged(
        f"{piece_id} changed while it was read; nothing of it is published. Bring it back as it "
        "was and run again, or give the source as it is now another --out."
    )


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What is needed to publish pieces.

    folder: where they go. groups: all of them. rewards: names, in the order of the scores.
    batch_size: of the parts. sink: what a piece becomes.
    """

    folder: Folder
    groups: Sequence[Group]
    rewards: Sequence[str]
    batch_size: int
    sink: Sink

    def publish(self, piece: int, piece_id: str) -> bool:
        """Publish a piece whose parts are complete.

        Returns:
          False if parts are missing: other groups have not run over it yet, or a part was damaged,
          as by a power cut, and is deleted now.

        Raises:
          SourceChanged: the groups saw different samples.
          OSError: the files cannot be written.
        """
        try:
            if not self.sink.is_done(self.folder, piece):
                if not all(self.is_whole(piece, group.name) for group in self.groups):
                    return False
                self._write(piece, piece_id)
        except _Spoiled:
            return False
        except SourceChanged:
            raise
        except OSError:
            if not self.sink.is_done(self.folder, piece):  # another process was quicker
                raise
        self.folder.remove(parts.folder_of(piece))
        return True

    def is_whole(self, piece: int, group: str) -> bool:
        """Return whether a group's parts reach the end of the piece, and its models are known."""
        sizes = parts.list_parts(self.folder, piece)
        starts = sorted(s for name, s, size in sizes if (name, size) == (group, self.batch_size))
        if starts != list(range(0, len(starts) * self.batch_size, self.batch_size)) or not starts:
            return False
        if not self.folder.exists(parts.models_name(group)):
            return False
        name = parts.part_name(piece, group, starts[-1], self.batch_size)
        part = parts.load_part(self.folder, name)
        return part is not None and part.last

    def batch_sizes(self, piece: int, group: str) -> set[int]:
        """Return the batch sizes of the parts of a group."""
        return {size for name, _, size in parts.list_parts(self.folder, piece) if name == group}

    def _write(self, piece: int, piece_id: str) -> None:
        models = {
            group.name: self.folder.read_json(parts.models_name(group.name), parts.MODELS)
            for group in self.groups
        }
        facts = {"piece": piece_id, "num_samples": 0, "failures": [], "models": models}
        facts["seconds"] = 0.0
        self.sink.write(self.folder, piece, self._rows(piece, piece_id, facts), facts)

    def _rows(self, piece: int, piece_id: str, facts: dict[str, Any]) -> Rows:
        """Yield each sample that every group could use; fill in the facts on the way."""
        start, last = 0, False
        while not last:
            some = {
                group.name: self._read(parts.part_name(piece, group.name, start, self.batch_size))
                for group in self.groups
            }
            self._require_same_samples(piece, piece_id, some)
            one = next(iter(some.values()))
            facts["num_samples"] += one.count
            facts["failures"] += merge_failures(some.values())
            facts["seconds"] += sum(part.seconds for part in some.values())
            yield from self._join(some)
            start, last = start + self.batch_size, one.last
        facts["failures"].sort(key=lambda failure: failure["position"])

    def _read(self, name: str) -> Part:
        try:
            return parts.decode_part(self.folder.read(name), name)
        except Damaged as error:
            self.folder.remove(name)
            raise _Spoiled from error

    def _require_same_samples(self, piece: int, piece_id: str, some: dict[str, Part]) -> None:
        """Raise SourceChanged unless all groups saw the same; each may refuse some of it."""
        seen: dict[int, Sample] = {}
        for part in some.values():
            for sample in part.samples:
                if seen.setdefault(sample.position, sample) != sample:
                    raise discard_changed(self.folder, piece, piece_id)
        if len({(part.count, part.last) for part in some.values()}) > 1:
            raise discard_changed(self.folder, piece, piece_id)

    def _join(self, some: dict[str, Part]) -> Rows:
        """Join the rows of all groups; a sample is used if every group could."""
        usable = set.intersection(*(set(part.positions) for part in some.values()))
        scores = np.full((len(usable), len(self.rewards)), np.nan, np.float32)
        fields: dict[str, Any] = {"scores": scores, "synthetic_scores": scores.copy()}
        for group in self.groups:
            part = some[group.name]
            rows = [row for row, position in enumerate(part.positions) if position in usable]
            columns = [c for c, name in enumerate(self.rewards) if name in group.members]
            for name, values in parts.take(part.fields, rows).items():
                if name in ("scores", "synthetic_scores"):
                    fields[name][:, columns] = values
                else:
                    fields[name] = values
        samples = [s for s in next(iter(some.values())).samples if s.position in usable]
        for row, sample in enumerate(samples):
            yield sample, {name: values[row] for name, values in fields.items()}


def merge_failures(some: Iterable[Part]) -> list[dict]:
    """Join the failures of one chunk in several groups; of one sample the first counts."""
    merged: dict[int, dict] = {}
    for part in some:
        for failure in part.failures:
            merged.setdefault(failure["position"], failure)
    return list(merged.values())
