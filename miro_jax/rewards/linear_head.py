"""Heads that are several linear maps with nothing between them: one map in disguise.

    y = W_n (... (W_1 x + b_1) ...) + b_n = w . x + b

Letters: D width of what the head reads.
"""

from collections.abc import Mapping

import numpy as np

from miro_jax.pretrained.weights.tensors import Tensor


def fold(tensors: Mapping[str, Tensor], prefix: str) -> tuple[np.ndarray, float]:
    """Fold linear maps that follow each other into one of a single output.

    Args:
        tensors: weights [out, in] and biases [out] at `prefix`.<number>, in the order of numbers.

    Returns:
        weight [D] float64 and bias: y = x @ weight + bias.

    Raises:
        ValueError: the maps do not fit each other, or there are none.
    """
    found = [key.removesuffix(".weight") for key in tensors if key.startswith(f"{prefix}.")]
    places = sorted(
        (place for place in set(found) if f"{place}.weight" in tensors),
        key=lambda place: int(place.rsplit(".", 1)[1]),
    )
    if not places:
        raise ValueError(f"The weights must hold linear maps at {prefix}.*; got none.")
    weight, bias = np.ones((1, 1)), np.zeros(1)
    for place in reversed(places):  # from the output on: rows stay single
        w, b = (tensors[f"{place}.{part}"].read().astype(np.float64) for part in ("weight", "bias"))
        if w.ndim != 2 or len(w) != weight.shape[1] or b.shape != (len(w),):
            raise ValueError(f"{place} must have {weight.shape[1]} outputs; got {w.shape}.")
        weight, bias = weight @ w, weight @ b + bias
    return weight[0], float(bias[0])
