"""A pretrained network at work: batches of any size in, numpy arrays out.

Rows are padded to a power of two times the devices of the mesh axis `data`, so that a stream of
batches compiles a handful of programs, and a row does not depend on those beside it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from miro_jax import sharding
from miro_jax.weights.convert import Network


class Tower:
    """Run functions of a network over its mesh.

    Args:
      network: from `weights.convert.load`.
    """

    def __init__(self, network: Network):
        self.graphdef, self.state, self.mesh = network.graphdef, network.state, network.mesh
        self._jitted: dict[Callable, Callable] = {}

    def run(self, function: Callable[..., Any], *arrays: np.ndarray) -> Any:
        """Call `function(module, *arrays)` under jit.

        Args:
          function: a plain function defined once (not a lambda made for each call: it is the key
            of what was compiled).
          arrays: each `[B, ...]`.

        Returns:
          What `function` returns, every leaf `[B, ...]` as a numpy array.
        """
        rows = len(arrays[0])
        if rows == 0:
            raise ValueError("at least one row is needed; got an empty batch.")
        if function not in self._jitted:
            self._jitted[function] = jax.jit(partial(_call, function, self.graphdef))
        padded = padded_rows(rows, self.mesh.shape["data"])
        place = sharding.batch_sharding(self.mesh)
        with sharding.use_mesh(self.mesh):
            inputs = [jax.device_put(_pad(np.asarray(x), padded), place) for x in arrays]
            out = self._jitted[function](self.state, *inputs)
        return jax.tree.map(lambda x: np.asarray(x)[:rows], out)


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
