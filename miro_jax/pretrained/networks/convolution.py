"""3x3 convolutions and group norms of pictures; on CPUs with fewer multiplications.

Accelerators get `lax.conv_general_dilated`. On a CPU, in float32 and with many channels, the same
sums are taken in another way:

`by_tiles`, for a plain convolution. Four neighbouring rows of the result need six rows of the input
and, row by row, 12 products; Toom and Cook's algorithm takes 6. With d the six rows, g the three
rows of the kernel and the points 0, 1, -1, 2, -2 and infinity,

    y = A^T ((G g) * (B^T d)),

where * convolves a row with a row (3 taps along the width) and A^T, G, B^T are `FROM_PRODUCTS`,
`OF_KERNEL` and `OF_ROWS`. The result is off by about 3e-6 of its largest value, where the direct
sum is off by 6e-7. Tiles along both axes would save more products than they cost in memory traffic
only just, and lose another digit. (Lavin and Gray 2015, arXiv 1509.09308, section 4.)

`doubled_by_differences`, for doubling the sides (each pixel repeated) and convolving. Along one
axis, with the kernel (u, v, w), s = u + v + w and the pixels x,

    y[2i]     = u x[i-1] + (v + w) x[i] = s x[i] + u (x[i-1] - x[i])
    y[2i + 1] = (u + v) x[i] + w x[i+1] = s x[i] - w (x[i] - x[i+1]),

3 products where there were 6; along both axes 9 in place of 36. It is as exact as the direct sum.

Letters: B batch, H W picture, T tiles of 4 rows, C channels of the input, O of the output.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.layers import EPSILON, xavier_uniform

Array = jax.Array
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Below, the sums before and after the products cost more than is saved.
FEWEST_CHANNELS = 64
TILE = 4  # rows of the result that are computed together
OF_ROWS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
FROM_PRODUCTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


class Conv(nnx.Module):
    """3x3 convolution with bias that keeps the sides, halves or doubles them.

    Args:
      scaling: None; "halve", with a row of zeros below and a column on the right; or "double", by
        repeating each pixel before.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        scaling: str | None = None,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
    ):
        if scaling not in (None, "halve", "double"):
            raise ValueError(f"scaling must be None, 'halve' or 'double'; got {scaling!r}.")
        kernel = xavier_uniform(rngs, (3, 3, inputs, outputs), 3)
        self.kernel = nnx.Param(kernel, out_sharding=(None, None, "channels", "channels"))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32), out_sharding=("channels",))
        self.scaling, self.dtype = scaling, dtype

    def __call__(self, x: Array) -> Array:
        """Map `[B, H, W, inputs]` to `[B, H', W', outputs]` in `dtype`; H' is H, H // 2 or 2 H."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.scaling == "halve":
            y = direct(x, kernel, stride=2, padding=((0, 1), (0, 1)))
        else:
            plain, quick = direct, by_tiles
            if self.scaling == "double":
                plain, quick = doubled, doubled_by_differences
            if x.dtype == jnp.float32 and min(kernel.shape[2:]) >= FEWEST_CHANNELS:
                y = jax.lax.platform_dependent(x, kernel, cpu=quick, default=plain)
            else:
                y = plain(x, kernel)
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


def direct(
    x: Array,
    kernel: Array,
    stride: int = 1,
    padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1)),
) -> Array:
    """Convolve `[B, H, W, C]` with a kernel `[h, w, C, O]`, as the compiler does it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT
    )


def doubled(x: Array, kernel: Array) -> Array:
    """Repeat each pixel of `[B, H, W, C]` and convolve with `[3, 3, C, O]`: `[B, 2 H, 2 W, O]`."""
    return direct(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def by_tiles(x: Array, kernel: Array) -> Array:
    """Equal `direct(x, kernel)` of a 3x3 kernel with half of the multiplications."""
    rows, height, width, _ = x.shape
    tiles = -(-height // TILE)
    x = jnp.pad(x, ((0, 0), (1, 1 + tiles * TILE - height), (0, 0), (0, 0)))
    last = (tiles - 1) * TILE + 1
    taken = [jax.lax.slice_in_dim(x, i, i + last, TILE, axis=1) for i in range(len(OF_ROWS))]
    products = [
        direct(d, g[None], padding=((0, 0), (1, 1)))
        for d, g in zip(_combine(OF_ROWS, taken), _combine(OF_KERNEL, list(kernel)), strict=True)
    ]  # each [B, T, W, O]
    y = jnp.stack(_combine(FROM_PRODUCTS, products), axis=2)  # [B, T, 4, W, O]
    return y.reshape(rows, tiles * TILE, width, -1)[:, :height]


def doubled_by_differences(x: Array, kernel: Array) -> Array:
    """Equal `doubled(x, kernel)` with a quarter of the multiplications."""
    rows, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    u, s, w = (_kernel_parts(part) for part in _kernel_parts(kernel))  # each 3 of [C, O]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    along_height = x[:, :-1] - x[:, 1:]  # [B, H + 1, W + 2, C]
    along_width = (x[:, :, :-1] - x[:, :, 1:])[:, 1:-1]  # [B, H, W + 1, C]
    along_both = along_height[:, :, :-1] - along_height[:, :, 1:]
    # Products for the four pixels (even or odd row, even or odd column) that come of one.
    whole = _products(x[:, 1:-1, 1:-1], s[1])
    by_height = _products(along_height[:, :, 1:-1], u[1], w[1])
    by_width = _products(along_width, s[0], s[2])
    by_both = _products(along_both, u[0], u[2], w[0], w[2])

    def pixel(a: int, b: int) -> Array:
        first, second, both = (slice(k * outputs, (k + 1) * outputs) for k in (a, b, 2 * a + b))
        y = whole + by_height[:, a : a + height, :, first] + by_width[:, :, b : b + width, second]
        return y + by_both[:, a : a + height, b : b + width, both]

    y = jnp.stack([jnp.stack([pixel(a, 0), pixel(a, 1)], axis=3) for a in (0, 1)], axis=2)
    return y.reshape(rows, 2 * height, 2 * width, outputs)  # from [B, H, 2, W, 2, O]


def _combine(matrix: Sequence[Sequence[float]], arrays: Sequence[Array]) -> list[Array]:
    """Multiply a list of arrays by a matrix of a few numbers, zeros left out."""
    return [
        sum(a if c == 1 else np.float32(c) * a for c, a in zip(row, arrays, strict=True) if c)
        for row in matrix
    ]


def _kernel_parts(kernel: Array) -> tuple[Array, Array, Array]:
    """Return u, s and -w of the first axis."""
    return kernel[0], kernel[0] + kernel[1] + kernel[2], -kernel[2]


def _products(x: Array, *kernels: Array) -> Array:
    """Multiply the channels by several kernels `[C, O]` at once: `[..., len(kernels) O]`."""
    return jnp.einsum("bhwc,co->bhwo", x, jnp.concatenate(kernels, axis=1))
