"""Tensors of a weight file, listed at once and read one by one.

A file is opened as {key: Tensor}. A Tensor knows its shape and dtype and reads its numbers when it
is asked to, so that a checkpoint larger than the free memory can be streamed onto devices.

The safetensors format: 8 bytes with the header's length, little endian; a JSON header {key: {dtype,
shape, data_offsets}}; the numbers, little endian, in row-major order.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes; a longer one is damage, not a model


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a file.

    Attributes:
      shape: sizes of its axes. dtype: numpy dtype, ml_dtypes included.
      read: gives the array, freshly read; nothing is kept.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Present arrays in memory as tensors of a file."""
    return {
        key: Tensor(value.shape, value.dtype, lambda value=value: value)
        for key, value in arrays.items()
    }


def open_safetensors(path: Path | str) -> dict[str, Tensor]:
    """List the tensors of a `.safetensors` file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged or truncated; the text names it.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(f"{path} is no safetensors file or is cut short. Fetch it again.")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            return {
                key: _entry(path, key, entry, 8 + length, size) for key, entry in header.items()
            }
        except (
            UnicodeDecodeError,
            json.JSONDecodeError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise ValueError(f"{path}: the header is damaged. Fetch the file again.") from error


def _entry(path: Path, key: str, entry: dict, base: int, size: int) -> Tensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{path}: {key} has the unknown dtype {entry['dtype']!r}.")
    dtype = np.dtype(DTYPES[entry["dtype"]])
    count = math.prod(shape)
    if begin < 0 or min(shape, default=0) < 0 or end - begin != count * dtype.itemsize:
        raise ValueError(f"{path}: {key} has wrong offsets. Fetch the file again.")
    if base + end > size:
        raise ValueError(f"{path} is cut short inside {key}. Fetch the file again.")

    def read() -> np.ndarray:
        array = np.fromfile(path, np.uint8, end - begin, offset=base + begin)
        return array.view(dtype).reshape(shape)

    return Tensor(shape, dtype, read)


def open_indexed(
    index: Path | str,
    file_of: Callable[[str], Path],
    open_file: Callable[[Path], dict[str, Tensor]] = open_safetensors,
) -> dict[str, Tensor]:
    """List the tensors of a checkpoint in several files, by its `*.index.json`.

    Args:
      index: the index file, {"weight_map": {key: file name}}.
      file_of: finds or fetches one of the files by name.
      open_file: lists the tensors of one of them.
    """
    names = json.loads(Path(index).read_text("utf-8"))["weight_map"]
    found: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names a file outside of its folder: {name!r}.")
        found |= open_file(file_of(name))
    if missing := sorted(set(names) - set(found)):
        raise ValueError(f"{index} lists tensors that its files do not hold: {missing[:5]}.")
    return found


def write_safetensors(path: Path | str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays (numpy or anything `np.asarray` takes) as a `.safetensors` file, one by one."""
    header, offset = {}, 0
    for key, value in arrays.items():
        dtype = np.dtype(value.dtype)
        count = math.prod(value.shape) * dtype.itemsize
        header[key] = {
            "dtype": NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + count],
        }
        offset += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in arrays.values():
            np.ascontiguousarray(value).reshape(-1).view(np.uint8).tofile(file)
    partial.replace(path)
