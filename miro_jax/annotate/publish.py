"""From the parts of a piece to its shard: merged, written, published once.

A piece is done if and only if its shard and sidecar are there; then its parts go. A worker that was
slower finds it done and leaves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from miro_jax import shards
from miro_jax.annotate import parts
from miro_jax.annotate.compute import ENDS
from miro_jax.annotate.models import Group
from miro_jax.annotate.parts import Part
from miro_jax.records import Record, encode_record
from miro_jax.storage import Folder


def shard_name(piece: int) -> str:
    """Return the name of a piece's shard."""
    return f"shard-{piece:05d}{shards.SHARD_SUFFIX}"


def is_done(folder: Folder, piece: int) -> bool:
    """Tell whether a piece is published."""
    name = shard_name(piece)
    return folder.exists(name + shards.SIDECAR_ENDING) and folder.exists(name)


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
            False if parts are missing: other groups have not run over it yet.

        Raises:
            OSError: the files cannot be written.
        """
        try:
            if not is_done(self.folder, piece):
                if not all(self.is_whole(piece, group.name) for group in self.groups):
                    return False
                self._write(piece, piece_id)
        except OSError:
            if not is_done(self.folder, piece):  # another worker published it and cleaned up
                raise
        self.folder.remove(parts.place(piece))
        return True

    def is_whole(self, piece: int, group: str) -> bool:
        """Tell whether a group's parts reach to the end of the piece."""
        starts = _starts(self.folder, piece, group, self.batch_size)
        if starts != list(range(0, len(starts) * self.batch_size, self.batch_size)) or not starts:
            return False
        name = parts.part_name(piece, group, starts[-1], self.batch_size)
        found = parts.load_part(self.folder, name)
        return found is not None and found.last

    def _write(self, piece: int, piece_id: str) -> None:
        facts = {"piece": piece_id, "num_samples": 0, "failures": []}
        facts["models"] = {group.name: self.models_of(group) for group in self.groups}
        entries = self._entries(piece, facts)
        shards.write_shard(self.folder, shard_name(piece), entries, facts, parts.place(piece))

    def models_of(self, group: Group) -> dict | None:
        """Return the facts of a group's models as a run that loaded them left them, or None."""
        name = f"{parts.FOLDER}/{group.name}.json"
        return json.loads(self.folder.read(name)) if self.folder.exists(name) else None

    def _entries(self, piece: int, facts: dict) -> Iterator[tuple[str, bytes]]:
        """Yield (key, encoded record) of each good sample; fill in the facts on the way."""
        start, last = 0, False
        while not last:
            found = {
                group.name: parts.decode_part(
                    self.folder.read(parts.part_name(piece, group.name, start, self.batch_size))
                )
                for group in self.groups
            }
            one = next(iter(found.values()))
            facts["num_samples"] += one.count
            facts["failures"] += merge_failures(found.values())
            yield from self._records(found)
            start, last = start + self.batch_size, one.last
        facts["failures"].sort(key=lambda failure: failure["position"])

    def _records(self, found: dict[str, Part]) -> Iterator[tuple[str, bytes]]:
        """Join the rows of all groups; a sample is used if every group could."""
        rows = {name: {p: r for r, p in enumerate(part.positions)} for name, part in found.items()}
        fields = {name: _fields(part) for name, part in found.items()}
        columns = _columns(self.groups, self.rewards)
        first = next(iter(found.values()))
        for position, key, caption, synthetic, width, height in first.samples:
            if not all(position in known for known in rows.values()):
                continue
            arrays: dict[str, Any] = {}
            for name, known in rows.items():
                arrays |= {field: value[known[position]] for field, value in fields[name].items()}
            for kind in ("scores", "synthetic_scores"):
                arrays[kind] = np.array(
                    [fields[name][kind][rows[name][position]][column] for name, column in columns],
                    np.float32,
                )
            if synthetic is None:
                arrays |= {"synthetic_scores": None, "synthetic_caption_tokens": None}
            record = Record(key, caption, synthetic, width, height, **arrays)
            yield key, encode_record(record)


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
    """List where the parts of a group begin."""
    ending = f"+{batch_size}.part"
    return [
        int(name.removeprefix(f"{group}-").removesuffix(ending))
        for name in folder.names(parts.place(piece))
        if name.startswith(f"{group}-") and name.endswith(ending)
    ]
