"""States that stand for those of training: a few small arrays, each dependent on the step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

DATA = {"position": 7, "epochs": [1, 2], "name": "shard-00003"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A stand-in with the parts of a training state."""

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any


def mesh_sharding(shape=(8, 1), spec=("data", "model")):
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return lambda x: jax.NamedSharding(mesh, jax.P(*spec) if x.ndim == 2 else jax.P())


def make(step, size=8, sharding=None, as_nnx=True):
    """A state whose every array depends on `step`."""
    rng = np.random.default_rng(step)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    params = {"blocks": {0: {"kernel": draw(size, 8), "bias": draw(8)}}, "table": draw(8, 8)}
    if as_nnx:
        params = nnx.State(jax.tree.map(nnx.Param, params))
    opt_state = jax.tree.map(lambda x: x + step, optax.adam(1e-3).init(params))
    ema_params = jax.tree.map(lambda x: (x * 2).astype(jnp.bfloat16), params)
    state = State(jnp.int32(step), params, ema_params, opt_state)
    return jax.device_put(state, jax.tree.map(sharding or mesh_sharding(), state))


def abstract(state, sharding=None):
    sharding = sharding or mesh_sharding()
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x)), state
    )


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
