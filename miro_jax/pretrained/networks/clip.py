"""CLIP: a tower that reads images and one that reads text, into one space.

    vision    x = LN([class ; patches W] + positions), blocks, LN(x[class]) P
    text      x = embedding[ids] + positions, causal blocks, LN(x)[end] P
    block     x += attention(LN x);  x += W2 act(W1 LN x)
    score     exp(logit_scale) <u, v> / (|u| |v|)

`act` is the exact GELU or "quick" GELU, x sigmoid(1.702 x). The stream x between blocks is float32,
as it is under PyTorch's autocast; matrix products run in `dtype`, which the last product of a
score does not.

Source: Radford et al. 2021 (arXiv 2103.00020); Hugging Face's `CLIPModel` and open_clip name the
weights, see `miro_jax.pretrained.networks.clip_keys`.

Letters: B batch, H W image, P patch side, N image tokens with the class token first, L text
tokens, D width, E width of the shared space.
"""

import dataclasses
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models import attention
from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, Linear
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks import cpu
from miro_jax.pretrained.networks.transformer import (
    ACTIVATIONS,
    Options,
    Patches,
    Sizes,
    attention_maps,
    mlp_maps,
    table,
)

Array = jax.Array
SLICE = 4  # images that a CPU encodes at a time
# Of the images that OpenAI trained on, in [0, 1]; CLIP, BLIP and their kin all use them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class StackConfig(Sizes):
    """Sizes that both towers have."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str  # a key of ACTIVATIONS
    epsilon: float  # of every norm

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads; got {self.width} / {self.heads}.")
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}; got {self.activation!r}.")


@dataclasses.dataclass(frozen=True)
class VisionConfig(StackConfig):
    """Sizes of the tower that reads images.

    Attributes:
      image_size, patch_size: sides in pixels. projection: E; None omits the last norm and the
        projection, for users of the tokens alone.
    """

    image_size: int
    patch_size: int
    projection: int | None = None


@dataclasses.dataclass(frozen=True)
class TextConfig(StackConfig):
    """Sizes of the tower that reads text.

    Attributes:
      vocabulary: rows of the embedding. max_tokens: the longest L. projection: E.
      end_token: the text's feature stands at its first position; None takes the
        largest token's.
    """

    vocabulary: int
    max_tokens: int
    projection: int
    end_token: int | None


class Block(nnx.Module):
    """Pre-norm residual attention and feed-forward."""

    def __init__(self, config: StackConfig, **options: Unpack[Options]):
        c = config
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.q, self.k, self.v, self.out = attention_maps(c.width, c.heads, **options)
        self.mlp_norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.hidden, self.mlp_out = mlp_maps(c.width, c.mlp_width, **options)
        self.activation = c.activation

    @traced_once("causal")
    def __call__(self, x: Array, causal: bool) -> Array:
        """Map tokens `[B, N, D]` float32; `causal` hides later tokens."""
        y = self.norm(x)
        y = cpu.attend(self.q(y), self.k(y), self.v(y), causal=causal)
        return constrain(self._add(x, y), "batch", None, None)

    def one_token(self, x: Array, position: Array, mask: Array | None = None) -> Array:
        """Map a single token of each row, as `__call__` maps it; the others are not computed.

        Args:
          x: [B, N, D] float32. position: [B] int32, of the token.
          mask: [B, N] bool, False hides a token from it.

        Returns:
          [B, 1, D].
        """
        position = position[:, None, None]
        y = self.norm(x)
        q = self.q(jnp.take_along_axis(y, position, axis=1))  # [B, 1, A, H]
        y = attention.attend(q, self.k(y), self.v(y), mask)
        return self._add(jnp.take_along_axis(x, position, axis=1), y)

    def _add(self, x: Array, attended: Array) -> Array:
        x = x + self.out(attended).astype(x.dtype)
        y = ACTIVATIONS[self.activation](self.hidden(self.mlp_norm(x)))
        return x + self.mlp_out(y).astype(x.dtype)


class VisionTower(nnx.Module):
    """Images into features of the shared space, or into tokens."""

    def __init__(self, config: VisionConfig, **options: Unpack[Options]):
        self.config = c = config
        self.patches = Patches(c.image_size, c.patch_size, c.width, use_bias=False, **options)
        self.norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))
        if c.projection is not None:
            self.out_norm = LayerNorm(c.width, epsilon=c.epsilon)
            self.projection = _projection(c.width, c.projection, **options)

    def tokens(self, images: Array, num_blocks: int | None = None) -> Array:
        """Encode images as tokens, without the last norm.

        Args:
          images: [B, H, W, 3] float32, normalised (see `normalize`).
          num_blocks: how many of the blocks to run; None runs all. Hugging Face's hidden state of
            index -2 is that of `config.layers - 1`.

        Returns:
          [B, N, D] float32; the class token is the first, patches follow row by row.
        """
        return cpu.by_slices(partial(self._tokens, num_blocks=num_blocks), images, SLICE)

    def __call__(self, images: Array) -> Array:
        """Encode normalised images `[B, H, W, 3]` as features `[B, E]` float32, any length."""
        return cpu.by_slices(self._features, images, SLICE)

    def _tokens(self, images: Array, num_blocks: int | None) -> Array:
        x = self.norm(self.patches(images))
        for block in self.blocks[:num_blocks]:
            x = block(x, causal=False)
        return x

    def _features(self, images: Array) -> Array:
        x = self.tokens(images, self.config.layers - 1)
        x = self.blocks[-1].one_token(x, jnp.zeros(len(x), jnp.int32))
        return self.projection(self.out_norm(x[:, 0])).astype(jnp.float32)


class TextTower(nnx.Module):
    """Text into features of the shared space."""

    def __init__(self, config: TextConfig, **options: Unpack[Options]):
        self.config = c = config
        self.embedding = table(c.vocabulary, c.width, "vocab")
        self.positions = table(c.max_tokens, c.width, "tokens")
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))
        self.out_norm = LayerNorm(c.width, epsilon=c.epsilon)
        self.projection = _projection(c.width, c.projection, **options)

    def __call__(self, ids: Array) -> Array:
        """Read text `[B, L]` int32 into features `[B, E]` float32, any length.

        What follows the end token has no effect: no mask is needed and L may be cut to fit.
        """
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise ValueError(f"ids must be [B, at most {self.config.max_tokens}]; got {ids.shape}.")
        x = self.embedding[...][ids].astype(jnp.float32)
        x = x + self.positions[...][None, :length].astype(jnp.float32)
        for block in self.blocks[:-1]:
            x = block(x, causal=True)
        end = self.config.end_token
        last = jnp.argmax(ids if end is None else ids == end, axis=1)  # the first of several
        x = self.blocks[-1].one_token(x, last, jnp.arange(length)[None] <= last[:, None])
        return self.projection(self.out_norm(x[:, 0])).astype(jnp.float32)


def _projection(width: int, out_width: int, **options: Unpack[Options]) -> Linear:
    return Linear((width, out_width), ("embed", "mlp"), use_bias=False, **options)


def normalize(images: Array) -> Array:
    """Normalise images as the towers read them.

    Args:
      images: [B, H, W, 3] uint8 in [0, 255], or float32 on the scale of [0, 1].

    Returns:
      [B, H, W, 3] float32, (image - MEAN) / STD.
    """
    x = images.astype(jnp.float32)
    if images.dtype == jnp.uint8:
        x = x * (1 / 255)
    mean, std = (jnp.array(of, jnp.float32).reshape(1, 1, 1, 3) for of in (MEAN, STD))
    return (x - mean) / std


def normed(features: Array) -> Array:
    """Divide features `[B, E]` by their lengths, in float32; a zero row stays zero."""
    x = features.astype(jnp.float32)
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length == 0, 1.0, length)
