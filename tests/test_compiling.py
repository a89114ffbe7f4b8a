"""What XLA is told on GPUs; on other devices nothing is."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

from miro_jax.models import compiling, layers, sharding


@pytest.fixture
def on_gpu(monkeypatch):
    """What is traced takes the devices here for GPUs."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def primitives(function, *args):
    """Names of the primitives of a traced function, in order."""
    traced = jax.make_jaxpr(lambda *x: function(*x))(*args)  # a new one: those seen are kept
    return [equation.primitive.name for equation in traced.eqns]


def test_options_are_given_on_gpus_alone(on_gpu, monkeypatch):
    options = compiling.options()
    assert options
    # An unknown one is an error, on a CPU too.
    assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(2))[0] == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert compiling.options() == {}


def test_layouts_are_pinned_on_gpus_alone(on_gpu, monkeypatch):
    x = jnp.arange(24.0).reshape(2, 3, 4)
    assert primitives(compiling.row_major, x) == ["layout_constraint"]
    np.testing.assert_array_equal(jax.jit(compiling.row_major)(x), x)
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.sum(compiling.row_major(x) ** 2))(x), 2 * x
    )
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert primitives(compiling.row_major, x) == []


def test_a_program_for_many_devices_pins_none_where_the_partitioner_would_gather(on_gpu):
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        found = primitives(compiling.row_major, jnp.ones((2, 3)))
    assert found == (["layout_constraint"] if jax.__version_info__ >= (0, 11) else [])


def packed():
    with sharding.use_mesh(sharding.one_device_mesh()):
        layer = layers.Linear((8, 2, 5), (None, None, None), rngs=nnx.Rngs(0))
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(10.0).reshape(2, 5)
    return layer


@pytest.mark.over_a_second
def test_a_bias_of_several_axes_is_added_as_one_on_gpus_with_equal_results(on_gpu, monkeypatch):
    layer, x = packed(), jax.random.normal(jax.random.key(0), (3, 4, 8))
    parts = layer.unpack(x)
    assert [part.shape for part in parts] == [(3, 4, 5)] * 2
    text = str(jax.make_jaxpr(lambda x: layer(x))(x))
    assert "f32[3,4,10]" in text  # [B, N, pack F]
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert "f32[3,4,10]" not in str(jax.make_jaxpr(lambda x: layer(x))(x))
    for part, want in zip(parts, layer.unpack(x), strict=True):
        np.testing.assert_allclose(part, want, rtol=1e-6, atol=1e-6)


def test_heads_that_a_mesh_parts_are_not_merged(on_gpu):
    mesh = jax.sharding.AbstractMesh((1, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    layer, x = packed(), jnp.ones((3, 4, 8))
    with jax.sharding.use_abstract_mesh(mesh):
        assert "f32[3,4,10]" not in str(jax.make_jaxpr(lambda x: layer(x))(x))


class Layer(nnx.Module):
    """A layer that counts how often it is traced."""

    traced: ClassVar[list[str]] = []

    def __init__(self, rngs):
        self.map = layers.Linear((4, 4), (None, None), rngs=rngs)

    @compiling.traced_once("kind")
    def __call__(self, x, kind):
        self.traced.append(kind)
        return x + jnp.tanh(self.map(x))


def test_equal_layers_are_traced_once_and_give_what_a_plain_loop_gives():
    Layer.traced.clear()
    with sharding.use_mesh(sharding.one_device_mesh()):
        stack = nnx.List(Layer(nnx.Rngs(seed)) for seed in range(3))
    graphdef, params = nnx.split(stack)

    def through(params, x, call):
        for layer in nnx.merge(graphdef, params):
            x = call(layer, x, "a")
        return jnp.sum(x**2)

    plain, mesh = Layer.__call__.__wrapped__, sharding.one_device_mesh()
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    x = jax.device_put(x, sharding.replicated(mesh))
    found = jax.jit(jax.grad(lambda p, x: through(p, x, Layer.__call__)))
    lowered = found.lower(params, x)
    assert Layer.traced == ["a"] and "@Layer" in lowered.as_text()
    assert " call(" not in lowered.compile().as_text()
    expected = jax.jit(jax.grad(lambda p, x: through(p, x, plain)))(params, x)
    jax.tree.map(np.testing.assert_array_equal, found(params, x), expected)
    stack[0](jnp.ones((2, 4)), kind="b")  # another kind is another layer
    assert Layer.traced == ["a"] * 4 + ["b"]
