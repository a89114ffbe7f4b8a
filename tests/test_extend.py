"""A reward more for a trained network: the old network stays inside the new one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from miro_jax.pretrained.weights import official
from miro_jax.train import extend
from miro_jax.train.optim import make_optimizer
from miro_jax.train.settings import Optim
from miro_jax.train.state import TrainState, leaf_name
from tests.networks import TINY, random_network, resize

NEW = TINY.num_rewards


def leaves_of(*trees):
    pairs = [pair for tree in trees for pair in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return {leaf_name(path): leaf for path, leaf in pairs}


def extended(config, states, seed=5):
    """The network with one reward more: its config, graphdef and state."""
    config = dataclasses.replace(
        config, num_rewards=config.num_rewards + 1, added_rewards=config.added_rewards + 1
    )
    graphdef, params, buffers = random_network(config, seed)
    fresh = TrainState(jnp.int32(0), params, params, buffers, ())
    return config, graphdef, extend.grow(fresh, leaves_of(*states))


@functools.cache
def inputs(batch=4):
    rng = np.random.default_rng(0)
    mask = np.arange(6)[None] < np.array([6, 3, 1, 0])[:, None]
    return {
        "x_t": rng.normal(size=(batch, *TINY.latent_shape)).astype(np.float32),
        "t": rng.random(batch).astype(np.float32),
        "tokens": rng.normal(size=(batch, 6, TINY.caption_width)).astype(np.float32),
        "mask": mask,
        "levels": np.where(rng.random((batch, 8)) < 0.2, np.nan, rng.random((batch, 8))),
        "z": rng.normal(size=(batch, TINY.num_latent_tokens, TINY.latent_width)),
    }


def velocity(config, graphdef, *states, new=()):
    """Velocity and latent tokens; `new` are the levels behind those of TINY."""
    given = inputs()
    known = given["levels"][:, : config.num_rewards - len(new)]
    new = np.broadcast_to(np.array(new, np.float32), (len(known), len(new)))
    levels = np.concatenate([known, new], axis=1).astype(np.float32)

    @jax.jit
    def run(*states):
        model = nnx.merge(graphdef, *states)
        condition, mask = model.encode_condition(given["tokens"], given["mask"], levels)
        z = given["z"].astype(np.float32)
        return model(given["x_t"], given["t"], condition, mask, z)

    return jax.device_get(run(*states))


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("num_rewards", [0, 3])
@pytest.mark.over_a_second
def test_a_missing_level_of_the_new_reward_leaves_the_old_network(num_rewards, layers):
    config = resize(TINY, num_rewards=num_rewards, condition_layers=layers)
    graphdef, *states = random_network(config, seed=1)
    before = velocity(config, graphdef, *states)
    config, graphdef, state = extended(config, states)
    after = velocity(config, graphdef, state.params, state.buffers, new=(np.nan,))
    for one, other in zip(before, after, strict=True):
        # One hidden key more changes the order in which softmax sums, and nothing else.
        np.testing.assert_allclose(other, one, rtol=0, atol=4e-6)
    asked = velocity(config, graphdef, state.params, state.buffers, new=(1.0,))
    assert np.abs(asked[0] - before[0]).max() > 1e-3


@pytest.mark.over_a_second
def test_a_network_is_extended_again():
    graphdef, *states = random_network(TINY, seed=1)
    before = velocity(TINY, graphdef, *states)
    config, graphdef, first = extended(TINY, states)
    once = velocity(config, graphdef, first.params, first.buffers, new=(0.5,))
    config, graphdef, second = extended(config, (first.params, first.buffers), seed=6)
    assert config.added_rewards == 2
    missing = velocity(config, graphdef, second.params, second.buffers, new=(np.nan, np.nan))
    np.testing.assert_allclose(missing[0], before[0], rtol=0, atol=4e-6)
    twice = velocity(config, graphdef, second.params, second.buffers, new=(0.5, np.nan))
    np.testing.assert_allclose(twice[0], once[0], rtol=0, atol=4e-6)


@pytest.mark.over_a_second
def test_a_missing_level_of_the_first_rewards_is_still_a_zero_vector():
    """As in the release: their token stays visible."""
    graphdef, *states = random_network(TINY, seed=1)
    model = nnx.merge(graphdef, *states)
    levels = np.full((4, NEW), np.nan, np.float32)
    _, mask = model.encode_condition(inputs()["tokens"], inputs()["mask"], levels)
    assert np.asarray(mask[:, : NEW + TINY.num_registers]).all()


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.over_a_second
def test_the_new_token_alone_is_trained_and_all_else_stays_bit_for_bit(name):
    graphdef, *states = random_network(TINY, seed=1)
    _, _, state = extended(TINY, states)
    settings = Optim(name, 1e-2, 0, weight_decay=0.1, trainable="new_reward")
    optimizer = make_optimizer(settings, 10)

    @jax.jit
    def step(params, opt_state):
        grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = state.params, jax.jit(optimizer.init)(state.params)
    for _ in range(2):
        params, opt_state = step(params, opt_state)
    before, after = leaves_of(state.params), leaves_of(params)
    for leaf, array in after.items():
        if leaf.startswith(f"rewards/{NEW}/"):
            assert (array != before[leaf]).all(), leaf
        elif leaf == "reward_positions/table":
            assert (array[:-1] == before[leaf][:-1]).all()
            assert (array[-1] != before[leaf][-1]).all()
        else:
            assert array.tobytes() == before[leaf].tobytes(), leaf


def test_weights_of_another_network_are_refused():
    _, *states = random_network(resize(TINY, num_registers=2), seed=1)
    with pytest.raises(ValueError, match="registers"):
        extended(TINY, states)
    with pytest.raises(ValueError, match="num_registers is 2 there, 4 here"):
        extend.check_fits(resize(TINY, num_registers=2), resize(TINY, num_rewards=4))
    extend.check_fits(TINY, resize(TINY, num_rewards=4, added_rewards=1, remat=True))


def test_more_added_rewards_than_rewards_are_refused():
    with pytest.raises(ValueError, match="added_rewards must be at most the 3"):
        resize(TINY, added_rewards=4)


def test_the_released_layout_cannot_hold_an_added_reward(tmp_path):
    config = resize(TINY, latent_shape=(8, 8, 3), added_rewards=1, **official.FIXED)
    with pytest.raises(ValueError, match="rewards that were added hide their missing levels"):
        official.write(tmp_path, config, nnx.State({}), ("a", "b", "c"), np.zeros((1, 10)), 4)
