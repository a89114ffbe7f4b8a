"""The random start values of a network, drawn at once.

A network draws a hundred arrays and more. One by one, each is a program part of its own with the
derivation of its key inside, and they take as long to compile as the training step does. Here the
keys are derived together, and arrays of about one size are drawn together: each is the begin of a
row of bits, which depend on the key and on an element's place alone, so they are the same numbers.
(Where JAX_THREEFRY_PARTITIONABLE, JAX's default, is switched off, they are others.)
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array
KINDS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "uniform": jax.random.uniform,  # in [0, 1)
    "frequency": lambda key, shape: 2 * math.pi * jax.random.normal(key, shape),
    # Cut at two standard deviations.
    "cut_normal": lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
}


class Draws:
    """Stands in for `nnx.Rngs` where a network is built: gives its arrays, one after the other.

    Args:
      arrays: what `take` returns, in this order; None makes it return zeros, and list `wanted`.
    """

    def __init__(self, arrays: Sequence[Array] | None = None):
        self.arrays, self.wanted = arrays, []

    def take(self, kind: str, shape: tuple[int, ...]) -> Array:
        """Return the next array."""
        self.wanted.append((kind, shape))
        return jnp.zeros(shape) if self.arrays is None else self.arrays[len(self.wanted) - 1]


def draw(rngs: nnx.Rngs | Draws, kind: str, shape: Sequence[int]) -> Array:
    """Draw an array [*shape] float32 of one of `KINDS`; rngs: with a stream `params`."""
    if isinstance(rngs, Draws):
        return rngs.take(kind, tuple(shape))
    return KINDS[kind](rngs.params(), tuple(shape))


def build_at_once(
    build: Callable[[Any], nnx.Module], key: Array, wanted: Sequence[tuple[str, tuple[int, ...]]]
) -> nnx.Module:
    """Return `build(nnx.Rngs(params=key))`, whose arrays are drawn at once.

    Args:
      build: makes a network that draws by `draw` alone. wanted: what it draws, see `Draws`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(wanted)))
    rows = collections.defaultdict(list)
    for row, (kind, shape) in enumerate(wanted):
        rows[kind, _next_power(math.prod(shape))].append(row)
    arrays = {}
    for (kind, size), places in rows.items():
        drawn = jax.vmap(lambda key, k=kind, n=size: KINDS[k](key, (n,)))(keys[jnp.array(places)])
        for place, values in zip(places, drawn, strict=True):
            shape = wanted[place][1]
            arrays[place] = values[: math.prod(shape)].reshape(shape)
    return build(Draws([arrays[row] for row in range(len(arrays))]))


def _next_power(size: int) -> int:
    return 1 << (size - 1).bit_length()
