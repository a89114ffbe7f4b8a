"""Layers of the velocity network: linear maps, norms, feed-forward, embeddings, tables.

Every parameter is float32 and names its logical axes (see `models.sharding`); matrix products run
in `dtype`, statistics of norms, softmax and Fourier features in float32. Packed projections keep
the pack and the heads as axes of their own (`[D, 3, A, H]`), so a mesh can split heads without
cutting a pack.

Sizes follow the released network (Dufour et al. 2025, arXiv 2510.25897, appendix; official 0.1.4).

Letters: B batch, N tokens, D width, A heads, H head width, F MLP width.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models.compiling import row_major
from miro_jax.models.draws import draw

Array = jax.Array
EPSILON = 1e-6  # of every norm in the release


class Buffer(nnx.Variable):
    """A fixed array that belongs to the checkpoint but is never trained (Fourier frequencies)."""


def xavier_uniform(rngs: nnx.Rngs, shape: Sequence[int], num_in: int) -> Array:
    """Draw a kernel whose first `num_in` axes are inputs; Xavier's bound of the whole pack."""
    fan_in, fan_out = math.prod(shape[:num_in]), math.prod(shape[num_in:])
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return jnp.maximum(-bound, draw(rngs, "uniform", shape) * (2 * bound) - bound)


def normal_table(
    rngs: nnx.Rngs, shape: tuple[int, int], axes: tuple[str, str], std: float
) -> nnx.Param:
    """Make a learned table of rows: normal with std `std`, cut at two of them."""
    table = std * draw(rngs, "cut_normal", shape)
    return nnx.Param(table, out_sharding=axes)


def cuts_kernels() -> bool:
    """Return whether packed products are computed part by part: by GPUs as one."""
    return jax.default_backend() != "gpu"


class Linear(nnx.Module):
    """`y = x W + b` over the last `num_in` axes of x; inputs and outputs may be several axes."""

    def __init__(
        self,
        shape: Sequence[int],
        axes: Sequence[str | None],
        *,
        rngs: nnx.Rngs,
        num_in: int = 1,
        use_bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ):
        self.kernel = nnx.Param(xavier_uniform(rngs, shape, num_in), out_sharding=tuple(axes))
        bias = jnp.zeros(shape[num_in:], jnp.float32)
        self.bias = nnx.Param(bias, out_sharding=tuple(axes[num_in:])) if use_bias else None
        self.num_in, self.dtype = num_in, dtype

    def __call__(self, x: Array) -> Array:
        """Map `[..., *inputs]` to `[..., *outputs]` in `dtype`."""
        return self._map(x, self.kernel[...], None if self.bias is None else self.bias[...])

    def unpack(self, x: Array) -> list[Array]:
        """Map x by each part of a packed kernel `[D, pack, ...]`; a list of `[..., *outputs]`.

        On a CPU cutting the kernel is cheaper than cutting the activation, which is larger, in
        both passes. Elsewhere one large product is quicker than several, and what reads its result
        takes the part that it needs.
        """
        if not cuts_kernels():
            y = row_major(self(x))  # [..., pack, *outputs]
            axis = y.ndim - (self.kernel[...].ndim - self.num_in)
            return [jax.lax.index_in_dim(y, i, axis, False) for i in range(y.shape[axis])]
        kernel = self.kernel[...]
        biases = [None] * kernel.shape[1] if self.bias is None else list(self.bias[...])
        return [self._map(x, kernel[:, i], bias) for i, bias in enumerate(biases)]

    def _map(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        y = jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), axes=self.num_in)
        if bias is None:
            return y
        if bias.ndim == 1 or cuts_kernels() or _is_split_by_model():
            return y + _over_last(bias, y)
        # cuBLASLt adds a bias of one axis where it multiplies; of several, XLA writes it out for
        # every token first, and reads it back.
        flat = y.reshape(*y.shape[: -bias.ndim], bias.size)
        return (flat + _over_last(bias.reshape(-1), flat)).reshape(y.shape)


def _is_split_by_model() -> bool:
    """Return whether the mesh parts heads and hidden widths, which then must not be merged."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("model", 1) > 1


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, statistics in float32, learned scale."""

    def __init__(self, width: int, epsilon: float = EPSILON):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32), out_sharding=("embed",))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """Normalise `[..., D]`; the result has the dtype of x."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return y.astype(x.dtype) * _over_last(self.scale[...], x)


class LayerNorm(nnx.Module):
    """Mean-and-variance norm over the last axis, statistics in float32, learned scale and bias."""

    def __init__(
        self,
        width: int,
        axis: str | None = "embed",
        initial_scale: float = 1.0,
        epsilon: float = EPSILON,
    ):
        scale = jnp.full((width,), initial_scale, jnp.float32)
        self.epsilon = epsilon
        self.scale = nnx.Param(scale, out_sharding=(axis,))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32), out_sharding=(axis,))

    def __call__(self, x: Array) -> Array:
        """Normalise `[..., D]`; the result has the dtype of x."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        y = y * _over_last(self.scale[...], y) + _over_last(self.bias[...], y)
        return y.astype(x.dtype)


def _over_last(vector: Array, x: Array) -> Array:
    """Give a vector (or bias of several axes) the rank of x and its dtype: no silent promotion."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


class FourierFeatures(nnx.Module):
    """cos(2 pi f x + phase) sqrt(2), f ~ N(0, 1) and phase ~ U(0, 2 pi) fixed at initialisation."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        # The released buffers already hold 2 pi f; ours do too.
        self.frequencies = Buffer(draw(rngs, "frequency", (width,)))
        self.phases = Buffer(2 * math.pi * draw(rngs, "uniform", (width,)))

    def __call__(self, x: Array) -> Array:
        """Embed `[B]` float32 as `[B, width]` float32."""
        angle = (
            x.astype(jnp.float32)[:, None] * self.frequencies[...][None] + self.phases[...][None]
        )
        return jnp.cos(angle) * math.sqrt(2.0)


class ScalarEmbedding(nnx.Module):
    """Embed a number in [0, 1] (time, a level): Fourier features, standardise, two linears."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        self.fourier = FourierFeatures(width // 4, rngs=rngs)
        self.hidden = Linear((width // 4, width), ("fourier", "mlp"), rngs=rngs, dtype=dtype)
        self.out = Linear((width, width), ("mlp", "embed"), rngs=rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        """Embed `[B]` float32 as `[B, D]`."""
        y = self.fourier(x)
        mean = jnp.mean(y, axis=-1, keepdims=True)
        # Unbiased std and no epsilon, as the release computes it.
        std = jnp.std(y, axis=-1, keepdims=True, ddof=1)
        return self.out(nnx.silu(self.hidden((y - mean) / std)))


class SwiGLU(nnx.Module):
    """Gated feed-forward `W2 (a * silu(b))`; hidden width 2/3 `multiplier` D, rounded up."""

    def __init__(
        self,
        width: int,
        multiplier: int,
        multiple: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ):
        hidden = -(-int(multiplier * width * 2 / 3) // multiple) * multiple
        self.packed = Linear((width, 2, hidden), ("embed", "pack", "mlp"), rngs=rngs, dtype=dtype)
        self.out = Linear((hidden, width), ("mlp", "embed"), rngs=rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        """Map `[B, N, D]` to `[B, N, D]`; the value half comes first in the pack."""
        value, gate = self.packed.unpack(x)  # each [B, N, F]
        return self.out(value * nnx.silu(gate))


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """x Phi(x), computed in float32 by erf, as PyTorch does it; the backward pass keeps the slope.

    jax.nn.gelu takes erfc, which XLA for TPUs compiles into a product for half a minute.
    """
    f = x.astype(jnp.float32)
    return (f * 0.5 * _twice_cdf(f)).astype(x.dtype)


@gelu.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    f = x.astype(jnp.float32)
    twice = _twice_cdf(f)
    slope = 0.5 * twice + f * jnp.exp(-0.5 * f * f) / math.sqrt(2 * math.pi)
    return gelu(x), slope.astype(x.dtype) * dx


def _twice_cdf(x: Array) -> Array:
    return 1 + jax.lax.erf(x * math.sqrt(0.5))  # 2 Phi(x)


class GeluMLP(nnx.Module):
    """Feed-forward with exact (erf) GELU, hidden width `multiplier * D`."""

    def __init__(
        self, width: int, multiplier: int, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32
    ):
        hidden = multiplier * width
        self.hidden = Linear((width, hidden), ("embed", "mlp"), rngs=rngs, dtype=dtype)
        self.out = Linear((hidden, width), ("mlp", "embed"), rngs=rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        """Map `[B, N, D]` to `[B, N, D]`."""
        return self.out(gelu(self.hidden(x)))


class LayerScale(nnx.Module):
    """Learned gain of a residual branch, one number per channel, starting at 0.1."""

    def __init__(self, width: int):
        self.layer_scale = nnx.Param(jnp.full((width,), 0.1, jnp.float32), out_sharding=("embed",))

    def __call__(self, x: Array) -> Array:
        """Scale `[..., D]`."""
        return x * _over_last(self.layer_scale[...], x)


class Table(nnx.Module):
    """A learned table of rows, added to or used as tokens."""

    def __init__(self, rows: int, width: int, axis: str, *, std: float, rngs: nnx.Rngs):
        self.table = normal_table(rngs, (rows, width), (axis, "embed"), std)


class LogVariance(nnx.Module):
    """u(t): the learned log-variance of the loss at a time; used in training only."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.fourier = FourierFeatures(features, rngs=rngs)
        self.out = Linear((features, 1), ("fourier", "one"), rngs=rngs)

    def __call__(self, t: Array) -> Array:
        """Return u `[B]` float32 for times `[B]`."""
        return self.out(self.fourier(1.0 - t))[:, 0]
