"""Digests of arrays on their devices: the same on any mesh, changed by any single flipped bit."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of an element


def layout(array: Any) -> str:
    """Return dtype and shape of an array or a jax.ShapeDtypeStruct, as `float32[8, 4]`."""
    return f"{array.dtype}{list(array.shape)}"


def examine(arrays: Mapping[str, jax.Array]) -> dict[str, tuple[str, bool]]:
    """Digest named arrays and look for NaN and infinity: a small program a shape.

    Args:
      arrays: of numbers or bools of at most 32 bits, laid out in any way.

    Returns:
      name -> (digest, 16 hexadecimal digits; whether all elements are finite).
    """
    for name, array in arrays.items():
        if array.dtype != jnp.bool_ and array.dtype.itemsize not in WORDS:
            raise TypeError(f"{name} must be an array of at most 32 bits; got {array.dtype}.")
    # One at a time: on CPU, programs with collectives that run side by side can wait for each
    # other's threads forever.
    sums = {name: jax.device_get(_digest(array)) for name, array in arrays.items()}
    return {
        name: (f"{total:08x}{mixed:08x}", bool(finite))
        for name, (total, mixed, finite) in sums.items()
    }


@jax.jit
def _digest(array: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two sums over the bits of the elements, modulo 2^32, and whether all are finite.

    Integer addition has no rounding, so the sums do not depend on its order, which the layout over
    devices changes. In the second sum each element is first scrambled together with its index, by
    steps that can be undone (the finalizer of MurmurHash3): one changed element always changes the
    sum, several or swapped elements do so but for one case in 2^32.
    """
    bits = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    bits = jax.lax.bitcast_convert_type(bits, WORDS[bits.dtype.itemsize]).astype(jnp.uint32)
    index = jnp.zeros(array.shape, jnp.uint32)  # in row-major order
    for axis, size in enumerate(array.shape):
        index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    mixed = bits ^ (index * np.uint32(0x9E3779B1))
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 16)
    return bits.sum(dtype=jnp.uint32), mixed.sum(dtype=jnp.uint32), jnp.isfinite(array).all()
