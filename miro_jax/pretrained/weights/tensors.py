"""Tensors of a weight file, listed at once and read one by one.

A file is opened as {key: Tensor}. A Tensor knows its shape and dtype and reads its numbers when
`read` is called, so that a checkpoint larger than the free memory can be streamed onto devices.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from miro_jax.data import safetensors
from miro_jax.data.json_file import read_json
from miro_jax.data.regular_file import open_regular
from miro_jax.data.storage.files import published

POINTERS = (b"version https://git-lfs", b"version https://hawser", b"# xet version")
POINTED = "{} is a Git LFS pointer, not the file itself. Fetch that with: git lfs pull"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a file.

    Attributes:
      shape: sizes of its axes. dtype: numpy dtype, ml_dtypes included.
      read: returns the array, read anew each time.
      file: that holds it, for messages; "" where none does.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    file: str = ""


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
    with open_weights(path) as file:
        known, size = stamp(file), os.fstat(file.fileno()).st_size
        try:
            length = safetensors.header_length(file.read(8), size)
            entries, _ = safetensors.parse_header(file.read(length), size)
        except ValueError as error:
            remedy = "" if isinstance(error, safetensors.UnknownDtype) else " Fetch the file again."
            raise ValueError(f"{path}: {str(error).rstrip('.')}.{remedy}") from error
    return {
        key: Tensor(entry.shape, entry.dtype, partial(_read, path, entry, known), str(path))
        for key, entry in entries.items()
    }


def open_weights(path: Path | str) -> BinaryIO:
    """Open a file of a model.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no regular file, or a Git LFS pointer to one.
    """
    if is_pointer(path):
        raise ValueError(POINTED.format(path))
    return open_regular(path)


def is_pointer(path: Path | str) -> bool:
    """Return whether a file is a Git LFS pointer; ValueError if it is no regular file."""
    with open_regular(path) as file:
        return file.read(32).startswith(POINTERS)


def stamp(file: BinaryIO) -> tuple[int, int, int]:
    """Return what is another where an open file was replaced or written to."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_part(path: Path, begin: int, size: int, known: tuple[int, int, int]) -> np.ndarray:
    """Read `size` bytes of a file that must be the one whose stamp is known."""
    with open_regular(path) as file:
        part = np.fromfile(file, np.uint8, size, offset=begin) if stamp(file) == known else None
    if part is None or part.size != size:
        raise ValueError(f"{path} must stay as it is while it is read; it was changed. Try again.")
    return part


def _read(path: Path, entry: safetensors.Entry, known: tuple[int, int, int]) -> np.ndarray:
    part = read_part(path, entry.begin, entry.end - entry.begin, known)
    return part.view(entry.dtype).reshape(entry.shape)


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
    names = read_index(index)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        held = open_file(file_of(name)).items()  # perhaps of an older cut: the index decides
        tensors |= {key: tensor for key, tensor in held if names.get(key, name) == name}
    if missing := sorted(set(names) - set(tensors)):
        raise ValueError(f"{index} lists tensors that its files do not hold: {missing[:5]}.")
    return tensors


def read_index(path: Path | str) -> dict[str, str]:
    """Read the index of a checkpoint in several files: key -> name of a file beside it.

    Raises:
      ValueError: it is no such index, or names a file elsewhere.
    """
    names = read_json(path, {"weight_map": {str: str}})["weight_map"]
    for name in names.values():
        if Path(name).name != name or name == "..":
            raise ValueError(f"{path} names a file outside of its folder: {name!r}.")
    return names


def write_safetensors(path: Path | str, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
    """Write arrays, or tensors that are read one by one, as a `.safetensors` file."""
    with published(path) as file:
        file.write(safetensors.make_header(arrays))
        for value in arrays.values():
            array = value.read() if isinstance(value, Tensor) else value
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
