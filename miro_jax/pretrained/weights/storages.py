"""Tensors as PyTorch pickles them: names of the file given to functions of ours, all checked.

A storage is a run of bytes, named by a persistent id ("storage", class, key, device, count[,
view]); a tensor is a storage, an offset, a shape and strides, counted in elements. Nothing here
holds numbers: a `Strided` is their position. What a pickle may name is NAMES and no more.

Source: PyTorch, `torch/_utils.py` and `torch/serialization.py` (formats only).
"""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from miro_jax.pretrained.weights.unpickler import Constructor, ordered

MOST_AXES = 32

# torch.<name>Storage and torch.<name>.
DTYPES = {
    ("Double", "float64"): np.float64,
    ("Float", "float32"): np.float32,
    ("Half", "float16"): np.float16,
    ("BFloat16", "bfloat16"): ml_dtypes.bfloat16,
    ("Long", "int64"): np.int64,
    ("Int", "int32"): np.int32,
    ("Short", "int16"): np.int16,
    ("Char", "int8"): np.int8,
    ("Byte", "uint8"): np.uint8,
    ("Bool", "bool"): np.bool_,
    ("ComplexFloat", "complex64"): np.complex64,
    ("ComplexDouble", "complex128"): np.complex128,
    (None, "uint16"): np.uint16,
    (None, "uint32"): np.uint32,
    (None, "uint64"): np.uint64,
    (None, "float8_e4m3fn"): ml_dtypes.float8_e4m3fn,
    (None, "float8_e5m2"): ml_dtypes.float8_e5m2,
    (None, "float8_e4m3fnuz"): ml_dtypes.float8_e4m3fnuz,
    (None, "float8_e5m2fnuz"): ml_dtypes.float8_e5m2fnuz,
}


@dataclasses.dataclass(frozen=True)
class StorageKind:
    """A storage class: the dtype of its elements, uint8 for untyped bytes."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Storage:
    """Bytes that tensors are cut from: `size` of them, from byte `start` of storage `key`."""

    key: str
    start: int
    size: int
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Strided:
    """A tensor: a part of a storage; offset and strides in elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from the first to the last, both counted."""
        steps = ((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return 0 if 0 in self.shape else 1 + sum(steps)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, an empty axis counted as 1."""
        return math.prod(max(n, 1) for n in self.shape) * self.dtype.itemsize


def storage_of(identity: Any, length: int, storages: dict[str, Storage]) -> Storage:
    """Make the storage of a persistent id.

    Args:
      identity: as it stands in the file, a tuple of `length` facts.
      length: 5 in ZIPs, 6 in older files, where the last may name a part of the storage.
      storages: key -> whole storage; this one is entered.
    """
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise ValueError("a persistent id is no storage's.")
    _, kind, key, device, count, view = (*identity, None)[:6]
    if not isinstance(kind, StorageKind) or not isinstance(key, str) or not isinstance(device, str):
        raise ValueError("a persistent id is no storage's.")
    width = kind.dtype.itemsize
    whole = Storage(key, 0, _count(count) * width, kind.dtype)
    known = storages.setdefault(key, whole)
    if known.size != whole.size:
        raise ValueError(f"storage {key[:200]!r} is given two sizes.")
    if view is None:
        return whole
    if not isinstance(view, tuple) or len(view) != 3:
        raise ValueError(f"the view of storage {key[:200]!r} is damaged.")
    start, size = _count(view[1]) * width, _count(view[2]) * width
    if start + size > whole.size:
        raise ValueError(f"a view of storage {key[:200]!r} reaches beyond its end.")
    return Storage(key, start, size, kind.dtype)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**60:
        raise ValueError("a size, stride or offset must be a whole number of at least 0.")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MOST_AXES:
        raise ValueError(f"sizes and strides must be tuples of at most {MOST_AXES} numbers.")
    return tuple(map(_count, value))


def _rebuild(arguments: tuple, dtype: np.dtype | None, metadata: tuple) -> Strided:
    """Make a tensor from (storage, offset, size, stride, requires_grad, hooks)."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage.")
    if any(metadata):
        raise ValueError("a tensor is a conjugate or negative view. Save a copy of it.")
    dtype = storage.dtype if dtype is None else dtype
    tensor = Strided(storage, dtype, _count(offset), _counts(shape), _counts(strides))
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor has more axes than strides, or fewer.")
    if (tensor.offset + tensor.span) * dtype.itemsize > storage.size:
        raise ValueError(f"a tensor reaches beyond the end of storage {storage.key[:200]!r}.")
    return tensor


def _tensor_v2(arguments: tuple) -> Strided:
    if len(arguments) not in (6, 7):
        raise ValueError("a tensor must be given by 6 or 7 facts.")
    return _rebuild(arguments, None, arguments[6:])


def _tensor_v3(arguments: tuple) -> Strided:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], np.dtype):
        raise ValueError("a tensor must be given by 7 or 8 facts, the 7th a dtype that is known.")
    return _rebuild(arguments, arguments[6], arguments[7:])


def _parameter(arguments: tuple) -> Strided:
    if len(arguments) != 3 or not isinstance(arguments[0], Strided):
        raise ValueError("a parameter must be given by a tensor and 2 facts.")
    return arguments[0]


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Constructor(ordered),
    ("torch._utils", "_rebuild_tensor_v2"): Constructor(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Constructor(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Constructor(_parameter),
    ("torch.storage", "UntypedStorage"): StorageKind(np.dtype(np.uint8)),
    **{("torch", f"{s}Storage"): StorageKind(np.dtype(d)) for (s, _), d in DTYPES.items() if s},
    **{("torch", name): np.dtype(kind) for (_, name), kind in DTYPES.items()},
}
