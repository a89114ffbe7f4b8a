"""Slices of a batch: what they give, where they are cut, and that no device waits for another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import sharding, slices
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import euler
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.convert import Network
from tests.networks import TINY, make_batch, random_network, small_mesh


@pytest.fixture
def tpu(monkeypatch):
    """Trace as for a TPU; a row of `outer` takes 256 bytes, of which a chip holds four."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(slices, "ON_CHIP", 1024)


def outer(x, bias):
    """[b, 8], [b] -> features [b, 8], mean [b]; the largest array is [b, 8, 8] float32."""
    y = jnp.tanh(x[:, :, None] * x[:, None, :])
    none = x[:, :0]  # as the levels of a network without rewards
    return {"features": y.sum(axis=2), "mean": y.mean(axis=(1, 2)) + bias, "none": none}


def arrays(rows):
    x = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    return x, np.arange(rows, dtype=np.float32)


def loops(compiled):
    return compiled.as_text().count(" while(")


def test_the_largest_array_of_a_row_is_found_also_in_loops_and_called_functions():
    x, bias = arrays(3)
    assert slices.row_bytes(outer, x, bias) == 8 * 8 * 4
    assert slices.row_bytes(jax.jit(outer), x, bias) == 8 * 8 * 4

    def often(x, bias):
        return jax.lax.scan(lambda x, _: (outer(x, bias)["features"], None), x, None, 2)[0]

    assert slices.row_bytes(often, x, bias) == 8 * 8 * 4
    assert slices.row_bytes(lambda x: jnp.ones((1000, 8)) @ x[0], x) == 0  # nothing has rows


@pytest.mark.parametrize(
    "rows, sliced", [(1, False), (4, False), (5, False), (8, True), (6, True), (64, True)]
)
def test_slices_give_what_the_whole_batch_gives(tpu, rows, sliced):
    whole = outer(*arrays(rows))
    program = jax.jit(lambda *x: slices.by_slices(outer, *x)).lower(*arrays(rows)).compile()
    assert loops(program) == sliced
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), program(*arrays(rows)), whole
    )


def test_other_devices_take_the_batch_whole(monkeypatch):
    monkeypatch.setattr(slices, "ON_CHIP", 1024)
    assert loops(jax.jit(lambda *x: slices.by_slices(outer, *x)).lower(*arrays(64)).compile()) == 0


def test_a_row_that_does_not_fit_is_not_taken_alone(tpu, monkeypatch):
    monkeypatch.setattr(slices, "ON_CHIP", 255)
    assert loops(jax.jit(lambda *x: slices.by_slices(outer, *x)).lower(*arrays(64)).compile()) == 0


def test_devices_take_slices_of_their_own_rows(tpu):
    mesh = small_mesh(4)
    given = jax.device_put(arrays(64), sharding.batch_sharding(mesh))
    with sharding.use_mesh(mesh):
        program = jax.jit(lambda *x: slices.by_slices(outer, *x)).lower(*given).compile()
        found = program(*given)
    text = program.as_text()
    assert loops(program) == 1 and "f32[4,8,8]" in text  # four rows of a device at a time
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in text
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, outer(*arrays(64))
    )
    assert found["features"].sharding.spec[0] == "data"


class Outer(nnx.Module):
    """`outer`, as a network."""

    def __init__(self):
        self.bias = nnx.Param(jnp.zeros(8))


def of_module(module, x, bias):
    return outer(x + module.bias[None], bias)


def test_towers_run_in_slices(tpu):
    mesh = small_mesh(2)
    graphdef, state = nnx.split(Outer())
    network = Network(graphdef, jax.device_put(state, sharding.replicated(mesh)), mesh)
    found = Tower(network).run(of_module, *arrays(30))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, outer(*arrays(30))
    )


@pytest.mark.parametrize("rule", ["cfg", "apg"])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.over_a_second
def test_images_are_sampled_in_slices(monkeypatch, devices, rule):
    """Each with its own noise, prompt, levels and scale."""
    rows, mesh = 8, small_mesh(devices)
    graphdef, *weights = random_network(TINY, seed=0)
    given = make_batch(TINY, rows, 4, seed=2)
    noise = np.random.default_rng(1).normal(size=(rows, *TINY.latent_shape)).astype(np.float32)
    levels = np.linspace(0, 1, rows * TINY.num_rewards, dtype=np.float32).reshape(rows, -1)
    positive = Branch(given["caption_tokens"], given["caption_mask"], levels)
    negative = Branch(given["caption_tokens"], given["caption_mask"], 1 - levels)
    scale, interval = np.linspace(1, 4, rows, dtype=np.float32), np.array([0, 1], np.float32)
    numbers = np.array([0, 2, -0.5], np.float32) if rule == "apg" else None
    found = []  # bytes of a row; a chip holds two of them
    monkeypatch.setattr(slices, "ON_CHIP", 2 * 2**40)
    real = slices.row_bytes
    monkeypatch.setattr(slices, "row_bytes", lambda *x: found.append(real(*x)) or 2**40)
    images, programs = [], []
    for backend in ("cpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        with sharding.use_mesh(mesh):
            put = lambda tree: jax.device_put(tree, sharding.batch_sharding(mesh))  # noqa: E731
            guidance = Guidance(put(scale), interval, rule=rule, numbers=numbers)
            inputs = tuple(weights), put(noise), put(positive), put(negative), guidance
            program = make_sampler(graphdef, euler, 2).lower(*inputs, guided=True).compile()
            programs.append(program.as_text())
            images.append(np.asarray(program(*inputs)))
    np.testing.assert_allclose(*images, rtol=1e-4, atol=1e-5)
    assert len(np.unique(images[0].reshape(rows, -1), axis=0)) == rows
    assert programs[1].count(" while(") > programs[0].count(" while(")
    tokens = TINY.num_rewards + TINY.num_registers + 4
    assert found == [2 * 4 * TINY.condition_heads * tokens**2]  # logits of both branches
