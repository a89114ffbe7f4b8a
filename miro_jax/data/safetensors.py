"""The safetensors format: header and arrays, in memory or in a file.

8 bytes with the header's length, little endian; a JSON header {key: {dtype, shape, data_offsets}},
texts below "__metadata__"; the numbers, little endian, in row-major order, without gaps.

Written here and not by the library of that name: its bytes differ from save to save, while equal
records must be equal bytes. Any safetensors library reads these bytes, and what one refuses is
refused here: overlaps, gaps, bytes behind the last array, a key that stands twice.
"""

import functools
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from miro_jax.data.json_file import check_fields, parse_json, without_doubles

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
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

_OPENING = f'{{"{METADATA}":{{'  # as `make_header` writes it
_METADATA = json.JSONDecoder(object_pairs_hook=without_doubles)
_MOST_NUMBERS = 1 << 60  # of an array, whose bytes no file system counts
_LONGEST_KEPT = 4096  # letters of the arrays of a header; records have a thousand


class UnknownDtype(ValueError):
    """The file is whole, and holds numbers that are not read."""


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
    base = 8 + len(text)
    try:
        if text[:1] != b"{":
            raise ValueError("an object must begin at once")
        metadata, arrays = _part(text.decode("utf-8"))
        if not _is_texts(metadata):
            check_fields(metadata, ({str: str}, None), METADATA)
        layout = (_seen_layout if len(arrays) <= _LONGEST_KEPT else _layout)(arrays)
    except UnknownDtype:
        raise
    except ValueError as error:
        raise ValueError(f"the header is damaged: {error}") from error
    entries = {
        key: Entry(dtype, shape, base + begin, base + end)
        for key, (dtype, shape, begin, end) in layout.items()
    }
    last = max((entry.end for entry in entries.values()), default=base)
    if last > size:
        short = next(key for key, entry in entries.items() if entry.end > size)
        raise ValueError(f"cut short inside {short}.")
    if last != size:
        raise ValueError(f"{size - last} bytes follow the last array.")
    return entries, metadata or {}


def _is_texts(metadata: Any) -> bool:
    """Return whether this is a dict of texts: what a schema says too, in many times the time."""
    return type(metadata) is dict and all(type(text) is str for text in metadata.values())


def _part(header: str) -> tuple[Any, str]:
    """Part a header's metadata, and the JSON of its arrays: records differ in the former."""
    if header.startswith(_OPENING):
        try:
            metadata, end = _METADATA.raw_decode(header, len(_OPENING) - 1)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        rest = header[end:]
        if rest == "}":
            return metadata, "{}"
        if rest.startswith(',"'):
            return metadata, "{" + rest[1:]
    values = parse_json(header, "it", doubles=False)
    return values.pop(METADATA, None), json.dumps(values)


def _layout(arrays: str) -> dict[str, Entry]:
    """Read the arrays of a header, without gaps and from 0 on, in the order in which they lie."""
    values = parse_json(arrays, "it", doubles=False)
    entries = {key: _entry(key, entry) for key, entry in values.items()}
    position = 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        key.encode("utf-8")  # JSON can also write halves of characters
        if entry.begin != position:
            raise ValueError(f"{key} has wrong offsets: it overlaps another or leaves a gap.")
        position = entry.end
    return entries


_seen_layout = functools.lru_cache(1024)(_layout)


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


def _entry(key: str, entry: Any) -> Entry:
    # Not by a schema: a training step reads thousands of these.
    if not isinstance(entry, dict) or [type(entry.get(k)) for k in _FIELDS] != [str, list, list]:
        raise ValueError(f"{key} must have {', '.join(_FIELDS)}")
    dtype, shape, offsets = (entry[field] for field in _FIELDS)
    if dtype not in DTYPES:
        raise UnknownDtype(f"{key} has the unknown dtype {dtype!r}; save it as F32, F16 or BF16.")
    whole = all(type(n) is int and n >= 0 for n in (*shape, *offsets)) and len(offsets) == 2
    whole = whole and math.prod(max(n, 1) for n in shape) < _MOST_NUMBERS
    if not whole or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{key} has wrong offsets.")
    return Entry(DTYPES[dtype], tuple(shape), *offsets)
