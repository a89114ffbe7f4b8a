"""Bilinear resizing as two small matrices, one an axis: half-pixel centres, no antialiasing.

    y = R x C^T,   row i of R holds 1 - f at floor(s_i) and f at the next,
    s_i = max((i + 1/2) old / new - 1/2, 0),   f = s_i - floor(s_i)

The last index is clamped. It equals PyTorch's `interpolate(mode="bilinear", align_corners=False)`,
and being linear it can be composed with other maps, or with another resize, before it is applied.

Letters: B batch, H W old sides, h w new ones, C channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@functools.lru_cache(maxsize=64)
def matrix(old: int, new: int) -> np.ndarray:
    """Return the weights [new, old] float64 of one axis; do not write into them."""
    position = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = np.minimum(position.astype(np.int64), old - 1)
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (position - low))
    np.add.at(weights, (np.arange(new), high), position - low)
    return weights


def resize(x: Array, height: int, width: int) -> Array:
    """Resize `[B, H, W, C]` to `[B, height, width, C]`."""
    rows, columns = matrix(x.shape[1], height), matrix(x.shape[2], width)
    x = jnp.einsum("hH,bHWc->bhWc", jnp.asarray(rows, x.dtype), x)
    return jnp.einsum("wW,bhWc->bhwc", jnp.asarray(columns, x.dtype), x)
