"""From the parts of a piece to its shard: merged, written, published once.

A piece is done if and only if its shard is published; then its parts go. A worker that was slower
finds it done and leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from miro_jax.annotate import parts
from miro_jax.annotate.compute import ENDS
from miro_jax.annotate.models import Group
from miro_jax.annotate.parts import Part, Usable
from miro_jax.data.records import shards
from miro_jax.data.records.record import Record
from miro_jax.data.storage import Damaged, Folder


def shard_name(piece: int) -> str:
    """Return the name of a piece's shard."""
    return f"shard-{piece:05d}{shards.SHARD_SUFFIX}"


def is_done(folder: Folder, piece: int) -> bool:
    """Tell whether a piece is published."""
    return shards.is_published(folder, shard_name(piece))


def discard_orphan(folder: Folder, piece: int) -> None:
    """Delete a sidecar whose shard somebody deleted: it would be taken for that of the next one.

    To be called before work on the piece begins, when no other worker can be about to end it.
    """
    sidecar = shard_name(piece) + shards.SIDECAR_ENDING
    # In this order, since writers make the sidecar last.
    if folder.exists(sidecar) and not folder.exists(shard_name(piece)):
        folder.remove(sidecar)


class SourceChanged(OSError):
    """A piece of the source is not any more what it was when its annotation began."""


class _SpoiledPart(Exception):
    """A part is damaged. name: of its file."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


def discard_changed(folder: Folder, piece: int, piece_id: str) -> SourceChanged:
    """Return the error that says so, and delete what was made of the piece so far."""
    folder.remove(parts.place(piece))
    return SourceChanged(
        f"{piece_id} changed while it was annotated; nothing of it is published. Bring it back as "
        "it was and run again, or annotate the source as it is now into another folder."
    )


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What is needed to publish pieces.

    folder: of the records. groups: all of them. rewards: names, in the order of the record.
    batch_size: of the parts.
    """

    folder: Folder
    groups: Sequence[Group]
    rewards: Sequence[str]
    batch_size: int

    def publish(self, piece: int, piece_id: str) -> bool:
        """Publish a piece whose parts are all there.

        Returns:
            False if parts are missing: other groups have not run over it yet, or a part was
            damaged, as by a power cut, and is gone now.

        Raises:
            SourceChanged: the groups saw different samples.
            OSError: the files cannot be written.
        """
        try:
            if not is_done(self.folder, piece):
                if not all(self.is_whole(piece, group.name) for group in self.groups):
                    return False
                if spoiled := self._write(piece, piece_id):
                    self.folder.remove(spoiled)
                    return False
        except SourceChanged:
            raise
        except OSError:
            if not is_done(self.folder, piece):  # another worker published it and cleaned up
                raise
        self.folder.remove(parts.place(piece))
        return True

    def is_whole(self, piece: int, group: str) -> bool:
        """Tell whether a group's parts reach to the end of the piece, and its models are known."""
        if not self.folder.exists(parts.models_name(group)):
            return False
        starts = _starts(self.folder, piece, group, self.batch_size)
        if starts != list(range(0, len(starts) * self.batch_size, self.batch_size)) or not starts:
            return False
        name = parts.part_name(piece, group, starts[-1], self.batch_size)
        found = parts.load_part(self.folder, name)
        return found is not None and found.last

    def batch_sizes(self, piece: int, group: str) -> set[int]:
        """Return in batches of which sizes there are parts of a group."""
        return {size for name, _, size in parts.list_parts(self.folder, piece) if name == group}

    def _write(self, piece: int, piece_id: str) -> str | None:
        """Write shard, scores and sidecar; return the name of a damaged part in their way."""
        facts = {"piece": piece_id, "num_samples": 0, "failures": []}
        facts["models"] = {
            group.name: self.folder.read_json(parts.models_name(group.name))
            for group in self.groups
        }
        found = self._records_of(piece, piece_id, facts)
        try:
            shards.write_shard(self.folder, shard_name(piece), found, facts, parts.place(piece))
        except _SpoiledPart as error:
            return error.name
        return None

    def _records_of(self, piece: int, piece_id: str, facts: dict) -> Iterator[Record]:
        """Yield the record of each good sample; fill in the facts on the way."""
        start, last = 0, False
        while not last:
            found = {
                group.name: self._read(parts.part_name(piece, group.name, start, self.batch_size))
                for group in self.groups
            }
            self._require_same_samples(piece, piece_id, found)
            one = next(iter(found.values()))
            facts["num_samples"] += one.count
            facts["failures"] += merge_failures(found.values())
            yield from self._join(found)
            start, last = start + self.batch_size, one.last
        facts["failures"].sort(key=lambda failure: failure["position"])

    def _read(self, name: str) -> Part:
        try:
            return parts.decode_part(self.folder.read(name))
        except Damaged as error:
            raise _SpoiledPart(name) from error

    def _require_same_samples(self, piece: int, piece_id: str, found: dict[str, Part]) -> None:
        """Raise SourceChanged unless all groups saw the same; each may refuse some of it."""
        seen: dict[int, Usable] = {}
        for part in found.values():
            for sample in part.samples:
                if seen.setdefault(sample.position, sample) != sample:
                    raise discard_changed(self.folder, piece, piece_id)
        if len({(part.count, part.last) for part in found.values()}) > 1:
            raise discard_changed(self.folder, piece, piece_id)

    def _join(self, found: dict[str, Part]) -> Iterator[Record]:
        """Join the rows of all groups; a sample is used if every group could."""
        rows = {name: {p: r for r, p in enumerate(part.positions)} for name, part in found.items()}
        fields = {name: _fields(part) for name, part in found.items()}
        columns = _columns(self.groups, self.rewards)
        first = next(iter(found.values()))
        for s in first.samples:
            if not all(s.position in known for known in rows.values()):
                continue
            at = {name: known[s.position] for name, known in rows.items()}
            arrays: dict[str, Any] = {}
            for name, values in fields.items():
                arrays |= {field: value[at[name]] for field, value in values.items()}
            for kind in ("scores", "synthetic_scores"):
                arrays[kind] = np.array(
                    [fields[name][kind][at[name]][column] for name, column in columns], np.float32
                )
            if s.synthetic is None:
                arrays |= {"synthetic_scores": None, "synthetic_caption_tokens": None}
            yield Record(s.key, s.caption, s.synthetic, s.width, s.height, **arrays)


def merge_failures(found: Iterable[Part]) -> list[dict]:
    """Join the failures of one chunk in several groups; of one sample the first is kept."""
    merged: dict[int, dict] = {}
    for part in found:
        for failure in part.failures:
            merged.setdefault(failure["position"], failure)
    return list(merged.values())


def _columns(groups: Sequence[Group], rewards: Sequence[str]) -> list[tuple[str, int]]:
    """Return for each reward its group and its column there."""
    places = {}
    for group in groups:
        inside = [name for name in rewards if name in group.members]
        places |= {name: (group.name, column) for column, name in enumerate(inside)}
    return [places[name] for name in rewards]


def _fields(part: Part) -> dict[str, Any]:
    """Return the fields of records that a part has, each with one entry a row."""
    fields: dict[str, Any] = {
        name: part.arrays[name] for name in ("scores", "synthetic_scores") if name in part.arrays
    }
    for end in ENDS:
        names = (f"image_mean{end}", f"image_std{end}")
        fields |= {name: part.arrays[name] for name in names if name in part.arrays}
    for kind in ("", "synthetic_"):
        if f"{kind}lengths" in part.arrays:
            cuts = np.cumsum(part.arrays[f"{kind}lengths"])[:-1]
            fields[f"{kind}caption_tokens"] = np.split(part.arrays[f"{kind}tokens"], cuts)
    return fields


def _starts(folder: Folder, piece: int, group: str, batch_size: int) -> list[int]:
    """List where the parts of a group begin, sorted."""
    found = parts.list_parts(folder, piece)
    return sorted(start for name, start, size in found if (name, size) == (group, batch_size))
