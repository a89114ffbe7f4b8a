"""The network as a whole: what it must not depend on, types, errors, and building from a config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import base
from miro_jax import models
from miro_jax.models import flow, rin, sharding
from miro_jax.models.layers import Buffer
from miro_jax.models.rin import RINConfig
from tests import compiling
from tests.networks import (
    TINY,
    abstract_network,
    difference,
    make_batch,
    paths,
    random_network,
    resize,
    small_mesh,
)

LENGTH = 6


def apply(graphdef, params, buffers, batch, previous=None):
    """Encode the condition and evaluate once: velocity, latent tokens, condition."""
    model = nnx.merge(graphdef, params, buffers)
    inputs = (batch["caption_tokens"], batch["caption_mask"], batch["levels"])
    condition, mask = model.encode_condition(*inputs)
    return *model(batch["x_t"], batch["t"], condition, mask, previous), condition


# Kernels that do not depend on what follows: two networks have equal latent tokens, bit for bit.
run = jax.jit(apply, static_argnums=0, compiler_options=compiling.WITH_EMITTERS)


@pytest.fixture(scope="module")
def network():
    return random_network(TINY, seed=0)


@pytest.fixture
def batch():
    return make_batch(TINY, 2, LENGTH, seed=1)


def previous_tokens(seed=2):
    shape = (2, TINY.num_latent_tokens, TINY.latent_width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_patches_are_row_by_row_and_hold_row_column_channel():
    x = jnp.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
    patches = rin.patchify(x, 2)
    assert patches.shape == (1, 6, 8)
    for number, (row, column) in enumerate((r, c) for r in (0, 2) for c in (0, 2, 4)):
        expected = np.asarray(x)[0, row : row + 2, column : column + 2].ravel()
        np.testing.assert_array_equal(patches[0, number], expected)


@pytest.mark.parametrize("shape, patch", [((4, 6, 3), 2), ((9, 3, 1), 3), ((5, 7, 2), 1)])
def test_unpatchify_undoes_patchify(shape, patch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)))
    np.testing.assert_array_equal(rin.unpatchify(rin.patchify(x, patch), shape, patch), x)


def test_preconditioned_input_and_target_have_deviation_one():
    """Data of deviation sigma: x_t = gamma x + (1 - gamma) noise, target noise - x."""
    t = jnp.array([0.0, 0.3, 0.9, 1.0])
    c_in, c_out = rin.precondition(t, sigma=0.7)
    deviation = np.sqrt(((1 - np.asarray(t)) * 0.7) ** 2 + np.asarray(t) ** 2)
    np.testing.assert_allclose(c_in * deviation, 1.0, rtol=1e-6)
    np.testing.assert_allclose(c_out, np.sqrt(1 + 0.7**2))


@pytest.mark.over_a_second
def test_missing_reward_is_a_zero_vector_before_its_position(network, batch):
    graphdef, params, buffers = network
    levels = batch["levels"].copy()
    levels[1, 2] = np.nan
    *_, missing = run(graphdef, params, buffers, batch | {"levels": levels})

    def silence(path, leaf):
        names = [getattr(k, "key", None) for k in path]
        return jnp.zeros_like(leaf) if names[:3] == ["rewards", 2, "out"] else leaf

    silent = jax.tree_util.tree_map_with_path(silence, params)
    *_, zeroed = run(graphdef, silent, buffers, batch)
    *_, given = run(graphdef, params, buffers, batch)
    np.testing.assert_allclose(missing[1], zeroed[1], atol=1e-6)
    np.testing.assert_array_equal(missing[0], given[0])
    assert np.abs(missing[1] - given[1]).max() > 1e-2


def test_the_network_counts_time_as_the_release_does_from_noise_to_data(
    network, batch, monkeypatch
):
    class Seen(Exception):
        pass

    def look(_, x):
        raise Seen(np.asarray(x))

    model = nnx.merge(*network)
    monkeypatch.setattr(rin.ScalarEmbedding, "__call__", look)
    condition = np.zeros((len(batch["t"]), 1, model.config.latent_width), np.float32)
    with pytest.raises(Seen) as seen:
        model(batch["x_t"], batch["t"], condition, np.ones(condition.shape[:2], bool))
    np.testing.assert_allclose(seen.value.args[0], 1 - batch["t"], rtol=1e-6)


@pytest.mark.over_a_second
def test_missing_rewards_leave_gradients_finite(network, batch):
    graphdef, params, buffers = network
    levels = np.full_like(batch["levels"], np.nan)

    def total(params):
        *_, condition = apply(graphdef, params, buffers, batch | {"levels": levels})
        return jnp.sum(jnp.square(condition))

    grads = paths(jax.jit(jax.grad(total))(params))
    assert all(np.isfinite(leaf).all() for leaf in grads.values())
    assert not np.any(grads["rewards/0/hidden/kernel"])
    assert np.any(grads["reward_positions/table"])


def test_padded_caption_tokens_never_matter(network, batch):
    graphdef, params, buffers = network
    batch["caption_mask"][0, 2:] = batch["caption_mask"][1, 5:] = False
    padding = ~batch["caption_mask"][..., None]
    loud = batch | {"caption_tokens": np.where(padding, np.float32(1e3), batch["caption_tokens"])}
    quiet, found = (run(graphdef, params, buffers, b) for b in (batch, loud))
    for ours, expected in zip(found[:2], quiet[:2], strict=True):
        np.testing.assert_array_equal(ours, expected)
    shown = run(graphdef, params, buffers, loud | {"caption_mask": np.ones((2, LENGTH), bool)})
    assert difference(shown[0], quiet[0]) > 1e-3


@pytest.mark.over_a_second
def test_longer_padding_changes_nothing(network, batch):
    graphdef, params, buffers = network
    longer = dict(batch)
    longer["caption_tokens"] = np.pad(batch["caption_tokens"], ((0, 0), (0, 3), (0, 0)))
    longer["caption_mask"] = np.pad(batch["caption_mask"], ((0, 0), (0, 3)))
    found, expected = (run(graphdef, params, buffers, b) for b in (longer, batch))
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert difference(ours, theirs) <= 1e-5


@pytest.mark.over_a_second
def test_batch_of_two_equals_two_batches_of_one(network, batch):
    batch["levels"][1, 0] = np.nan
    batch["caption_mask"][0, 3:] = False
    previous = previous_tokens()
    together = run(*network, batch, previous)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        alone = run(*network, one, previous[row : row + 1])
        for ours, expected in zip(together, alone, strict=True):
            assert difference(ours[row], expected[0]) <= 1e-5


def test_no_previous_latent_tokens_means_zeros(network, batch):
    found = run(*network, batch)
    zeros = run(*network, batch, 0 * previous_tokens())
    others = run(*network, batch, previous_tokens())
    assert difference(found[0], zeros[0]) <= 1e-6
    assert difference(found[0], others[0]) > 1e-2


def test_each_input_matters(network, batch):
    velocity, *_ = run(*network, batch)
    other = make_batch(TINY, 2, LENGTH, seed=9)
    for name in ("x_t", "t", "caption_tokens", "levels"):
        changed, *_ = run(*network, batch | {name: other[name]})
        assert difference(changed, velocity) > 1e-3, name


@pytest.mark.over_a_second
def test_bfloat16_network_keeps_float32_parameters_and_outputs(network, batch):
    graphdef, params, buffers = random_network(TINY, seed=0, dtype=jnp.bfloat16)
    half, full = run(graphdef, params, buffers, batch), run(*network, batch)
    assert {leaf.dtype for leaf in paths(params).values()} == {np.dtype(np.float32)}
    for ours, expected in zip(half, full, strict=True):
        assert ours.dtype == jnp.float32
        # bfloat16 has 8 bits: 0.4 % a product. Not zero either: the products did run in bfloat16.
        assert 1e-4 < difference(ours, expected) < 5e-2


@pytest.mark.parametrize(("remat", "recomputed"), [(True, 2), ("block", 2), ("attention_mlp", 8)])
@pytest.mark.over_a_second
def test_recomputed_blocks_give_the_same_velocity(batch, remat, recomputed):
    """`remat` changes memory only: each part appears in the gradient as one to recompute."""
    config = resize(TINY, num_blocks=2, remat=remat)
    recomputing = random_network(config, seed=0)
    plain, *_ = abstract_network(resize(config, remat=False))
    for ours, expected in zip(
        run(*recomputing, batch), run(plain, *recomputing[1:], batch), strict=True
    ):
        assert difference(ours, expected) <= 1e-6

    def count(graphdef):
        def loss(params):
            velocity, *_ = apply(graphdef, params, recomputing[2], batch)
            return jnp.sum(velocity)

        jaxpr = jax.make_jaxpr(jax.grad(loss))(recomputing[1])
        return sum(
            "remat" in e.primitive.name or "checkpoint" in e.primitive.name for e in jaxpr.eqns
        )

    assert count(plain) == 0
    assert count(recomputing[0]) == recomputed


def test_what_is_recomputed_goes_by_name_or_by_a_truth_value():
    assert resize(TINY, remat=False) == resize(TINY, remat="none")
    assert resize(TINY, remat="True").remat == "block"
    with pytest.raises(ValueError, match="remat must be one of none, block, attention_mlp; got"):
        resize(TINY, remat="layers")


@pytest.mark.over_a_second
def test_tokens_between_layers_may_have_the_dtype_of_the_products(batch):
    config = resize(TINY, residual="compute")
    graphdef, params, buffers = random_network(TINY, seed=0, dtype=jnp.bfloat16)
    narrow, *_ = abstract_network(config, dtype=jnp.bfloat16)
    wide, half = run(graphdef, params, buffers, batch), run(narrow, params, buffers, batch)
    assert half[0].dtype == half[1].dtype == jnp.float32  # velocity and latent tokens
    for ours, expected in zip(half, wide, strict=True):
        assert 1e-4 < difference(ours, expected) < 5e-2
    with pytest.raises(ValueError, match="residual must be float32 or compute; got 'bfloat16'"):
        resize(TINY, residual="bfloat16")


def test_log_variance_is_one_float32_number_a_time(network):
    model = nnx.merge(*network)
    u = model.logvar(jnp.array([0.1, 0.5, 0.5]))
    assert u.shape == (3,) and u.dtype == jnp.float32
    assert u[1] == u[2] != u[0]


def test_self_conditioning_starts_closed():
    """Its last norm starts at scale 0 and bias 0, so the first steps do not depend on it."""
    with sharding.use_mesh(small_mesh()):
        gate = rin.LayerNorm(4, initial_scale=0.0)
    assert not np.any(gate(jnp.ones((2, 4))))
    config = resize(TINY, num_blocks=1)

    def make(key):
        return nnx.state(rin.RIN(config, rngs=nnx.Rngs(params=key)), nnx.Param)["previous_gate"]

    with sharding.use_mesh(small_mesh()):
        start = jax.jit(make)(jax.random.key(0))
    assert all(not np.any(leaf) for leaf in paths(start).values())


@pytest.mark.over_a_second
def test_baseline_without_rewards_has_no_reward_parameters():
    config = resize(TINY, num_rewards=0)
    network = random_network(config, seed=0)
    assert not [path for path in paths(network[1]) if path.startswith("reward")]
    velocity, _, condition = run(*network, make_batch(config, 2, LENGTH, seed=0))
    assert velocity.shape == (2, *TINY.latent_shape)
    assert condition.shape == (2, TINY.num_registers + LENGTH, TINY.latent_width)


@pytest.mark.parametrize(
    "name, shape, error",
    [
        ("x_t", (2, 8, 8, 3), r"x_t must be \[B, \*\(8, 12, 3\)\]; got \(2, 8, 8, 3\)"),
        ("levels", (2, 4), r"levels must be \[B, R\] = \(2, 3\); got \(2, 4\)"),
        ("levels", (1, 3), r"levels must be \[B, R\] = \(2, 3\); got \(1, 3\)"),
    ],
)
def test_wrong_shapes_are_refused_with_both_shapes(network, batch, name, shape, error):
    with pytest.raises(ValueError, match=error):
        jax.eval_shape(lambda b: apply(*network, b), batch | {name: np.zeros(shape, np.float32)})


def test_pictures_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="multiple of patch_size 4; got 8 x 10"):
        resize(TINY, latent_shape=(8, 10, 3))


def test_unknown_size_is_refused_by_name():
    with pytest.raises(TypeError, match="num_layers"):
        RINConfig(num_layers=3)


@pytest.mark.over_a_second
def test_config_builds_the_network_of_its_sizes_and_type():
    config = base.get_config("tiny")

    def make(key):
        model = models.build(config.model, (16, 16, 3), 64, 7, rngs=nnx.Rngs(params=key))
        found.append(model.config)
        return nnx.split(model, nnx.Param, Buffer)[1:]

    found = []
    with sharding.use_mesh(small_mesh()):
        params, _ = jax.eval_shape(make, jax.random.key(0))
    assert found[0] == models.rin_config(config.model, (16, 16, 3), 64, 7)
    assert found[0].token_width == config.model.rin.token_width
    shapes = {path: leaf.shape for path, leaf in paths(params).items()}
    assert shapes["caption_in/kernel"] == (64, 32)
    assert shapes["reward_positions/table"] == (7, 32)
    assert shapes["token_positions/table"] == (16, 16)


@pytest.mark.over_a_second
def test_a_predicted_image_is_turned_into_a_velocity_outside_of_the_network(network, batch):
    graphdef, params, buffers = network
    velocity, z, _ = run(graphdef, params, buffers, batch)
    other, *_ = random_network(dataclasses.replace(TINY, prediction="image"), seed=0)
    got, z_of_image, _ = run(other, params, buffers, batch)
    _, c_out = rin.precondition(batch["t"], TINY.sigma)
    want = flow.velocity_to(velocity / c_out, batch["x_t"], batch["t"])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(z, z_of_image)


@pytest.mark.over_a_second
def test_a_skip_gate_keeps_a_share_of_the_noisy_image_in_the_predicted_one(batch):
    plain = dataclasses.replace(TINY, prediction="image")
    gated = dataclasses.replace(plain, skip_gate=True)
    graphdef, params, buffers = random_network(gated, seed=0)
    parts = {name: part for name, part in params.items() if not name.startswith("skip_")}
    assert params.keys() - parts.keys() == {"skip_norm", "skip_gate"}
    without = random_network(plain, seed=0)[0], nnx.State(parts), buffers
    velocity, z, _ = run(*without, batch)

    norm, gate = params["skip_norm"], params["skip_gate"]
    norm["scale"][...], norm["bias"][...] = jnp.zeros(32), jnp.zeros(32)  # as at the start
    for share in (0.0, 0.25):
        gate["bias"][...] = jnp.full(1, share)
        got, got_z, _ = run(graphdef, params, buffers, batch)
        np.testing.assert_allclose(got, (1 - share) * velocity, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(got_z, z)
    norm["scale"][...] = jnp.ones(32)  # each image has a share of its own, of its latent tokens
    got, _, _ = run(graphdef, params, buffers, batch)
    mean = np.mean(z, axis=1)
    mean = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    share = (mean @ np.asarray(gate["kernel"][...]) + 0.25)[..., None, None]
    np.testing.assert_allclose(got, (1 - share) * velocity, rtol=1e-4, atol=1e-4)
    assert np.ptp(share) > 0.01


def test_a_skip_gate_wants_a_predicted_image():
    with pytest.raises(ValueError, match="skip_gate must be False unless .*image; got 'velocity'"):
        dataclasses.replace(TINY, skip_gate=True)


@pytest.mark.over_a_second
def test_without_self_conditioning_nothing_of_an_evaluation_before_is_seen(batch):
    config = dataclasses.replace(TINY, self_condition=False)
    graphdef, params, buffers = random_network(config, seed=0)
    assert not any("previous" in path for path in paths(params))
    first = run(graphdef, params, buffers, batch)
    again = run(graphdef, params, buffers, batch, previous_tokens())
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
