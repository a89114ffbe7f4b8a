"""XLM-RoBERTa with rotary positions: text into one vector.

    x = LN(word[ids] + type[0]), blocks, mean over the tokens that are no padding
    block   x = LN(x + attention(x) Wo);   x = LN(x + W2 gelu(W1 x))
    rotary  (a, b) -> (a cos - b sin, b cos + a sin) of channels (a, b) half a head apart, of q and
            k;  angle = position * base^(-2 j / H), j = 0..H/2-1, position = 0..L-1

Tokens see each other in both directions, padding is hidden. The stream x is float32; matrix
products run in `dtype`.

Source: Conneau et al. 2020 (arXiv 1911.02116) as changed by jina-embeddings-v3 (Sturua et al. 2024,
arXiv 2409.10173).

Letters: B batch, L tokens, D width, A heads, H head width.
"""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.attention import attend
from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, gelu
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks.transformer import (
    Options,
    Sizes,
    attention_maps,
    mlp_maps,
    table,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """Sizes.

    Attributes:
      width: D. heads: A. vocabulary, types: rows of the two tables. padding: id of no token.
      rotary_base: of the angles. epsilon: of every norm.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    vocabulary: int
    types: int
    padding: int
    rotary_base: float
    epsilon: float

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                "width must be heads times a multiple of 2; "
                f"got {self.width} for {self.heads} heads."
            )


def rotary_table(config: Config, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute cosine and sine of each position's angles, each [L, H / 2] float32."""
    half = config.width // config.heads // 2
    frequencies = config.rotary_base ** (-np.arange(half) / half)
    angles = np.arange(length)[:, None] * frequencies[None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate the halves of each head of `[B, L, A, H]` by angles `[L, H / 2]`, in float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Block(nnx.Module):
    """Post-norm attention and feed-forward."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        c = config
        self.q, self.k, self.v, self.out = attention_maps(c.width, c.heads, **options)
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.hidden, self.mlp_out = mlp_maps(c.width, c.mlp_width, **options)
        self.mlp_norm = LayerNorm(c.width, epsilon=c.epsilon)

    @traced_once()
    def __call__(self, x: Array, mask: Array, cos: Array, sin: Array) -> Array:
        """Map tokens `[B, L, D]` float32; `mask` [B, L] bool hides padding."""
        y = attend(rotate(self.q(x), cos, sin), rotate(self.k(x), cos, sin), self.v(x), mask)
        x = self.norm(x + self.out(y).astype(x.dtype))
        x = self.mlp_norm(x + self.mlp_out(gelu(self.hidden(x))).astype(x.dtype))
        return constrain(x, "batch", None, None)


class TextTower(nnx.Module):
    """Text into features."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        self.config = c = config
        self.embedding = table(c.vocabulary, c.width, "vocab")
        self.types = table(c.types, c.width, None)
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))

    def tokens(self, ids: Array) -> Array:
        """Read text `[B, L]` int32 into tokens `[B, L, D]` float32."""
        mask = ids != self.config.padding
        x = self.embedding[...][ids].astype(jnp.float32)
        x = self.norm(x + self.types[...][0].astype(jnp.float32)[None, None])
        cos, sin = map(jnp.asarray, rotary_table(self.config, ids.shape[1]))
        for block in self.blocks:
            x = block(x, mask, cos, sin)
        return x

    def __call__(self, ids: Array) -> Array:
        """Read text `[B, L]` int32, padded, into features `[B, D]` float32, any length."""
        mask = (ids != self.config.padding).astype(jnp.float32)
        total = jnp.einsum("bld,bl->bd", self.tokens(ids), mask, precision="highest")
        return total / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
