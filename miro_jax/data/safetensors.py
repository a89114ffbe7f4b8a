"""The safetensors format: header and arrays, in memory or in a file.

8 bytes with the header's length, little endian; a JSON header {key: {dtype, shape, data_offsets}},
texts below "__metadata__"; the numbers, little endian, in row-major order, without gaps.

Written here and not by the library of that name: its bytes differ from save to save, while equal
records must be equal bytes. Any safetensors library reads these bytes, and what one refuses is
refused here: overlaps, gaps, bytes behind the last array, a key that stands twice.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from miro_jax.data.json_file import check_fields, parse_json

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes; a longer one is damage, not a model
METADATA = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")


class Entry(NamedTuple):
    """Where an array lies. begin, end: bytes of the file or buffer."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def make_header(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return everything that comes before the numbers of arrays, which follow in this order.

    Args:
      arrays: anything with `dtype` and `shape`. Wider dtypes must come first to be aligned.
      metadata: texts; None writes no such section.
    """
    header: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
    offset = 0
    for key, array in arrays.items():
        dtype = np.dtype(array.dtype)
        end = offset + math.prod(array.shape) * dtype.itemsize
        header[key] = {
            "dtype": NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def header_length(head: bytes, size: int) -> int:
    """Return the length of the JSON header.

    Args:
      head: the first 8 bytes. size: bytes of the file or buffer.

    Raises:
      ValueError: there is no such header.
    """
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise ValueError("no safetensors, or cut short inside the header.")
    return length


def parse_header(text: bytes, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read a JSON header.

    Args:
      text: the header, without the 8 bytes before it. size: bytes of the file or buffer.

    Returns:
      (entries in the order of the header, metadata).

    Raises:
      ValueError: it is damaged, of an unknown dtype, or does not describe exactly `size` bytes.
    """
    try:
        if text[:1] != b"{":
            raise ValueError("an object must begin at once")
        header = parse_json(text.decode("utf-8"), "it", doubles=False)
        metadata = header.pop(METADATA, None)
        check_fields(metadata, ({str: str}, None), METADATA)
    except ValueError as error:
        raise ValueError(f"the header is damaged: {error}") from error
    entries = {key: _entry(key, entry, 8 + len(text)) for key, entry in header.items()}
    position = 8 + len(text)
    for key, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.end > size:
            raise ValueError(f"cut short inside {key}.")
        if entry.begin != position:
            raise ValueError(f"{key} has wrong offsets: it overlaps another or leaves a gap.")
        position = entry.end
    if position != size:
        raise ValueError(f"{size - position} bytes follow the last array.")
    return entries, metadata or {}


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Turn named arrays into bytes; equal arrays and texts give equal bytes."""
    return b"".join([make_header(arrays, metadata), *(a.tobytes() for a in arrays.values())])


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Undo `pack`; the arrays are read-only views of `data`.

    Raises:
      ValueError: the bytes are damaged.
    """
    length = header_length(data[:8], len(data))
    entries, metadata = parse_header(data[8 : 8 + length], len(data))
    arrays = {
        key: np.ndarray(entry.shape, entry.dtype, data, entry.begin)
        for key, entry in entries.items()
    }
    return arrays, metadata


def _entry(key: str, entry: Any, base: int) -> Entry:
    # Not by a schema: a training step reads thousands of these.
    if not isinstance(entry, dict) or [type(entry.get(k)) for k in _FIELDS] != [str, list, list]:
        raise ValueError(f"the header is damaged: {key} must have {', '.join(_FIELDS)}.")
    dtype, shape, offsets = (entry[field] for field in _FIELDS)
    if dtype not in DTYPES:
        raise ValueError(f"{key} has the unknown dtype {dtype!r}.")
    whole = all(type(n) is int and n >= 0 for n in (*shape, *offsets)) and len(offsets) == 2
    if not whole or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{key} has wrong offsets.")
    return Entry(DTYPES[dtype], tuple(shape), base + offsets[0], base + offsets[1])
