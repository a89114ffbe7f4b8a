"""SDXL's autoencoder (diffusers `AutoencoderKL`): images to image latents and back.

    resnet:     x <- skip(x) + conv(silu(norm(conv(silu(norm x)))))      skip: identity or 1x1
    attention:  x <- x + O softmax(Q(norm x) K(norm x)^T / sqrt C) V(norm x)     one head
    encoder:    conv, levels of resnets (each but the last ends by halving the sides), resnet,
                attention, resnet, norm, silu, conv, 1x1 conv  ->  moments = (mean, log variance)
    decoder:    1x1 conv, conv, resnet, attention, resnet, levels of one resnet more (each but the
                last ends by doubling the sides), norm, silu, conv

Convolutions are 3x3; norms are group norms with statistics in float32. Halving pads one row of
zeros below and one column on the right, and nothing else. The moments are those of the raw
posterior: the published scaling factor is no part of the network.

Sources: Podell et al. 2023 (arXiv 2307.01952), Rombach et al. 2022 (arXiv 2112.10752); diffusers,
`models/autoencoders`. Weights: `diffusion_pytorch_model.safetensors` of stabilityai/sdxl-vae.

Letters: B batch, H W image, h w image latents, C channels, N = h w pixels as tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models.attention import attend
from miro_jax.models.layers import EPSILON, Linear, xavier_uniform
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks import cpu
from miro_jax.pretrained.networks.transformer import Options, Sizes

Array = jax.Array
LOWEST_LOG_VARIANCE, HIGHEST_LOG_VARIANCE = -30.0, 20.0  # the published clamp


@dataclasses.dataclass(frozen=True)
class VAEConfig(Sizes):
    """Sizes of the autoencoder.

    Attributes:
      in_channels, out_channels: of images. latent_channels: of image latents.
      block_out_channels: C of each level, from the images' side on.
      layers_per_block: resnets of a level of the encoder; the decoder has one more.
      norm_num_groups: of all norms.
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int

    @property
    def factor(self) -> int:
        """Pixels along a side for one pixel of image latents."""
        return 2 ** (len(self.block_out_channels) - 1)


class Conv(nnx.Module):
    """3x3 convolution with bias that keeps the sides, halves or doubles them.

    Args:
      scaling: None; "halve", with a row of zeros below and a column on the right; or "double", by
        repeating each pixel before.
    """

    def __init__(
        self, inputs: int, outputs: int, scaling: str | None = None, **options: Unpack[Options]
    ):
        if scaling not in (None, "halve", "double"):
            raise ValueError(f"scaling must be None, 'halve' or 'double'; got {scaling!r}.")
        kernel = xavier_uniform(options["rngs"], (3, 3, inputs, outputs), 3)
        self.kernel = nnx.Param(kernel, out_sharding=(None, None, "channels", "channels"))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32), out_sharding=("channels",))
        self.scaling, self.dtype = scaling, options.get("dtype", jnp.float32)

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, inputs]` to `[B, H', W', outputs]` in `dtype`; H' is H, H // 2 or 2 H."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.scaling == "halve":
            y = cpu.direct(x, kernel, stride=2, padding=((0, 1), (0, 1)))
        else:
            y = cpu.convolve(x, kernel, double=self.scaling == "double")
        return y + self.bias[...].astype(self.dtype)[None, None, None]


class GroupNorm(nnx.Module):
    """Mean-and-variance norm over the pixels and channels of a group, statistics in float32."""

    def __init__(self, channels: int, groups: int, epsilon: float = EPSILON):
        if channels % groups:
            raise ValueError(
                f"channels must be a multiple of the groups of the norm; got {channels} channels "
                f"and {groups} groups."
            )
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32), out_sharding=("channels",))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32), out_sharding=("channels",))
        self.groups, self.epsilon = groups, epsilon

    def __call__(self, x: Array) -> Array:
        """Normalise `[B, H, W, C]`; the result has the dtype of x."""
        rows, height, width, channels = x.shape
        y = x.astype(jnp.float32).reshape(rows, height * width, self.groups, -1)
        y = y - jnp.mean(y, axis=(1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=(1, 3), keepdims=True)
        y = (y * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        scale, bias = (
            v[...].astype(jnp.float32)[None, None, None] for v in (self.scale, self.bias)
        )
        return (y * scale + bias).astype(x.dtype)


class Resnet(nnx.Module):
    """Two convolutions on a residual branch; a 1x1 convolution on the other where C changes."""

    def __init__(self, inputs: int, outputs: int, groups: int, **options: Unpack[Options]):
        self.norm1 = GroupNorm(inputs, groups)
        self.conv1 = Conv(inputs, outputs, **options)
        self.norm2 = GroupNorm(outputs, groups)
        self.conv2 = Conv(outputs, outputs, **options)
        self.shortcut = _pointwise(inputs, outputs, **options) if inputs != outputs else None

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, inputs]` to `[B, H, W, outputs]`."""
        y = self.conv1(nnx.silu(self.norm1(x)))
        y = self.conv2(nnx.silu(self.norm2(y)))
        x = x if self.shortcut is None else self.shortcut(x)
        return constrain(x + y, "batch", None, None, None)


class Attention(nnx.Module):
    """Attention of all pixels to all pixels, one head, on a residual branch."""

    def __init__(self, channels: int, groups: int, **options: Unpack[Options]):
        self.norm = GroupNorm(channels, groups)
        self.q = _pointwise(channels, channels, **options)
        self.k = _pointwise(channels, channels, **options)
        self.v = _pointwise(channels, channels, **options)
        self.out = _pointwise(channels, channels, **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, C]` to `[B, H, W, C]`."""
        rows, height, width, channels = x.shape
        tokens = self.norm(x).reshape(rows, height * width, 1, channels)  # [B, N, 1, C]
        y = attend(self.q(tokens), self.k(tokens), self.v(tokens), None)
        return x + self.out(y).reshape(x.shape)


class Middle(nnx.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, **options: Unpack[Options]):
        self.resnet1 = Resnet(channels, channels, groups, **options)
        self.attention = Attention(channels, groups, **options)
        self.resnet2 = Resnet(channels, channels, groups, **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, h, w, C]` to `[B, h, w, C]`."""
        return self.resnet2(self.attention(self.resnet1(x)))


class Level(nnx.Module):
    """Resnets at one resolution, then a convolution to the next one, but at the last level."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        count: int,
        groups: int,
        scaling: str | None,
        **options: Unpack[Options],
    ):
        self.resnets = nnx.List(
            Resnet(inputs if i == 0 else outputs, outputs, groups, **options) for i in range(count)
        )
        self.scaling = Conv(outputs, outputs, scaling, **options) if scaling else None

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, inputs]` to `[B, H', W', outputs]`; sides as they are, halved, doubled."""
        for resnet in self.resnets:
            x = resnet(x)
        if self.scaling is not None:
            x = constrain(self.scaling(x), "batch", None, None, None)
        return x


def _levels(
    sizes: Sequence[int], count: int, groups: int, scaling: str, **options: Unpack[Options]
) -> nnx.List:
    """Return one level for each of `sizes` channels; all but the last end by `scaling`."""
    ends = [scaling] * (len(sizes) - 1) + [None]
    steps = zip((sizes[0], *sizes), sizes, ends, strict=False)
    return nnx.List(Level(a, b, count, groups, end, **options) for a, b, end in steps)


class Encoder(nnx.Module):
    """Images to moments of the posterior."""

    def __init__(self, config: VAEConfig, **options: Unpack[Options]):
        sizes, groups = config.block_out_channels, config.norm_num_groups
        moments = 2 * config.latent_channels
        self.config, self.dtype = config, options.get("dtype", jnp.float32)
        self.conv_in = Conv(config.in_channels, sizes[0], **options)
        self.levels = _levels(sizes, config.layers_per_block, groups, "halve", **options)
        self.middle = Middle(sizes[-1], groups, **options)
        self.norm_out = GroupNorm(sizes[-1], groups)
        self.conv_out = Conv(sizes[-1], moments, **options)
        self.moments = _pointwise(moments, moments, rngs=options["rngs"])

    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Encode images.

        Args:
          images: [B, H, W, 3] float32 in [-1, 1]; sides that `factor` does not divide lose pixels
            on the right and below, as in the published network.

        Returns:
          (mean, log variance) of the posterior, each [B, H // factor, W // factor, latent_channels]
          float32; the log variance is clamped to [-30, 20].
        """
        x = self.conv_in(images.astype(self.dtype))
        for level in self.levels:
            x = level(x)
        x = self.conv_out(nnx.silu(self.norm_out(self.middle(x))))
        mean, log_variance = jnp.split(self.moments(x.astype(jnp.float32)), 2, axis=-1)
        return mean, log_variance.clip(LOWEST_LOG_VARIANCE, HIGHEST_LOG_VARIANCE)


class Decoder(nnx.Module):
    """Image latents to images."""

    def __init__(self, config: VAEConfig, **options: Unpack[Options]):
        sizes, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.config, self.dtype = config, options.get("dtype", jnp.float32)
        self.latents = _pointwise(*[config.latent_channels] * 2, rngs=options["rngs"])
        self.conv_in = Conv(config.latent_channels, sizes[0], **options)
        self.middle = Middle(sizes[0], groups, **options)
        self.levels = _levels(sizes, config.layers_per_block + 1, groups, "double", **options)
        self.norm_out = GroupNorm(sizes[-1], groups)
        self.conv_out = Conv(sizes[-1], config.out_channels, **options)

    def __call__(self, latents: Array) -> Array:
        """Decode image latents.

        Args:
          latents: [B, h, w, latent_channels] float32, a sample of the raw posterior.

        Returns:
          [B, h * factor, w * factor, 3] float32, about [-1, 1] and not clamped.
        """
        x = self.conv_in(self.latents(latents.astype(jnp.float32)).astype(self.dtype))
        x = self.middle(x)
        for level in self.levels:
            x = level(x)
        return self.conv_out(nnx.silu(self.norm_out(x))).astype(jnp.float32)


def _pointwise(inputs: int, outputs: int, **options: Unpack[Options]) -> Linear:
    """A 1x1 convolution."""
    return Linear((inputs, outputs), ("channels", "channels"), **options)
