"""BLIP: a ViT encodes an image as tokens, a BERT reads a text and attends to them in every layer.

    vision    x = [class ; patches W + b] + positions, pre-norm blocks, LN(x) of every token
    text      x = LN(embedding[ids] + positions), blocks, all post-norm
    block     x = LN(x + attention(x));  x = LN(x + attention(x, image))
              x = LN(x + W2 gelu(W1 x))

Text tokens see each other in both directions, padding is hidden; every text token sees every token
of the image. The streams between blocks are float32, as under PyTorch's autocast; matrix products
run in `dtype`.

Source: Li et al. 2022 (arXiv 2201.12086); ImageReward (Xu et al. 2023, arXiv 2304.05977) names the
weights as BLIP's own code does, see `miro_jax.pretrained.networks.blip_keys`.

Letters: B batch, H W image, N image tokens with the class token first, L text tokens, D width,
S width of the image tokens, A heads.
"""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models.attention import attend
from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks.clip import Block, StackConfig, VisionConfig
from miro_jax.pretrained.networks.transformer import (
    ACTIVATIONS,
    Options,
    Patches,
    attention_maps,
    mlp_maps,
    table,
)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TextConfig(StackConfig):
    """Sizes of the tower that reads text.

    Attributes:
      vocabulary: rows of the embedding. max_tokens: the longest L. source_width: S.
    """

    vocabulary: int
    max_tokens: int
    source_width: int


class VisionTower(nnx.Module):
    """Images into tokens."""

    def __init__(self, config: VisionConfig, **options: Unpack[Options]):
        self.config = c = config
        self.dtype = options.get("dtype", jnp.float32)
        self.patches = Patches(c.image_size, c.patch_size, c.width, **options)
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))
        self.out_norm = LayerNorm(c.width, epsilon=c.epsilon)

    def __call__(self, images: Array) -> Array:
        """Encode images as tokens.

        Args:
          images: [B, H, W, 3] float32, normalised (see `clip.normalize`).

        Returns:
          [B, N, S] in `dtype`, the class token first.
        """
        x = self.patches(images)
        for block in self.blocks:
            x = block(x, causal=False)
        return self.out_norm(x).astype(self.dtype)


class Attention(nnx.Module):
    """Attention of tokens to a source, themselves or others; added to them and normed."""

    def __init__(self, config: TextConfig, source_width: int, **options: Unpack[Options]):
        c = config
        maps = attention_maps(c.width, c.heads, source_width, **options)
        self.q, self.k, self.v, self.out = maps
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)

    def __call__(self, x: Array, source: Array, mask: Array | None = None) -> Array:
        """Map tokens `[B, L, D]` float32; `mask` hides source tokens where False."""
        y = attend(self.q(x), self.k(source), self.v(source), mask)
        return self.norm(x + self.out(y).astype(x.dtype))


class TextBlock(nnx.Module):
    """Post-norm attention, cross-attention and feed-forward."""

    def __init__(self, config: TextConfig, **options: Unpack[Options]):
        c = config
        self.attention = Attention(c, c.width, **options)
        self.cross = Attention(c, c.source_width, **options)
        self.hidden, self.out = mlp_maps(c.width, c.mlp_width, **options)
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.activation = c.activation

    @traced_once()
    def __call__(self, x: Array, mask: Array, source: Array) -> Array:
        """Map text tokens `[B, L, D]` float32 with image tokens `[B, N, S]`."""
        x = self.cross(self.attention(x, x, mask), source)
        y = ACTIVATIONS[self.activation](self.hidden(x))
        x = self.norm(x + self.out(y).astype(x.dtype))
        return constrain(x, "batch", None, None)


class TextTower(nnx.Module):
    """Text that attends to an image, into tokens."""

    def __init__(self, config: TextConfig, **options: Unpack[Options]):
        self.config = c = config
        self.embedding = table(c.vocabulary, c.width, "vocab")
        self.positions = table(c.max_tokens, c.width, "tokens")
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.blocks = nnx.List(TextBlock(c, **options) for _ in range(c.layers))

    def __call__(self, ids: Array, mask: Array, source: Array) -> Array:
        """Read text.

        Args:
          ids: [B, L] int32. mask: [B, L] bool, False hides padding.
          source: [B, N, S] image tokens.

        Returns:
          [B, L, D] float32; the first token stands for the pair of text and image.
        """
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise ValueError(f"ids must be [B, at most {self.config.max_tokens}]; got {ids.shape}.")
        x = self.embedding[...][ids].astype(jnp.float32)
        x = self.norm(x + self.positions[...][None, :length].astype(jnp.float32))
        for block in self.blocks:
            x = block(x, mask, source)
        return x
