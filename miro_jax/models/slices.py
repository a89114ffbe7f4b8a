"""Networks that run on a few rows of a batch after the other, where that keeps them on the chip.

The core of a TPU has 128 MiB of memory beside its matrix units, where XLA leaves whatever fits. The
activations of a few rows do; those of a whole batch pass through the device's memory, attention's
float32 logits several times. Rows do not depend on each other, so nothing else changes: weights
are read once a slice, which the products of a slice outweigh. Measurements: docs/benchmarks.md,
"On a TPU, by its compiler".

Letters: B batch, D devices that share it, n rows of a slice on each, S slices.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, jaxprs_in_params

from miro_jax.models.sharding import constrain

Array = jax.Array
ON_CHIP = 42 * 2**20  # bytes of the largest array of a slice; a layer has a few of them at once
PROBE = 1009  # rows of a trace: a prime, of which no axis but theirs is a multiple


def by_slices(function: Callable[..., Any], *trees: Any) -> Any:
    """Equal `function(*trees)`; a TPU calls it on as many rows at a time as fit on its chip.

    Args:
      function: of trees of arrays [b, ...], any b, to one of arrays [b, ...]; treats each row by
        itself.
      trees: of arrays [B, ...].

    Returns:
      function(*trees), every leaf [B, ...].
    """
    batch = len(jax.tree.leaves(trees)[0])
    devices = sharing_devices()
    if jax.default_backend() != "tpu" or batch % devices:
        return function(*trees)
    each = batch // devices
    most = ON_CHIP // max(row_bytes(function, *trees), 1)
    # Convolutions of a single row are slow, and are not taken apart.
    rows = next((n for n in range(min(most, each), 1, -1) if each % n == 0), each)
    return function(*trees) if rows == each else in_turn(function, rows, *trees)


def in_turn(function: Callable[..., Any], rows: int, *trees: Any) -> Any:
    """Call `function` on `rows` rows of every device after the other, see `by_slices`.

    Args:
      rows: n; S n D must be B.
    """
    devices = sharing_devices()
    batch = len(jax.tree.leaves(trees)[0])
    count = batch // (devices * rows)

    def cut(x: Array) -> Array:  # [B, ...] -> [S, D n, ...]; no device needs rows of another
        x = x.reshape(devices, count, rows, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x.reshape(count, devices * rows, *x.shape[3:]), None, "batch")

    def join(y: Array) -> Array:
        y = y.reshape(count, devices, rows, *y.shape[2:]).swapaxes(0, 1)
        return constrain(y.reshape(batch, *y.shape[3:]), "batch")

    y = jax.lax.map(lambda slices: function(*slices), jax.tree.map(cut, trees))
    return jax.tree.map(join, y)


def sharing_devices() -> int:
    """Return D, the devices of the mesh that is in use that share a batch."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("data", 1)


def row_bytes(function: Callable[..., Any], *trees: Any) -> int:
    """Return the bytes of the largest array that `function` makes of one row."""
    rows = PROBE * sharing_devices()
    probe = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), trees)
    found = _arrays(jax.make_jaxpr(function)(*probe).jaxpr)
    # With guidance an image has two rows, one for each branch.
    theirs = [x for x in found if x.shape and x.shape[0] % rows == 0]
    return max((x.dtype.itemsize * math.prod(x.shape) // rows for x in theirs), default=0)


def _arrays(jaxpr: Jaxpr) -> Iterator[Any]:
    """Yield the shapes of all results, those of loops and of called functions too."""
    for equation in jaxpr.eqns:
        yield from (x.aval for x in equation.outvars if hasattr(x.aval, "shape"))
        for inner in jaxprs_in_params(equation.params):
            yield from _arrays(inner)
