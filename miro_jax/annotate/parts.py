"""Parts: what a group of models made of a chunk, kept until its piece is published.

    OUT/parts/00012/encode-00000512+64.part     piece 12, group `encode`, samples 512 to 575

A part is a digest and the safetensors form of arrays with one row for each usable sample. It is
renamed into place but not flushed to the disk, which would cost more than to make it again: one
that a power cut spoiled does not have its digest and counts as not there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import NamedTuple

import numpy as np

from miro_jax.data.safetensors import pack, unpack
from miro_jax.data.storage import Damaged, Folder

FOLDER = "parts"
_NAME = re.compile(r"(\w+)-(\d{8})\+(\d+)\.part")
_DIGEST_BYTES = 16


class Usable(NamedTuple):
    """A usable sample of a chunk.

    position: in its piece. key, caption: of it. synthetic: its synthetic caption, or None. width,
    height: pixels. digest: of the picture's file.
    """

    position: int
    key: str
    caption: str
    synthetic: str | None
    width: int
    height: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Part:
    """What is known of a chunk after one group of models.

    count: samples of the source in it. last: of its piece. samples: the usable ones. failures: of
    the others. arrays: see `compute`, rows as `samples`.
    """

    count: int
    last: bool
    samples: list[Usable]
    failures: list[dict]
    arrays: dict[str, np.ndarray]

    @property
    def positions(self) -> list[int]:
        """Positions of the usable samples."""
        return [sample.position for sample in self.samples]


def encode_part(part: Part) -> bytes:
    """Turn a part into bytes; equal parts give equal bytes."""
    facts = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name != "arrays"}
    wide_first = sorted(part.arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    body = pack(dict(wide_first), {"facts": json.dumps(facts, ensure_ascii=False)})
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def decode_part(data: bytes) -> Part:
    """Undo `encode_part`; arrays are read-only views.

    Raises:
        Damaged: the bytes are something else.
    """
    body = data[_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[:_DIGEST_BYTES]:
        raise Damaged("a part does not have its digest")
    arrays, metadata = unpack(body)
    facts = json.loads(metadata["facts"])
    facts["samples"] = [Usable(*sample) for sample in facts["samples"]]
    return Part(**facts, arrays=arrays)


def place(piece: int) -> str:
    """Return the folder of a piece's parts."""
    return f"{FOLDER}/{piece:05d}"


def models_name(group: str) -> str:
    """Return the name of the note of which models a group has."""
    return f"{FOLDER}/{group}.json"


def part_name(piece: int, group: str, start: int, batch_size: int) -> str:
    """Return the name of a part; another batch size has other parts."""
    return f"{place(piece)}/{group}-{start:08d}+{batch_size}.part"


def list_parts(folder: Folder, piece: int) -> list[tuple[str, int, int]]:
    """Return group, first sample and batch size of each part of a piece."""
    found = map(_NAME.fullmatch, folder.names(place(piece)))
    return [(match[1], int(match[2]), int(match[3])) for match in found if match]


def load_part(folder: Folder, name: str) -> Part | None:
    """Read a part; None if it is not there or damaged."""
    try:
        return decode_part(folder.read(name))
    except (FileNotFoundError, Damaged):
        return None


def save_part(folder: Folder, name: str, part: Part) -> None:
    """Write a part, whole or not at all."""
    folder.write(name, encode_part(part), durable=False)
