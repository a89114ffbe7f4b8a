"""EVA-02: a ViT with rotary positions, gated feed-forward and a second norm inside each branch.

    x = [class ; patches W + b] + positions, blocks, LN(x)[class]
    block   x += LN'(attention(LN x)) Wo;   x += LN'(silu(y W1) * (y W2)) W3,  y = LN x
    rotary  (a, b) -> (a cos - b sin, b cos + a sin) of neighbouring channels (a, b) of q and k,
            angle = position * 10000^(-j / J), j = 0..J-1: first the rows' half of a head, then the
            columns' half;  position = index / grid * pretrained grid

LN' normalises the joined heads and the hidden layer. The class token is not rotated. The keys have
no bias. The stream x is float32; matrix products run in `dtype`.

Source: Fang et al. 2023 (arXiv 2303.11331), as jina-clip-v2 has it.

Letters: B batch, H W image, P patch side, N tokens with the class token first, D width, A heads,
J angles of an axis.
"""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, Linear
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks import cpu
from miro_jax.pretrained.networks.transformer import (
    Options,
    Patches,
    Sizes,
    attention_maps,
    mlp_maps,
)

Array = jax.Array
TEMPERATURE = 10000.0  # of the angles
EPSILON = 1e-6  # of every norm


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """Sizes.

    Attributes:
      width: D. heads: A. image_size, patch_size: pixels; the rest of an image is cut off.
      pretrained_grid: patches of a side that positions are scaled to; None does not scale.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    image_size: int
    patch_size: int
    pretrained_grid: int | None

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                "width must be heads times a multiple of 4 (two axes of pairs); "
                f"got {self.width} for {self.heads} heads."
            )

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch_size


def rotary_table(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Compute cosine and sine of each token's angles, each [N, head width / 2] float32.

    The class token's angle is 0.
    """
    c = config
    num_angles = c.width // c.heads // 4  # J
    frequencies = TEMPERATURE ** (-np.arange(num_angles) / num_angles)
    position = np.arange(c.grid, dtype=np.float64)
    if c.pretrained_grid is not None:
        position = position / c.grid * c.pretrained_grid
    angles = position[:, None] * frequencies[None]  # [grid, J]
    rows = np.repeat(angles[:, None], c.grid, axis=1)
    columns = np.repeat(angles[None], c.grid, axis=0)
    patches = np.concatenate([rows, columns], axis=-1).reshape(c.grid**2, 2 * num_angles)
    whole = np.concatenate([np.zeros((1, 2 * num_angles)), patches])
    return np.cos(whole).astype(np.float32), np.sin(whole).astype(np.float32)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate neighbouring channels of `[B, N, A, H]` by angles `[N, H / 2]`, in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[None, :, None], sin[None, :, None]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


class Block(nnx.Module):
    """Pre-norm residual attention and gated feed-forward, each with an inner norm."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        c = config
        self.norm = LayerNorm(c.width, epsilon=EPSILON)
        self.q, self.k, self.v, self.out = attention_maps(c.width, c.heads, biases="qvo", **options)
        self.inner_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.mlp_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.gate, self.mlp_out = mlp_maps(c.width, c.mlp_width, **options)
        self.value = Linear((c.width, c.mlp_width), ("embed", "mlp"), **options)
        self.mlp_inner_norm = LayerNorm(c.mlp_width, "mlp", epsilon=EPSILON)

    @traced_once()
    def __call__(self, x: Array, cos: Array, sin: Array) -> Array:
        """Map tokens `[B, N, D]` float32."""
        y = self.norm(x)
        y = cpu.attend(rotate(self.q(y), cos, sin), rotate(self.k(y), cos, sin), self.v(y))
        joined = self.inner_norm(y.reshape(x.shape))
        x = x + self.out(joined.reshape(y.shape)).astype(x.dtype)
        y = self.mlp_norm(x)
        y = self.mlp_inner_norm(nnx.silu(self.gate(y)) * self.value(y))
        x = x + self.mlp_out(y).astype(x.dtype)
        return constrain(x, "batch", None, None)


class VisionTower(nnx.Module):
    """Images into features."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        self.config = c = config
        self.patches = Patches(c.image_size, c.patch_size, c.width, **options)
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))
        self.out_norm = LayerNorm(c.width, epsilon=EPSILON)

    def tokens(self, images: Array) -> Array:
        """Encode images as tokens, without the last norm.

        Args:
          images: [B, H, W, 3] float32, normalised (see `clip.normalize`).

        Returns:
          [B, N, D] float32; the class token is the first, patches follow row by row.
        """
        x = self.patches(images)
        cos, sin = map(jnp.asarray, rotary_table(self.config))
        for block in self.blocks:
            x = block(x, cos, sin)
        return x

    def __call__(self, images: Array) -> Array:
        """Encode normalised images `[B, H, W, 3]` as features `[B, D]` float32, any length."""
        return self.out_norm(self.tokens(images)[:, 0])
