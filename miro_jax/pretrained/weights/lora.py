"""Low-rank changes of weights (LoRA), merged into the weights when they are read.

    W + scale B A of a linear map [out, in];   W + scale A B of a table [rows, width]

Merged in float32, one tensor at a time.

Source: Hu et al. 2021 (arXiv 2106.09685); names of PyTorch's parametrizations as jina-embeddings-v3
(arXiv 2409.10173) uses them.
"""

from collections.abc import Mapping

import numpy as np

from miro_jax.pretrained.weights.tensors import Tensor

LORA = ".parametrizations.weight."


def merge_lora(tensors: Mapping[str, Tensor], scale: float, adapter: int = 0) -> dict[str, Tensor]:
    """Present weights with their low-rank changes as plain weights.

    Args:
      tensors: `<name>.parametrizations.weight.original` with `.0.lora_A` and `.0.lora_B`, whose
        first axis counts adapters; other tensors stay as they are. Names that hold "embeddings"
        are tables.
      scale: of the change, alpha over rank.
      adapter: which of the adapters to merge.

    Returns:
      key -> Tensor, float32 where something was merged, computed when it is read.
    """
    merged = {}
    for key, tensor in tensors.items():
        name, separator, rest = key.partition(LORA)
        if not separator:
            merged[key] = tensor
        elif rest == "original":
            halves = [tensors[k] for x in "AB" if (k := f"{name}{LORA}0.lora_{x}") in tensors]
            if len(halves) != 2:
                raise ValueError(f"{key} must come with 0.lora_A and 0.lora_B.")
            # Rows of the change come from the second factor of a linear map, the first of a table.
            factors = halves if "embeddings" in name else halves[::-1]
            merged[f"{name}.weight"] = _merged(key, tensor, factors, scale, adapter)
        elif rest not in ("0.lora_A", "0.lora_B"):
            raise ValueError(f"{key} is no low-rank change; only lora_A and lora_B are known.")
    return merged


def _merged(
    key: str, original: Tensor, factors: list[Tensor], scale: float, adapter: int
) -> Tensor:
    left, right = (factor.shape for factor in factors)
    fits = len(left) == len(right) == 3 and left[2] == right[1] and left[0] == right[0] > adapter
    if not fits or (left[1], right[2]) != original.shape:
        raise ValueError(f"{key} {original.shape} must fit its change; got {left} and {right}.")

    def read() -> np.ndarray:
        a, b = (factor.read()[adapter].astype(np.float32) for factor in factors)
        total = (scale * a) @ b
        total += original.read()
        return total

    return Tensor(original.shape, np.dtype(np.float32), read, original.file)
