"""A pretrained network at work: batches of any size in, numpy arrays out.

Rows are padded to a power of two times the devices of the mesh axis `data`, so that a stream of
batches compiles a handful of programs, and a row does not depend on those beside it. What one
network computes for another may stay on the devices: the image tokens of 64 images are 150 MB.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models import compiling, sharding, slices
from miro_jax.pretrained.weights.convert import Network


@dataclasses.dataclass(frozen=True)
class OnDevice:
    """Results that stay on the devices.

    Attributes:
      arrays: a tree of arrays [P, ...], P >= rows; after the first `rows` rows comes padding.
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
      network: from `weights.convert.Layout`.
    """

    def __init__(self, network: Network):
        self.graphdef, self.state, self.mesh = network.graphdef, network.state, network.mesh
        self._jitted: dict[Callable, Callable] = {}

    def run(self, function: Callable[..., Any], *arrays: np.ndarray | OnDevice) -> Any:
        """Call `function(module, *arrays)` under jit.

        Args:
          function: a plain function defined once (not a lambda made for each call: it is the key
            of what was compiled).
          arrays: each `[B, ...]`; or results of `run_on_device` of a tower of the same mesh.

        Returns:
          What `function` returns, every leaf `[B, ...]` as a numpy array.
        """
        return self.run_on_device(function, *arrays).fetch()

    def run_on_device(
        self, function: Callable[..., Any], *arrays: np.ndarray | OnDevice
    ) -> OnDevice:
        """Do as `run`; the result stays on the devices."""
        rows = len(arrays[0])
        if rows == 0:
            raise ValueError("at least one row is needed; got an empty batch.")
        if len({len(x) for x in arrays}) > 1:
            raise ValueError(
                f"arrays must have equal rows; got {', '.join(str(len(x)) for x in arrays)}."
            )
        if function not in self._jitted:
            self._jitted[function] = jax.jit(
                functools.partial(_call, function, self.graphdef),
                compiler_options=compiling.options(),
            )
        with sharding.use_mesh(self.mesh):
            inputs = [x.arrays if isinstance(x, OnDevice) else self._put(x) for x in arrays]
            return OnDevice(self._jitted[function](self.state, *inputs), rows)

    def take(self, batch: OnDevice, rows: Sequence[int]) -> OnDevice:
        """Return some rows of a result on the devices, at least one."""
        with sharding.use_mesh(self.mesh):
            return OnDevice(
                self._taking(batch.arrays, self._put(np.asarray(rows, np.int32))), len(rows)
            )

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
    return slices.by_slices(functools.partial(function, nnx.merge(graphdef, state)), *arrays)


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the last row: never zeros, which a norm may turn into NaN."""
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
