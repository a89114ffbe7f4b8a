"""Parts: what a group of models made of a batch, stored until its piece is published.

    OUT/parts/00012/encode-00000512+64.part     piece 12, group `encode`, samples 512 to 575

A part is a digest and the safetensors form of arrays with one row for each usable sample. It is
renamed into place but not flushed to the disk, which would cost more than to make it again: one
that a power cut spoiled, or that stands under the name of another, counts as missing.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.data.json_file import dump_json, parse_json
from miro_jax.data.safetensors import pack, unpack
from miro_jax.data.sources import Sample
from miro_jax.data.storage import Damaged, Folder

FOLDER = "parts"
# What is noted of the models of a group, see `models.Loaded.facts`.
MODELS = {"rewards": {str: {"identity": str, "tower": (str, None), "synthetic_form": (str, None)}}}
_NAME = re.compile(r"(\w+)-(\d{8})\+(\d+)\.part")
_DIGEST_BYTES = 16
_TOKENS = "caption_tokens"  # the one field whose rows differ in length
# Of the usable samples of a batch, a row for each: an array, or a list of arrays.
Fields = dict[str, np.ndarray | list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Part:
    """What is known of a batch after one group of models.

    count: samples of the source in it. last: of its piece. samples: the usable ones. failures: of
    the others. fields: see `compute`, rows as `samples`. name: of its file. seconds: that the batch
    took.
    """

    count: int
    last: bool
    samples: list[Sample]
    failures: list[dict]
    fields: Fields
    name: str = ""
    seconds: float = 0.0

    @property
    def positions(self) -> list[int]:
        """Positions of the usable samples."""
        return [sample.position for sample in self.samples]


def seal(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> bytes:
    """Return arrays and JSON values as bytes behind a digest of them."""
    wide_first = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    body = pack(dict(wide_first), {"facts": dump_json(facts)})
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def unseal(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Undo `seal`; arrays are read-only views.

    Args:
      name: of the file, which the facts must have, too; those of older parts have none.

    Raises:
      Damaged: the bytes are something else.
    """
    body = data[_DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[:_DIGEST_BYTES]:
        raise Damaged(f"{name} does not have its digest.")
    arrays, metadata = unpack(body)
    facts = parse_json(metadata["facts"], name, {"name?": str})
    if facts.get("name", name) != name:
        raise Damaged(f"{name} is the file {facts['name']}.")
    return arrays, facts


def encode_part(part: Part) -> bytes:
    """Turn a part into bytes; equal parts give equal bytes."""
    facts = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name != "fields"}
    facts["samples"] = [
        (s.position, s.key, s.caption, s.synthetic.get("long"))
        + (s.width, s.height, s.digest, *s.no_caption)
        for s in part.samples
    ]
    arrays: dict[str, np.ndarray] = {}
    for name, rows in part.fields.items():
        if isinstance(rows, np.ndarray):
            arrays[name] = rows
        elif rows:
            kind = name.removesuffix(_TOKENS)
            arrays[f"{kind}lengths"] = np.array([len(tokens) for tokens in rows], np.int64)
            arrays[f"{kind}tokens"] = np.concatenate(rows)
    return seal(arrays, facts)


def decode_part(data: bytes, name: str) -> Part:
    """Undo `encode_part`; see `unseal`. Of synthetic captions the long one is stored."""
    fields, facts = unseal(data, name)
    for kind in ("", "synthetic_"):
        if (lengths := fields.pop(f"{kind}lengths", None)) is not None:
            every = np.split(fields.pop(f"{kind}tokens"), np.cumsum(lengths)[:-1])
            fields[f"{kind}{_TOKENS}"] = every
    samples = []
    for position, key, caption, long, width, height, digest, *why in facts["samples"]:
        given = Sample(key, None, caption, {} if long is None else {"long": long}, {})
        decoded = {"position": position, "width": width, "height": height, "digest": digest}
        samples.append(dataclasses.replace(given, **decoded, no_caption=tuple(why) or ("", "")))
    return Part(**facts | {"samples": samples}, fields=fields)


def take(fields: Fields, rows: Sequence[int]) -> Fields:
    """Take some rows of fields."""
    return {
        name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]
        for name, values in fields.items()
    }


def folder_of(piece: int) -> str:
    """Return the folder of a piece's parts."""
    return f"{FOLDER}/{piece:05d}"


def models_name(group: str) -> str:
    """Return the name of the note of which models a group has; it holds an object of MODELS."""
    return f"{FOLDER}/{group}.json"


def part_name(piece: int, group: str, start: int, batch_size: int) -> str:
    """Return the name of a part; another batch size has other parts."""
    return f"{folder_of(piece)}/{group}-{start:08d}+{batch_size}.part"


def list_parts(folder: Folder, piece: int) -> list[tuple[str, int, int]]:
    """Return group, first sample and batch size of each part of a piece."""
    matches = map(_NAME.fullmatch, folder.names(folder_of(piece)))
    return [(match[1], int(match[2]), int(match[3])) for match in matches if match]


def load_part(folder: Folder, name: str) -> Part | None:
    """Read a part; None if it is missing or damaged."""
    return folder.intact(name, decode_part)


def save_part(folder: Folder, part: Part) -> None:
    """Write a part, whole or not at all."""
    folder.write(part.name, encode_part(part), durable=False)
