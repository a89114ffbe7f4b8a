"""Read checkpoints that PyTorch pickled, without PyTorch and without running what they hold.

Two formats. Since 1.6 a ZIP of stored members below one folder: `data.pkl`, the pickled object;
`data/<key>`, the bytes of storage <key>; `byteorder`. Before: five pickles in a row (a magic
number, 1001, facts about the machine, the object, the list of storage keys), then for each key an
int64 count and the storage's bytes, always little endian. Several tensors may share a storage.

Nothing is read but the object until a tensor's `read` reads its own part of its storage.

Source: PyTorch, `torch/serialization.py` and `torch/_utils.py` (formats only).
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from miro_jax.data import safetensors
from miro_jax.pretrained.weights import tensors
from miro_jax.pretrained.weights.storages import NAMES, Storage, Strided, storage_of
from miro_jax.pretrained.weights.tensors import Tensor
from miro_jax.pretrained.weights.unpickler import Machine, Source

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
# Expanded tensors are larger than their storage, tied ones count twice; much more is an attack.
EXPANSION = 8  # all tensors together over the file
SMALL = 2**24  # bytes that are allowed anyway


def open_pickle(path: Path | str, placeholders: bool = False) -> dict[str, Tensor]:
    """List the tensors of a `.pt`, `.pth` or `.bin` file.

    They are the file's object if it holds tensors, else its `state_dict`, else the only dictionary
    of tensors in it.

    Args:
      path: the file, either format.
      placeholders: True lets the rest of the object hold things of unknown kind, which become inert
        placeholders (the `meta` of mmdet files); False refuses such files.

    Returns:
      key -> Tensor, in the file's order; `read` gives a contiguous array.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, no checkpoint, or names what is not allowed; the
        message names the file and that name.
    """
    path = Path(path)
    with tensors.open_weights(path) as file:
        known, size = tensors.stamp(file), file.seek(0, 2)
        file.seek(0)
        head = file.read(512)
        try:
            if head.startswith(b"PK\x03\x04"):
                content, offsets, big = _read_zip(file, size, placeholders)
            else:
                content, offsets, big = _read_legacy(file, size, head, placeholders)
            chosen = _choose(content)
            if sum(t.nbytes for t in chosen.values()) > max(EXPANSION * size, SMALL):
                raise ValueError("its tensors would take far more bytes than the file has.")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return {key: _tensor(path, known, value, offsets, big) for key, value in chosen.items()}


def _read_zip(file: BinaryIO, size: int, placeholders: bool) -> tuple[Any, dict[str, int], bool]:
    """Return the object, the offset in the file of each storage, and whether it is big endian."""
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, OverflowError) as error:
        raise ValueError(f"the ZIP is damaged ({error}). Fetch the file again.") from error
    members = {info.filename: info for info in listed}
    if len(members) != len(listed):
        raise ValueError("the ZIP holds two members of one name.")
    tops = [n.removesuffix("/data.pkl") for n in members if n.endswith("/data.pkl")]
    if len(tops) != 1:
        raise ValueError(f"the ZIP must hold one data.pkl; it holds {len(tops)}. No checkpoint?")
    top = tops[0]
    if any(n.startswith((f"{top}/code/", f"{top}/constants.pkl")) for n in members):
        raise ValueError("this is a TorchScript program. Get the state dict, not the program.")
    storages: dict[str, Storage] = {}
    source = _member(file, size, members, f"{top}/data.pkl")
    content = Machine(source, NAMES, lambda p: storage_of(p, 5, storages), placeholders).run()
    if sum(s.size for s in storages.values()) > size:
        raise ValueError("its storages are larger than the file. Fetch the file again.")
    offsets = {}
    for key, storage in storages.items():
        data = _member(file, size, members, f"{top}/data/{key}")
        if data.end - data.position != storage.size:
            raise ValueError(f"storage {key} must have {storage.size} bytes. Fetch the file again.")
        offsets[key] = data.position
    order = b"little"
    if f"{top}/byteorder" in members:
        order = _member(file, size, members, f"{top}/byteorder").take(3)
    if order[:3] not in (b"lit", b"big"):
        raise ValueError(f"byteorder must be little or big; got {order!r}...")
    return content, offsets, order == b"big"


def _member(file: BinaryIO, size: int, members: dict[str, zipfile.ZipInfo], name: str) -> Source:
    """Find the bytes of a member that is stored as it is."""
    if name not in members:
        raise ValueError(f"the ZIP lacks {name[:200]!r}. Fetch the file again.")
    info = members[name]
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{name[:200]!r} must be stored in the ZIP as it is, not compressed.")
    head = Source(file, min(max(info.header_offset, 0), size), size)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", head.take(30))
    begin = head.position + name_length + extra_length
    if signature != b"PK\x03\x04" or begin + info.file_size > size:
        raise ValueError(f"{name[:200]!r} is cut short in the ZIP. Fetch the file again.")
    return Source(file, begin, begin + info.file_size)


def _read_legacy(
    file: BinaryIO, size: int, head: bytes, placeholders: bool
) -> tuple[Any, dict[str, int], bool]:
    """As `_read_zip`. The numbers are little endian whatever the machine that wrote them."""
    if head[257:262] == b"ustar":
        raise ValueError("this is a tar of PyTorch before 0.1.10, which is not read. Convert it.")
    if not head.startswith(b"\x80"):
        raise ValueError("this is no PyTorch checkpoint: neither a ZIP nor a pickle.")
    storages: dict[str, Storage] = {}
    source = Source(file, 0, size)
    if Machine(source, {}, _refuse).run() != MAGIC or Machine(source, {}, _refuse).run() != VERSION:
        raise ValueError("this pickle was not written by PyTorch, or by an unknown version.")
    Machine(source, {}, _refuse).run()
    content = Machine(source, NAMES, lambda p: storage_of(p, 6, storages), placeholders).run()
    keys = Machine(source, {}, _refuse).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the list of storages is damaged. Fetch the file again.")
    if sorted(keys) != sorted(storages):
        raise ValueError("the storages are not those that the tensors need. Fetch it again.")
    offsets = {}
    for key in keys:
        storage = storages[key]
        if source.number("<q") * storage.dtype.itemsize != storage.size:
            raise ValueError(f"storage {key} must have {storage.size} bytes. Fetch the file again.")
        offsets[key] = source.position
        if storage.size > size - source.position:
            raise ValueError(f"the file is cut short inside storage {key}. Fetch it again.")
        source = Source(file, source.position + storage.size, size)
    return content, offsets, False


def _refuse(_: Any) -> None:
    raise ValueError("a persistent id stands where none belongs.")


def _choose(content: Any) -> dict[str, Strided]:
    """Take the dictionary of tensors out of the file's object."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds no dictionary of tensors but a {type(content).__name__}.")
    if any(isinstance(value, Strided) for value in content.values()):
        return _all_tensors(content, "the file's object")
    if "state_dict" in content:
        return _all_tensors(content["state_dict"], "state_dict")
    inside = [key for key, value in content.items() if _has_tensors(value)]
    if len(inside) != 1:
        names = ", ".join(str(key)[:40] for key in inside[:20]) or "none"
        raise ValueError(
            f"it must hold one dictionary of tensors; it has these: {names}. Save the one to read "
            "as a file of its own."
        )
    return _all_tensors(content[inside[0]], str(inside[0]))


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(v, Strided) for v in value.values())


def _all_tensors(value: Any, name: str) -> dict[str, Strided]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a dictionary of tensors; got {type(value).__name__}.")
    for key, one in value.items():
        if not isinstance(key, str) or not isinstance(one, Strided):
            raise ValueError(
                f"{name} must hold tensors alone; {str(key)[:200]!r} is {type(one).__name__}."
            )
    return value


def _tensor(
    path: Path, known: tuple, value: Strided, offsets: Mapping[str, int], big: bool
) -> Tensor:
    dtype, size = value.dtype, value.span * value.dtype.itemsize
    begin = offsets[value.storage.key] + value.storage.start + value.offset * dtype.itemsize

    def read() -> np.ndarray:
        if not size:
            return np.empty(value.shape, dtype)
        raw = tensors.read_part(path, begin, size, known)
        if big:
            raw = _swapped(raw, dtype)
        steps = zip(value.shape, value.strides, strict=True)
        strides = [dtype.itemsize * step if n > 1 else 0 for n, step in steps]
        view = np.ndarray(value.shape, dtype, raw, strides=strides)
        return np.array(view, order="C", copy=None)

    return Tensor(value.shape, dtype, read, str(path))


def _swapped(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Turn bytes of big-endian numbers into little-endian ones; complex ones are pairs."""
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(-1)


def convert_to_safetensors(in_path: Path | str, out_path: Path | str) -> int:
    """Write the tensors of a pickled checkpoint as `.safetensors`, one after another.

    Tensors become contiguous; those that share numbers are written once each.

    Args:
      in_path: as `open_pickle` takes it.
      out_path: the file to write; it appears when it is complete.

    Returns:
      The number of tensors.

    Raises:
      ValueError: see `open_pickle`; or a dtype that safetensors does not know.
    """
    content = open_pickle(in_path)
    for key, tensor in content.items():
        if tensor.dtype not in safetensors.NAMES:
            raise ValueError(f"{in_path}: safetensors cannot hold {key}, {tensor.dtype} numbers.")
    tensors.write_safetensors(out_path, content)
    return len(content)
