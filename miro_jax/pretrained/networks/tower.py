"""A pretrained network at work: batches of any size in, numpy arrays out.

Rows are padded to a power of two times the devices of the mesh axis `data`, so that a stream of
batches compiles a handful of programs, and a row does not depend on those beside it. What one
network makes for another may stay on the devices: the image tokens of 64 pictures are 150 MB.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models import sharding
from miro_jax.pretrained.weights.convert import Network


@dataclasses.dataclass(frozen=True)
class Kept:
    """Results that stay on the devices.

    arrays: a tree of arrays [P, ...], P >= rows; what follows the first `rows` rows is padding.
    """

    arrays: Any
    rows: int

    def __len__(self) -> int:
        return self.rows

    def fetch(self) -> Any:
        """Return the rows as numpy arrays."""
        return jax.tree.map(lambda x: np.asarray(x)[: self.rows], self.arrays)


class Tower:
    """Run functions of a network over its mesh.

    Args:
      network: from `weights.convert.load`.
    """

    def __init__(self, network: Network):
        self.graphdef, self.state, self.mesh = network.graphdef, network.state, network.mesh
        self._jitted: dict[Callable, Callable] = {}

    def run(self, function: Callable[..., Any], *arrays: np.ndarray | Kept) -> Any:
        """Call `function(module, *arrays)` under jit.

        Args:
          function: a plain function defined once (not a lambda made for each call: it is the key
            of what was compiled).
          arrays: each `[B, ...]`; or what a tower of the same mesh kept.

        Returns:
          What `function` returns, every leaf `[B, ...]` as a numpy array.
        """
        return self.keep(function, *arrays).fetch()

    def keep(self, function: Callable[..., Any], *arrays: np.ndarray | Kept) -> Kept:
        """Do as `run`, and leave the result on the devices."""
        rows = len(arrays[0])
        if rows == 0:
            raise ValueError("at least one row is needed; got an empty batch.")
        if len({len(x) for x in arrays}) > 1:
            raise ValueError(
                f"arrays must have equal rows; got {', '.join(str(len(x)) for x in arrays)}."
            )
        if function not in self._jitted:
            self._jitted[function] = jax.jit(functools.partial(_call, function, self.graphdef))
        with sharding.use_mesh(self.mesh):
            inputs = [x.arrays if isinstance(x, Kept) else self._put(x) for x in arrays]
            return Kept(self._jitted[function](self.state, *inputs), rows)

    def take(self, kept: Kept, rows: Sequence[int]) -> Kept:
        """Return some rows of what was kept, at least one."""
        with sharding.use_mesh(self.mesh):
            return Kept(self._taking(kept.arrays, self._put(np.asarray(rows, np.int32))), len(rows))

    @functools.cached_property
    def _taking(self) -> Callable:
        return jax.jit(
            lambda arrays, rows: jax.tree.map(lambda x: jnp.take(x, rows, axis=0), arrays),
            out_shardings=sharding.batch_sharding(self.mesh),
        )

    def _put(self, array: np.ndarray) -> jax.Array:
        padded = _pad(np.asarray(array), padded_rows(len(array), self.mesh.shape["data"]))
        return jax.device_put(padded, sharding.batch_sharding(self.mesh))


def padded_rows(rows: int, devices: int) -> int:
    """Return the rows that a batch is padded to: `devices` times a power of two."""
    each = -(-rows // devices)
    return devices * (1 << (each - 1).bit_length())


def _call(function, graphdef, state, *arrays):
    return function(nnx.merge(graphdef, state), *arrays)


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the last row: never zeros, which a norm may turn into NaN."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
