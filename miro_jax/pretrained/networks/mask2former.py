"""Mask2Former on Swin: 100 queries, each with a class and a mask.

    pixels    features of strides 32, 16, 8 -> 1x1, GroupNorm -> deformable encoder -> memories
              stride 4: 1x1, GroupNorm, + memory of stride 8, 3x3, GroupNorm, relu, 1x1 -> F
    decoder   queries q start from a table; layer i reads the memory of stride 32, 16, 8, 32, ...
              q = LN(q + cross(q + p, memory + sine, memory));  q = LN(q + self(q + p));
              q = LN(q + W2 relu(W1 q))
    heads     class = W LN(q);  mask = <MLP(LN q), F>

A query reads a memory only where its mask, predicted from the queries before the layer, is
positive; one whose mask is negative everywhere reads all of it. That mask is F brought to the
memory's size (bilinear) times the query: the same as bringing the mask there, and less work.

Source: Cheng et al. 2022 (arXiv 2112.01527); mmdet and transformers name the weights, see
`mask2former_keys`. Sizes are those of Swin-S on COCO: box AP 49.3, mask AP 46.1 (mmdet).

Letters: B batch, H W image, h w map, N tokens of a map, Q queries, K classes, C width.
"""

import dataclasses
import functools
import math
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import LayerNorm, Linear, xavier_uniform
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks import bilinear, cpu, deformable
from miro_jax.pretrained.networks.swin import Swin, SwinConfig
from miro_jax.pretrained.networks.transformer import (
    Options,
    Sizes,
    attention_maps,
    mlp_maps,
    table,
)
from miro_jax.pretrained.networks.vae import GroupNorm

Array = jax.Array
EPSILON = 1e-5  # of every norm
GROUPS = 32  # of the GroupNorms
LEVELS = 3  # memories, of strides 32, 16 and 8
TEMPERATURE = 10000.0  # of the sine positions


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """Sizes.

    Attributes:
      backbone: of Swin. width: C. heads: of all attentions. points: of the deformable ones.
      encoder_layers, encoder_mlp: of the pixel decoder. decoder_layers, decoder_mlp: of the other.
      queries: Q. classes: K, "none" not counted.
    """

    backbone: SwinConfig = SwinConfig()
    width: int = 256
    heads: int = 8
    points: int = 4
    encoder_layers: int = 6
    encoder_mlp: int = 1024
    decoder_layers: int = 9
    decoder_mlp: int = 2048
    queries: int = 100
    classes: int = 80


@functools.lru_cache(maxsize=64)
def sine_positions(height: int, width: int, channels: int) -> np.ndarray:
    """Return the positions [h w, channels] float32 of a map's tokens: first of y, then of x."""
    half = channels // 2
    frequency = TEMPERATURE ** (-2 * (np.arange(half) // 2) / half)
    sides = []
    for count in (height, width):
        angle = np.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi
        angle = angle[:, None] * frequency[None]
        sides.append(np.where(np.arange(half)[None] % 2, np.cos(angle), np.sin(angle)))
    y, x = np.repeat(sides[0], width, axis=0), np.tile(sides[1], (height, 1))
    return np.concatenate([y, x], axis=1).astype(np.float32)


def tokens(x: Array) -> Array:
    """Write a map `[B, h, w, C]` as tokens `[B, h w, C]`, row by row."""
    return x.reshape(len(x), -1, x.shape[-1])


class Projection(nnx.Module):
    """1x1 convolution and GroupNorm."""

    def __init__(self, inputs: int, width: int, use_bias: bool, **options: Unpack[Options]):
        shape = (inputs, width)
        self.linear = Linear(shape, ("channels", "channels"), use_bias=use_bias, **options)
        self.norm = GroupNorm(width, GROUPS, EPSILON)

    def __call__(self, x: Array) -> Array:
        """Map `[B, h, w, inputs]` to `[B, h, w, C]` float32."""
        return self.norm(self.linear(x).astype(jnp.float32))


class PixelDecoder(nnx.Module):
    """Features of the backbone into three memories and the features of masks."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        c, self.dtype = config, options.get("dtype", jnp.float32)
        channels = c.backbone.channels
        self.projections = nnx.List(
            Projection(inputs, c.width, True, **options) for inputs in channels[:0:-1]
        )
        self.level_encoding = table(LEVELS, c.width, None)
        sizes = (c.width, c.heads, c.encoder_mlp, LEVELS, c.points)
        layers = (deformable.Layer(*sizes, **options) for _ in range(c.encoder_layers))
        self.layers = nnx.List(layers)
        self.lateral = Projection(channels[0], c.width, False, **options)
        kernel = xavier_uniform(options["rngs"], (3, 3, c.width, c.width), 3)
        self.kernel = nnx.Param(kernel, out_sharding=(None, None, "channels", "channels"))
        self.norm = GroupNorm(c.width, GROUPS, EPSILON)
        self.out = Linear((c.width, c.width), ("channels", "channels"), **options)

    def __call__(self, features: list[Array]) -> tuple[list[Array], Array]:
        """Map features of strides 4, 8, 16, 32 (see `swin`).

        Returns:
          Memories `[B, h, w, C]` of strides 32, 16, 8, and mask features `[B, h, w, C]` of stride
          4, float32.
        """
        maps = [p(x) for p, x in zip(self.projections, features[:0:-1], strict=True)]
        shapes = tuple((x.shape[1], x.shape[2]) for x in maps)
        width = maps[0].shape[-1]
        encoding = self.level_encoding[...].astype(jnp.float32)
        sines = [jnp.asarray(sine_positions(*shape, width)) for shape in shapes]
        places = [sine + encoding[level][None] for level, sine in enumerate(sines)]
        positions = jnp.concatenate(places)[None]  # [1, N, C]
        x = jnp.concatenate([tokens(x) for x in maps], axis=1)  # [B, N, C]
        for layer in self.layers:
            x = layer(x, positions, shapes)
        ends = np.cumsum([height * width for height, width in shapes])[:-1]
        parts = jnp.split(x, ends.tolist(), axis=1)
        memories = [part.reshape(old.shape) for part, old in zip(parts, maps, strict=True)]
        y = self.lateral(features[0])
        y = y + bilinear.resize(memories[-1], *y.shape[1:3])
        y = cpu.convolve(y.astype(self.dtype), self.kernel[...].astype(self.dtype))
        y = nnx.relu(self.norm(y.astype(jnp.float32)))
        return memories, self.out(y).astype(jnp.float32)


class Attention(nnx.Module):
    """Attention of queries to a source."""

    def __init__(self, width: int, heads: int, **options: Unpack[Options]):
        self.q, self.k, self.v, self.out = attention_maps(width, heads, **options)

    def __call__(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """Map `[B, Q, C]`, `[B, N, C]`, `[B, N, C]`; `mask` [B, Q, N] bool, False is hidden."""
        mask = None if mask is None else mask[:, None]
        heads = (self.q(q), self.k(k), self.v(v))
        return self.out(jax.nn.dot_product_attention(*heads, mask=mask))


class DecoderLayer(nnx.Module):
    """Cross-attention, self-attention, feed-forward, residual, the norms last."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        c = config
        self.cross = Attention(c.width, c.heads, **options)
        self.cross_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.own = Attention(c.width, c.heads, **options)
        self.own_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.hidden, self.mlp_out = mlp_maps(c.width, c.decoder_mlp, **options)
        self.mlp_norm = LayerNorm(c.width, epsilon=EPSILON)

    @traced_once()
    def __call__(
        self, x: Array, positions: Array, memory: Array, sines: Array, mask: Array
    ) -> Array:
        """Map queries `[B, Q, C]` float32.

        Args:
          positions: [1, Q, C] of the queries. memory: [B, N, C]. sines: [1, N, C].
          mask: [B, Q, N] bool, where a query reads.
        """
        y = self.cross(x + positions, memory + sines, memory, mask)
        x = self.cross_norm(x + y.astype(x.dtype))
        y = self.own(x + positions, x + positions, x)
        x = self.own_norm(x + y.astype(x.dtype))
        y = self.mlp_out(nnx.relu(self.hidden(x)))
        return self.mlp_norm(x + y.astype(x.dtype))


class Decoder(nnx.Module):
    """Queries that read the memories, and their classes and masks."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        c = config
        self.queries = table(c.queries, c.width, None)
        self.query_positions = table(c.queries, c.width, None)
        self.level_encoding = table(LEVELS, c.width, None)
        self.layers = nnx.List(DecoderLayer(c, **options) for _ in range(c.decoder_layers))
        self.out_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.classes = Linear((c.width, c.classes + 1), ("embed", None), **options)
        axes = ("embed", "mlp")
        maps = (Linear((c.width, c.width), axes, **options) for _ in range(3))
        self.mask_maps = nnx.List(maps)

    def __call__(self, memories: list[Array], features: Array) -> tuple[Array, Array]:
        """Read memories `[B, h, w, C]` and mask features `[B, h, w, C]`; see `Mask2Former`."""
        encoding = self.level_encoding[...].astype(jnp.float32)
        sources, sines, small = [], [], []
        for level, memory in enumerate(memories):
            _, height, width, channels = memory.shape
            sources.append(tokens(memory) + encoding[level][None, None])
            sines.append(jnp.asarray(sine_positions(height, width, channels))[None])
            small.append(tokens(bilinear.resize(features, height, width)))
        positions = self.query_positions[...].astype(jnp.float32)[None]
        x = self.queries[...].astype(jnp.float32)[None]
        x = jnp.broadcast_to(x, (len(features), *x.shape[1:]))
        for number, layer in enumerate(self.layers):
            level = number % LEVELS
            mask = jnp.einsum("bqc,bnc->bqn", self.mask_embedding(x), small[level]) >= 0
            mask = mask | ~mask.any(axis=-1, keepdims=True)
            x = layer(x, positions, sources[level], sines[level], mask)
            x = constrain(x, "batch", None, None)
        classes = self.classes(self.out_norm(x)).astype(jnp.float32)
        return classes, jnp.einsum("bqc,bhwc->bqhw", self.mask_embedding(x), features)

    def mask_embedding(self, x: Array) -> Array:
        """Return what the mask features are multiplied by, `[B, Q, C]` float32."""
        x = self.out_norm(x)
        for linear in self.mask_maps[:-1]:
            x = nnx.relu(linear(x))
        return self.mask_maps[-1](x).astype(jnp.float32)


class Mask2Former(nnx.Module):
    """Images into classes and masks of queries."""

    def __init__(self, config: Config, **options: Unpack[Options]):
        self.config = config
        self.backbone = Swin(config.backbone, **options)
        self.pixels = PixelDecoder(config, **options)
        self.decoder = Decoder(config, **options)

    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Detect.

        Args:
          images: [B, H, W, 3] float32, normalised.

        Returns:
          Class logits `[B, Q, K + 1]`, the last "none", and mask logits `[B, Q, h, w]` of stride 4,
          both float32.
        """
        return self.decoder(*self.pixels(self.backbone(images)))
