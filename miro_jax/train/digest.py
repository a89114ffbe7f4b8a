"""Digests of arrays on their devices: the same on any mesh, changed by any single flipped bit.

Each device sums over its own shard, without collectives: on CPUs, programs that have some and run
side by side can wait for each other's threads forever, and over a network hundreds of them would
hold training up. The sums of the devices are added on the host, at once for all arrays. What lies
on CPUs is summed by numpy: to compile a program for each shape takes seconds at every start.
"""

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of an element


def layout(array: Any) -> str:
    """Return dtype and shape of an array or a jax.ShapeDtypeStruct, as `float32[8, 4]`."""
    return f"{array.dtype}{list(array.shape)}"


def examine(arrays: Mapping[str, jax.Array]) -> dict[str, tuple[str, bool]]:
    """Digest named arrays and look for NaN and infinity; on accelerators a small program a shape.

    In a run of several processes each of them makes the same call.

    Args:
      arrays: of numbers or bools of at most 32 bits, laid out in any way.

    Returns:
      name -> (digest, 16 hexadecimal digits; whether all elements are finite).
    """
    for name, array in arrays.items():
        if array.dtype != jnp.bool_ and array.dtype.itemsize not in WORDS:
            raise TypeError(f"{name} must be an array of at most 32 bits; got {array.dtype}.")
    started = [_start(array) for array in arrays.values()]  # all, before the first is waited for
    none = np.zeros((1, 3), np.uint32)
    sums = np.stack([sum(rows, none)[0] for rows in jax.device_get(started)])  # [arrays, 3]
    if jax.process_count() > 1:
        every = np.asarray(multihost_utils.process_allgather(sums))
        sums = every.sum(axis=0, dtype=np.uint32).reshape(sums.shape)
    return {
        name: (f"{total:08x}{mixed:08x}", bool(not_finite == 0))
        for name, (total, mixed, not_finite) in zip(arrays, sums, strict=True)
    }


def _start(array: jax.Array) -> Sequence[jax.Array | np.ndarray]:
    """Begin to digest what this process counts of an array; returns [1, 3] of each device."""
    is_sharded = isinstance(array.sharding, jax.NamedSharding)
    if not is_sharded and jax.process_index():
        return []
    if all(device.platform == "cpu" for device in array.sharding.device_set):
        return [
            _digest(np, np.asarray(shard.data), array.shape, [s.start or 0 for s in shard.index])
            for shard in array.addressable_shards
            if shard.replica_id == 0
        ]
    if isinstance(array.sharding, jax.NamedSharding):
        rows = _digest_shards(array, array.sharding.mesh, array.sharding.spec)
        return [shard.data for shard in rows.addressable_shards]
    return [_digest_whole(array)]


@functools.partial(jax.jit, static_argnames=("mesh", "spec"))
def _digest_shards(array: jax.Array, mesh: jax.sharding.Mesh, spec: jax.P) -> jax.Array:
    """Return the sums of each device, [devices, 3]; of copies of a shard the first one counts."""
    axes = [(a,) if isinstance(a, str) else tuple(a or ()) for a in spec]
    axes += [()] * (array.ndim - len(axes))
    copied = tuple(name for name in mesh.axis_names if name not in sum(axes, ()))

    def digest(shard: jax.Array) -> jax.Array:
        sizes = zip(axes, shard.shape, strict=True)
        starts = [jax.lax.axis_index(a) * size if a else 0 for a, size in sizes]
        row = _digest(jnp, shard, array.shape, starts)
        return jnp.where(jax.lax.axis_index(copied) == 0, row, 0) if copied else row

    return jax.shard_map(digest, mesh=mesh, in_specs=spec, out_specs=jax.P(mesh.axis_names))(array)


@jax.jit
def _digest_whole(array: jax.Array) -> jax.Array:
    return _digest(jnp, array, array.shape, [0] * array.ndim)


def _digest(xp: ModuleType, array: Any, shape: Sequence[int], starts: Sequence[Any]) -> Any:
    """Two sums over the bits of the elements, modulo 2^32, and how many are not finite: [1, 3].

    Integer addition has no rounding, so the sums do not depend on its order, which the layout over
    devices changes. In the second sum each element is first scrambled together with its index, by
    steps that can be undone (the finalizer of MurmurHash3): one changed element always changes the
    sum, several or swapped elements do so but for one case in 2^32.

    Args:
      xp: `numpy` or `jax.numpy`, of whose arrays `array` is.
      array: a part of an array of `shape` that begins at the indices `starts`.
    """
    bits = array.astype(xp.uint8) if array.dtype == bool else array
    bits = bits.view(WORDS[bits.dtype.itemsize]).astype(xp.uint32).reshape(-1)
    index = xp.zeros((1,) * array.ndim, xp.uint32)  # in the whole array, in row-major order
    for axis, (size, start) in enumerate(zip(shape, starts, strict=True)):
        along = xp.arange(array.shape[axis], dtype=xp.uint32) + xp.uint32(start)
        beside = [-1 if other == axis else 1 for other in range(array.ndim)]
        index = index * xp.uint32(size) + along.reshape(beside)
    mixed = bits ^ (xp.broadcast_to(index, array.shape).reshape(-1) * xp.uint32(0x9E3779B1))
    mixed = (mixed ^ (mixed >> 16)) * xp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * xp.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 16)
    rows = bits, mixed, ~xp.isfinite(array)
    return xp.stack([row.sum(dtype=xp.uint32) for row in rows])[None]
