"""Swin: attention inside windows of an image, shifted in every second block, in four stages.

    x = LN(patches W + b)
    block   x += attention(windows of LN x);  x += W2 gelu(W1 LN x)
    merging x = W LN([four neighbours]),  half the sides, twice the channels, between stages
    output  LN_s(x) after each stage s, strides 4, 8, 16 and 32

Attention is within windows of 7 x 7 tokens with a learned bias for each offset of a query to a key.
Odd blocks roll the map by 3 first; tokens that are neighbours only through the roll see each other
with -100 on their logits. The map is padded with zeros, after the norm, to whole windows: padded
tokens are keys like others, with the bias of the map as their content.

Source: Liu et al. 2021 (arXiv 2103.14030); mmdet and transformers name the weights, see
`mask2former_keys`. Both shift by 3 however small the map is.

Letters: B batch, H W map, K side of a window, N windows, T = K^2 tokens of a window, C channels,
A heads.
"""

import dataclasses
import functools
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, Linear, gelu
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks.transformer import (
    Options,
    Sizes,
    attention_maps,
    mlp_maps,
    table,
)

Array = jax.Array
EPSILON = 1e-5  # of every norm
PATCH = 4  # pixels of a side
HIDDEN = -100.0  # added to logits of tokens from elsewhere


@dataclasses.dataclass(frozen=True)
class SwinConfig(Sizes):
    """Sizes.

    Attributes:
      width: C of the first stage; each stage doubles it. depths, heads: of each stage.
      window: K. mlp_ratio: hidden width of a block over its C.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4

    def __post_init__(self):
        super().__post_init__()
        if len(self.depths) != len(self.heads) or any(w % a for w, a in self._stages):
            raise ValueError(
                "each stage must have heads that divide its channels; got channels "
                f"{self.channels} and heads {self.heads}."
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def _stages(self):
        return zip(self.channels, self.heads, strict=True)


@functools.cache
def relative_index(side: int) -> np.ndarray:
    """Return the row of the bias table, [T, T], of each query (first axis) and key of a window."""
    row, column = (axis.ravel() for axis in np.indices((side, side)))
    down, right = row[:, None] - row[None], column[:, None] - column[None]
    return (down + side - 1) * (2 * side - 1) + right + side - 1


@functools.lru_cache(maxsize=64)
def regions(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """Return the region, [N, T], of each token of a rolled map of whole windows.

    Tokens see each other only within a region. It has three bands an axis: what stays together, and
    both parts of the last window, of which one came from the other end.
    """
    ends = (-side, -shift)
    bands = [
        np.searchsorted([length + end for end in ends], np.arange(length), side="right")
        for length in (height, width)
    ]
    region = 3 * bands[0][:, None] + bands[1][None]
    windows = region.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    return windows.reshape(-1, side * side)


def to_windows(x: Array, side: int) -> Array:
    """Cut a map `[B, H, W, C]` of whole windows into `[B, N, T, C]`, row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return x.reshape(batch, -1, side * side, channels)


def from_windows(x: Array, height: int, width: int) -> Array:
    """Undo `to_windows`."""
    batch, _, tokens, channels = x.shape
    side = round(tokens**0.5)
    x = x.reshape(batch, height // side, width // side, side, side, channels).swapaxes(2, 3)
    return x.reshape(batch, height, width, channels)


class Block(nnx.Module):
    """Attention inside windows and feed-forward, residual, the norms first."""

    def __init__(self, channels: int, heads: int, config: SwinConfig, **options: Unpack[Options]):
        self.window, self.heads = config.window, heads
        self.norm = LayerNorm(channels, epsilon=EPSILON)
        self.q, self.k, self.v, self.out = attention_maps(channels, heads, **options)
        self.offset_bias = table((2 * self.window - 1) ** 2, heads, "tokens", "heads")
        self.mlp_norm = LayerNorm(channels, epsilon=EPSILON)
        self.hidden, self.mlp_out = mlp_maps(channels, config.mlp_ratio * channels, **options)

    @traced_once("shift")
    def __call__(self, x: Array, shift: int) -> Array:
        """Map `[B, H, W, C]` float32; `shift` rolls the map before it is cut into windows."""
        x = x + self.attend(self.norm(x), shift).astype(x.dtype)
        x = x + self.mlp_out(gelu(self.hidden(self.mlp_norm(x)))).astype(x.dtype)
        return constrain(x, "batch", None, None, None)

    def attend(self, x: Array, shift: int) -> Array:
        """Attend inside windows of a normed map `[B, H, W, C]`."""
        side, (_, height, width, _) = self.window, x.shape
        down, right = -height % side, -width % side
        x = jnp.pad(x, ((0, 0), (0, down), (0, right), (0, 0)))
        x = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        windows = to_windows(x, side)  # [B, N, T, C]
        logits = self.logits(windows)  # [B, N, A, T, T]
        if shift:
            region = regions(height + down, width + right, side, shift)
            apart = jnp.asarray(region)[:, :, None] != jnp.asarray(region)[:, None]  # [N, T, T]
            logits = logits + jnp.where(apart, HIDDEN, 0.0)[None, :, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(self.v.dtype)
        y = self.out(jnp.einsum("bnatu,bnuah->bntah", weights, self.v(windows)))
        y = from_windows(y, height + down, width + right)
        y = jnp.roll(y, (shift, shift), axis=(1, 2)) if shift else y
        return y[:, :height, :width]

    def logits(self, windows: Array) -> Array:
        """Return the logits `[B, N, A, T, T]` float32 of windows `[B, N, T, C]`."""
        q, k = self.q(windows), self.k(windows)  # [B, N, T, A, h]
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        bias = self.offset_bias[...].astype(jnp.float32)[relative_index(self.window)]  # [T, T, A]
        logits = jnp.einsum("bntah,bnuah->bnatu", q, k, preferred_element_type=jnp.float32)
        return logits + bias.transpose(2, 0, 1)[None, None]


class Merging(nnx.Module):
    """Four neighbours into one token: half the sides, twice the channels."""

    def __init__(self, channels: int, **options: Unpack[Options]):
        self.norm = LayerNorm(4 * channels, epsilon=EPSILON)
        shape, axes = (4 * channels, 2 * channels), ("embed", "mlp")
        self.linear = Linear(shape, axes, use_bias=False, **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), 2 C]`, zeros at odd ends."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)  # row, column, channel
        return self.linear(self.norm(x)).astype(jnp.float32)


class Stage(nnx.Module):
    """Blocks at one resolution, each second one shifted; then merging, but at the last stage."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        is_last: bool,
        config: SwinConfig,
        **options: Unpack[Options],
    ):
        blocks = (Block(channels, heads, config, **options) for _ in range(depth))
        self.blocks = nnx.List(blocks)
        self.out_norm = LayerNorm(channels, epsilon=EPSILON)
        self.merging = None if is_last else Merging(channels, **options)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Map `[B, H, W, C]` to its normed output and to the input of the next stage."""
        for number, block in enumerate(self.blocks):
            x = block(x, block.window // 2 if number % 2 else 0)
        return self.out_norm(x), x if self.merging is None else self.merging(x)


class Swin(nnx.Module):
    """Images into feature maps of four strides."""

    def __init__(self, config: SwinConfig, **options: Unpack[Options]):
        self.config = c = config
        shape, axes = (PATCH, PATCH, 3, c.width), ("patch", "patch", "patch", "embed")
        self.patches = Linear(shape, axes, num_in=3, **options)
        self.norm = LayerNorm(c.width, epsilon=EPSILON)
        last = len(c.depths) - 1
        each = enumerate(zip(c.channels, c.depths, c.heads, strict=True))
        self.stages = nnx.List(
            Stage(*sizes, is_last=number == last, config=c, **options) for number, sizes in each
        )

    def __call__(self, images: Array) -> list[Array]:
        """Map normalised images to features.

        Args:
          images: [B, H, W, 3] float32, any sides; the right and the lower end are padded by zeros.

        Returns:
          A list of `[B, ceil(H / stride), ceil(W / stride), C]` float32, strides 4, 8, 16, 32.
        """
        down, right = (-side % PATCH for side in images.shape[1:3])
        x = jnp.pad(images, ((0, 0), (0, down), (0, right), (0, 0)))
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).swapaxes(2, 3)
        x = self.norm(self.patches(x).astype(jnp.float32))
        outputs = []
        for stage in self.stages:
            output, x = stage(x)
            outputs.append(output)
        return outputs
