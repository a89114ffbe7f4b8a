"""Records: one annotated example as bytes.

A record is in the safetensors format: eight bytes of header length, a JSON header, then the arrays
back to back. Encoder and decoder are our own: the header's order is fixed, so equal records are
equal bytes, and decoding is a handful of views without a copy. Any safetensors library reads the
same bytes.

Letters: h w c image latents, n tokens of a caption, d caption width, R rewards.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping

import ml_dtypes
import numpy as np

# Version 2 has the optional image latents at 512 pixels; a record of version 1 is one without.
SCHEMA_VERSION = 2
KNOWN_VERSIONS = (1, 2)
_DTYPES = {
    "I64": np.dtype(np.int64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Name -> allowed dtypes and rank. Wider dtypes come first, so that every array starts on a multiple
# of its size.
_FIELDS = {
    "scores": (("F32",), 1),
    "synthetic_scores": (("F32",), 1),
    "image_mean": (("F16",), 3),
    "image_std": (("F16",), 3),
    "image_mean_512": (("F16",), 3),
    "image_std_512": (("F16",), 3),
    "caption_tokens": (("F16", "BF16"), 2),
    "synthetic_caption_tokens": (("F16", "BF16"), 2),
}
_SYNTHETIC_FIELDS = ("synthetic_scores", "synthetic_caption_tokens")
_FIELDS_OF_512 = ("image_mean_512", "image_std_512")


@dataclasses.dataclass(frozen=True)
class Record:
    """One example.

    key: name of the sample inside its piece of the source. caption, synthetic_caption: texts.
    width, height: pixels of the original picture.
    image_mean, image_std: [h, w, c] float16, the image encoder's posterior.
    image_mean_512, image_std_512: the same of the picture at 512 pixels a side, both or none.
    caption_tokens, synthetic_caption_tokens: [n, d] float16 or bfloat16, without padding.
    scores, synthetic_scores: [R] float32, as `Reward.stored` gives them, NaN is missing.
    The three synthetic fields are all None or all given.
    """

    key: str
    caption: str
    synthetic_caption: str | None
    width: int
    height: int
    image_mean: np.ndarray
    image_std: np.ndarray
    caption_tokens: np.ndarray
    synthetic_caption_tokens: np.ndarray | None
    scores: np.ndarray
    synthetic_scores: np.ndarray | None
    image_mean_512: np.ndarray | None = None
    image_std_512: np.ndarray | None = None


def encode_record(record: Record) -> bytes:
    """Turn a record into safetensors bytes; equal records give equal bytes.

    Raises:
        ValueError: a dtype, rank or length is not that of `Record`.
    """
    arrays = {name: getattr(record, name) for name in _FIELDS}
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items() if a is not None}
    _check_arrays(record.key, arrays, record.synthetic_caption)
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "key": record.key,
        "caption": record.caption,
        "width": str(record.width),
        "height": str(record.height),
    }
    if record.synthetic_caption is not None:
        metadata["synthetic_caption"] = record.synthetic_caption
    return pack(arrays, metadata)


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Turn named arrays of int64, float32, float16 or bfloat16 into safetensors bytes.

    Arrays stand in the order given; those of wider dtypes must come first to be aligned.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)  # arrays start on a multiple of eight bytes
    return b"".join([struct.pack("<Q", len(head)), head, *(a.tobytes() for a in arrays.values())])


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Undo `pack`; the arrays are read-only views of `data`.

    Raises:
        ValueError: the bytes are not what `pack` makes.
    """
    try:
        (head_size,) = struct.unpack_from("<Q", data)
        if 8 + head_size > len(data):
            raise ValueError(f"the header of {head_size} bytes overruns {len(data)} bytes")
        header = json.loads(data[8 : 8 + head_size])
        metadata = header.pop("__metadata__")
        arrays = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            dtype = _DTYPES[entry["dtype"]]
            count = (end - begin) // dtype.itemsize
            array = np.frombuffer(data, dtype, count, 8 + head_size + begin)
            arrays[name] = array.reshape(entry["shape"])
    except (struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays, metadata


def decode_record(data: bytes) -> Record:
    """Read a record; its arrays are read-only views of `data`.

    Raises:
        ValueError: the bytes are not a record of this schema version.
    """
    try:
        arrays, metadata = unpack(data)
        version = metadata["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Not a record: {error}") from error
    if version not in map(str, KNOWN_VERSIONS):
        raise ValueError(
            f"Records must have a schema version of {KNOWN_VERSIONS}; got {version}. "
            "Annotate again."
        )
    synthetic_caption = metadata.get("synthetic_caption")
    _check_arrays(metadata["key"], arrays, synthetic_caption)
    return Record(
        key=metadata["key"],
        caption=metadata["caption"],
        synthetic_caption=synthetic_caption,
        width=int(metadata["width"]),
        height=int(metadata["height"]),
        **{name: arrays.get(name) for name in _FIELDS},
    )


def _check_arrays(key: str, arrays: dict[str, np.ndarray], synthetic_caption: str | None) -> None:
    """Raise ValueError unless names, dtypes, ranks and lengths fit together."""
    for name, (dtypes, rank) in _FIELDS.items():
        if name not in arrays:
            if name not in _SYNTHETIC_FIELDS + _FIELDS_OF_512:
                raise ValueError(f"Record {key!r} lacks {name}.")
            continue
        array = arrays[name]
        if _DTYPE_NAMES.get(array.dtype) not in dtypes or array.ndim != rank:
            raise ValueError(
                f"Record {key!r}: {name} must have rank {rank} and a dtype of {dtypes}; "
                f"got shape {array.shape}, dtype {array.dtype}."
            )
    for end in ("", "_512"):
        mean, std = (arrays.get(f"image_{part}{end}") for part in ("mean", "std"))
        if getattr(mean, "shape", None) != getattr(std, "shape", None):
            raise ValueError(
                f"Record {key!r}: image_mean{end} {getattr(mean, 'shape', None)} and "
                f"image_std{end} {getattr(std, 'shape', None)} must have one shape."
            )
    given = {name in arrays for name in _SYNTHETIC_FIELDS} | {synthetic_caption is not None}
    if len(given) != 1:
        raise ValueError(
            f"Record {key!r}: synthetic_caption, its tokens and its scores come all or none."
        )
