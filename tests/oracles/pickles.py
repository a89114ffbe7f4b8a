"""PyTorch writes checkpoints of known content, in both of its formats."""

import io

import numpy as np
import torch

torch.set_num_threads(1)

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 "
    "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz"
).split()


def save(found, zipped: bool) -> bytes:
    """Return the file that `torch.save` writes: zipped, or the format before 1.6."""
    file = io.BytesIO()
    torch.save(found, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def bits(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's bytes, in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def turned() -> torch.Tensor:
    """Make a tensor [3, 2] that is stored as its transpose: 0 3 / 1 4 / 2 5."""
    return torch.arange(6.0).reshape(2, 3).T


def all_dtypes() -> dict[str, torch.Tensor]:
    """Make one tensor [3, 4] of each dtype."""
    numbers = torch.linspace(0, 5, 12).reshape(3, 4)
    return {name: numbers.to(getattr(torch, name)) for name in DTYPES}


def views() -> dict[str, torch.Tensor]:
    """Make tensors that share storages, have strides and offsets, or are odd in another way."""
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    half = torch.arange(24).to(torch.bfloat16)
    return {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "columns": base[1:4, 2:11:3],
        "row": base[3],
        "corner": base[4, 11],
        "expanded": base[2:3, 5:6].expand(4, 3),
        "half_tail": half[20:],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 7),
        "no_rows": base[:0],
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -2.0])),
        "frozen": torch.nn.Parameter(base[:2, :2], requires_grad=False),
    }


def state_dict() -> dict[str, torch.Tensor]:
    """Return the state dict of a small network: an OrderedDict with `_metadata`."""
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    )
    return network.state_dict()


def module() -> torch.nn.Module:
    """Return a network as an object, which no checkpoint should be."""
    return torch.nn.Linear(2, 2)


def program(path: str) -> None:
    """Write a TorchScript program."""
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def small() -> dict[str, torch.Tensor]:
    """Return two small tensors of one storage and one of another."""
    base = torch.arange(6.0)
    return {"one": base[:4], "two": base[1::2], "three": torch.ones(2, 2, dtype=torch.float16)}
