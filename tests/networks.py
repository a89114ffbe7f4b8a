"""Small networks, batches and meshes for the tests, and how close two arrays must be."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType

from miro_jax.models import sharding
from miro_jax.models.layers import Buffer
from miro_jax.models.rin import RIN, RINConfig

# Quick to compile; every axis has a length of its own where the network allows it.
TINY = RINConfig(
    latent_shape=(8, 12, 3),
    caption_width=10,
    num_rewards=3,
    patch_size=4,
    token_width=16,
    latent_width=32,
    num_latent_tokens=5,
    num_blocks=1,
    layers_per_block=1,
    read_write_heads=2,
    process_heads=4,
    condition_heads=8,
    condition_layers=1,
    num_registers=4,
    mlp_multiplier=2,
    mlp_multiple=32,
    sigma=0.5,
    table_std=0.02,
    log_variance_features=8,
    remat=False,
)


def small_mesh(data: int = 1, model: int = 1) -> jax.sharding.Mesh:
    """A mesh over the first `data * model` devices (`sharding.make_mesh` takes all there are)."""
    devices = jax.devices()[: data * model]
    return jax.make_mesh(
        (data, model), ("data", "model"), devices=devices, axis_types=(AxisType.Auto,) * 2
    )


def abstract_module(build: Callable[[nnx.Rngs], nnx.Module]):
    """Return graphdef, params and buffers of a module, shapes only."""

    def make(key):
        graphdef, *states = nnx.split(build(nnx.Rngs(params=key)), nnx.Param, Buffer)
        found.append(graphdef)
        return tuple(states)

    found = []
    with sharding.use_mesh(small_mesh()):
        params, buffers = jax.eval_shape(make, jax.random.key(0))
    return found[0], params, buffers


def abstract_network(config: RINConfig, dtype=jnp.float32):
    """Return graphdef, params and buffers of a network, shapes only."""
    return abstract_module(lambda rngs: RIN(config, rngs=rngs, dtype=dtype))


def paths(state) -> dict[str, jax.ShapeDtypeStruct]:
    """Return path -> value of a state, paths as `blocks/0/read/kv/kernel`."""
    return {
        "/".join(map(str, path)): leaf.get_raw_value() for path, leaf in nnx.to_flat_state(state)
    }


def fill(abstract, arrays: dict[str, np.ndarray]):
    """Return the state `abstract` with the values of `arrays` (path -> array)."""
    flat = [
        (path, leaf.replace(jnp.asarray(arrays["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(abstract)
    ]
    return nnx.from_flat_state(flat)


def random_module(build: Callable[[nnx.Rngs], nnx.Module], seed: int = 0):
    """Return graphdef, params and buffers; every parameter is random, none at its start value."""
    graphdef, *states = abstract_module(build)
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        name = path.rsplit("/", 1)[-1]
        if name == "kernel":
            is_attention_out = path.endswith("out/kernel") and len(shape) == 3
            inputs = math.prod(shape[: 1 + is_attention_out])
            return rng.normal(0.0, inputs**-0.5, shape)
        if name in ("frequencies", "phases"):
            return rng.normal(0.0, 3.0, shape)
        return rng.normal(1.0 if name == "scale" else 0.0, 0.3, shape)

    filled = []
    for state in states:
        drawn = {path: draw(path, leaf.shape) for path, leaf in paths(state).items()}
        filled.append(fill(state, {k: v.astype(np.float32) for k, v in drawn.items()}))
    return graphdef, *filled


def random_network(config: RINConfig, seed: int, dtype=jnp.float32):
    """Return graphdef, params and buffers of a network with random parameters."""
    return random_module(lambda rngs: RIN(config, rngs=rngs, dtype=dtype), seed)


def make_batch(config: RINConfig, rows: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Draw inputs of a network: pictures, times, noise, captions, levels; nothing missing."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "x": normal(rows, *config.latent_shape),
        "noise": normal(rows, *config.latent_shape),
        "x_t": normal(rows, *config.latent_shape),
        "t": rng.uniform(0.02, 0.98, rows).astype(np.float32),
        "caption_tokens": normal(rows, length, config.caption_width),
        "caption_mask": np.ones((rows, length), bool),
        "levels": rng.uniform(size=(rows, config.num_rewards)).astype(np.float32),
    }


def resize(config: RINConfig, **changes) -> RINConfig:
    """Return the config with other sizes."""
    return dataclasses.replace(config, **changes)


def difference(found, expected) -> float:
    """Largest difference relative to the largest absolute value expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise AssertionError(f"shapes differ: {found.shape} and {expected.shape}")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def without_effect(path: str, value) -> np.ndarray:
    """Zero what softmax makes meaningless: a number added to all keys alike has no gradient.

    That is the bias of the keys' norm, and the keys' third of the condition encoder's qkv bias.
    Only rounding (1e-9) is left there, which LAMB blows up to full steps in random directions.
    """
    value = np.array(value)
    if path.endswith("k_norm/bias"):
        value[:] = 0
    if path.endswith("qkv/bias"):
        value[1] = 0
    return value


def assert_leaves_agree(found, expected, tolerance: float) -> None:
    """Assert that two states of parameters (or gradients) agree, apart from what has no effect."""
    found, expected = paths(found), paths(expected)
    for path in expected:
        ours, theirs = (without_effect(path, leaf) for leaf in (found[path], expected[path]))
        # By norms: a single number whose gradients are rounding alone moves as it likes under LAMB.
        error, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
        assert error <= tolerance * size, f"{path}: {error} of {size}"
