"""What is quicker on a CPU only: convolutions with fewer multiplications, batches in slices.

Every function here equals the plain JAX that it names; other platforms run that plain JAX
(`jax.lax.platform_dependent`).

`attend`, `by_slices`: the logits of a batch, or a wide feed-forward's activations (84 MB for 16
images of CLIP-H), do not fit into a CPU's caches; those of a few images do. At 257 tokens, 16 heads
and 16 images attention of one image after the other takes a quarter of the time; slices of four
images save an eighth of CLIP's.

`by_tiles`, for a 3x3 convolution. Four neighbouring rows of the result need six rows of the input
and, row by row, 12 products; Toom and Cook's algorithm takes 6. With d the six rows, g the three
rows of the kernel and the points 0, 1, -1, 2, -2 and infinity,

    y = A^T ((G g) * (B^T d)),

where * convolves a row with a row (3 taps along the width) and A^T, G, B^T are `FROM_PRODUCTS`,
`OF_KERNEL` and `OF_ROWS`. The result is off by about 3e-6 of its largest value, where the direct
sum is off by 6e-7. (Lavin and Gray 2015, arXiv 1509.09308, section 4.)

`doubled_by_differences`, for doubling the sides (each pixel repeated) and convolving. Along one
axis, with the kernel (u, v, w), s = u + v + w and the pixels x,

    y[2i]     = u x[i-1] + (v + w) x[i] = s x[i] + u (x[i-1] - x[i])
    y[2i + 1] = (u + v) x[i] + w x[i+1] = s x[i] - w (x[i] - x[i+1]),

3 products where there were 6; along both axes 9 in place of 36. It is as exact as the direct sum.

Letters: B batch, N query tokens, S source tokens, A heads, H head width (attention) or height
(images), W width, T tiles of 4 rows, C channels of the input, O of the output.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.models import attention
from miro_jax.models.slices import in_turn, sharing_devices

Array = jax.Array
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Logits of a batch in float32; smaller ones stay in the caches anyway.
CACHE_BYTES = 2**23
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


def attend(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
    """Equal `attention.attend`; a CPU takes one row of a large batch after another.

    Args:
      q: [B, N, A, H]. k, v: [B, S, A, H].
      causal: hide source tokens that come later than the query token.

    Returns:
      [B, N, A, H] in the dtype of q.
    """
    whole = partial(attention.attend, causal=causal)
    batch, queries, heads, _ = q.shape
    small = 4 * batch * heads * queries * k.shape[1] <= CACHE_BYTES
    if small or batch == 1 or _batch_is_split():
        return whole(q, k, v)

    def one_by_one(q, k, v):
        one = partial(jax.nn.dot_product_attention, is_causal=causal)
        return jax.lax.map(lambda row: one(*row), (q, k, v))

    return jax.lax.platform_dependent(q, k, v, cpu=one_by_one, default=whole)


def by_slices(function: Callable[[Array], Array], x: Array, rows: int) -> Array:
    """Equal `function(x)`; a CPU calls it on `rows` rows after the other.

    Args:
      function: of an array [b, ...], any b, to an array [b, ...]; treats each row by itself.
      x: [B, ...]. rows: of a slice; a batch that is no multiple of it is not sliced.

    Returns:
      function(x), [B, ...].
    """
    if len(x) <= rows or len(x) % rows or _batch_is_split():
        return function(x)

    return jax.lax.platform_dependent(x, cpu=partial(in_turn, function, rows), default=function)


def _batch_is_split() -> bool:
    """Return whether several devices share the batch: those of a CPU share its cores and caches."""
    return sharing_devices() > 1


def convolve(x: Array, kernel: Array, *, double: bool = False) -> Array:
    """Equal `direct(x, kernel)`, or `doubled(x, kernel)`; wide float32 ones are quicker on a CPU.

    Args:
      x: [B, H, W, C]. kernel: [3, 3, C, O], of the same dtype.
      double: repeat each pixel along both sides before.

    Returns:
      [B, H, W, O], or [B, 2 H, 2 W, O].
    """
    plain, quick = (doubled, doubled_by_differences) if double else (direct, by_tiles)
    if x.dtype != jnp.float32 or min(kernel.shape[2:]) < FEWEST_CHANNELS:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=quick, default=plain)


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
    # Products for the four pixels (even or odd row, even or odd column) that one becomes.
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
    """Multiply a list of arrays by a matrix of a few numbers; zeros cost nothing."""
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
