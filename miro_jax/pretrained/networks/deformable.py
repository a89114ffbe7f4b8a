"""Deformable attention over maps of several scales, and the encoder made of it.

Each token of each map looks at P points of each of the L maps. Where is a linear function of the
token itself, and so is how much each of the L P points counts (softmax over all of them):

    y = W_o sum_lp weight_lp V_l(reference + offset_lp / (w_l, h_l))

V_l(x, y) is bilinear between the projected tokens of map l; x and y are in [0, 1] over the whole
map, so a pixel's centre is at (i + 1/2) / n; outside there are zeros. A token's reference is its
own centre.

Source: Zhu et al. 2021 (arXiv 2010.04159), equations 2 and 3.

Letters: B batch, h w map, N tokens of all maps, A heads, L levels, P points, C width, c of a head.
"""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, Linear
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks.transformer import Options, mlp_maps

Array = jax.Array
EPSILON = 1e-5  # of every norm
Shape = tuple[int, int]


def reference_points(shapes: Sequence[Shape]) -> np.ndarray:
    """Return the centre (x, y) in [0, 1] of each token, [N, 2] float32; maps one after another."""
    points = []
    for height, width in shapes:
        y, x = np.meshgrid(
            (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
        )
        points.append(np.stack([x.ravel(), y.ravel()], axis=-1))
    return np.concatenate(points).astype(np.float32)


def sample(values: Array, shape: Shape, locations: Array, weights: Array) -> Array:
    """Sum bilinear samples of one map.

    Args:
      values: [B, A, h w, c], row by row. shape: (h, w).
      locations: [B, A, N, P, 2] float32, (x, y), in [0, 1] inside of the map.
      weights: [B, A, N, P] float32.

    Returns:
      [B, A, N, c]: sum over P of weight * sample. The corners are added one by one: all at once
      they would take four times the memory.
    """
    height, width = shape
    size = jnp.asarray([width, height], jnp.float32)[None, None, None, None]
    position = locations * size - 0.5
    low = jnp.floor(position)
    fraction = position - low
    total = jnp.zeros((), values.dtype)
    for down in (0, 1):
        for right in (0, 1):
            x, y = low[..., 0] + right, low[..., 1] + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            along = [
                fraction[..., axis] if step else 1 - fraction[..., axis]
                for axis, step in ((0, right), (1, down))
            ]
            share = jnp.where(inside, along[0] * along[1] * weights, 0)  # [B, A, N, P]
            x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
            index = (y * width + x).astype(jnp.int32)
            taken = _take(values, index)  # [B, A, N, P, c]
            total = total + jnp.einsum("banp,banpc->banc", share.astype(values.dtype), taken)
    return total


def _take(values: Array, index: Array) -> Array:
    """Take rows `[B, A, N, P, c]` of `[B, A, S, c]` by index `[B, A, N, P]`, all within S."""
    rows = index.reshape(*index.shape[:2], -1, 1)
    taken = jnp.take_along_axis(values, rows, axis=2, mode="promise_in_bounds")
    return taken.reshape(*index.shape, values.shape[-1])


class Attention(nnx.Module):
    """Deformable attention of all tokens to all maps."""

    def __init__(
        self, width: int, heads: int, levels: int, points: int, **options: Unpack[Options]
    ):
        head_width, axes = width // heads, ("embed", "heads", None)
        self.levels, self.points = levels, points
        offsets = (width, heads, levels, points, 2)
        self.offsets = Linear(offsets, (*axes, None, None), **options)
        self.weights = Linear((width, heads, levels * points), axes, **options)
        self.value = Linear((width, heads, head_width), ("embed", "heads", "head_dim"), **options)
        back = ("heads", "head_dim", "embed")
        self.out = Linear((heads, head_width, width), back, num_in=2, **options)

    def __call__(self, queries: Array, tokens: Array, shapes: Sequence[Shape]) -> Array:
        """Attend.

        Args:
          queries: [B, N, C], tokens with their positions. tokens: [B, N, C], without.
          shapes: of the maps that the tokens are of, in order.
        """
        batch, count = tokens.shape[:2]
        offsets = self.offsets(queries).astype(jnp.float32)  # [B, N, A, L, P, 2]
        sizes = np.array([(width, height) for height, width in shapes], np.float32)
        points = jnp.asarray(reference_points(shapes))[None, :, None, None, None]
        locations = points + offsets / jnp.asarray(sizes)[None, None, None, :, None]
        locations = locations.transpose(3, 0, 2, 1, 4, 5)  # [L, B, A, N, P, 2]
        weights = jax.nn.softmax(self.weights(queries).astype(jnp.float32), axis=-1)
        weights = weights.reshape(batch, count, -1, self.levels, self.points)
        weights = weights.transpose(3, 0, 2, 1, 4)  # [L, B, A, N, P]
        values = self.value(tokens).swapaxes(1, 2)  # [B, A, N, c]
        total, begin = jnp.zeros((), values.dtype), 0
        for level, (height, width) in enumerate(shapes):
            own = values[:, :, begin : begin + height * width]
            total = total + sample(own, (height, width), locations[level], weights[level])
            begin += height * width
        return self.out(total.swapaxes(1, 2))


class Layer(nnx.Module):
    """Deformable attention and feed-forward, residual, the norms last."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        levels: int,
        points: int,
        **options: Unpack[Options],
    ):
        self.attention = Attention(width, heads, levels, points, **options)
        self.norm = LayerNorm(width, epsilon=EPSILON)
        self.hidden, self.mlp_out = mlp_maps(width, mlp_width, **options)
        self.mlp_norm = LayerNorm(width, epsilon=EPSILON)

    @traced_once("shapes")
    def __call__(self, x: Array, positions: Array, shapes: Sequence[Shape]) -> Array:
        """Map tokens `[B, N, C]` float32 with positions `[1, N, C]`."""
        y = self.attention(x + positions, x, shapes)
        x = self.norm(x + y.astype(x.dtype))
        y = self.mlp_out(nnx.relu(self.hidden(x)))
        x = self.mlp_norm(x + y.astype(x.dtype))
        return constrain(x, "batch", None, None)
