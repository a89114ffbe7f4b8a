"""LAMB, AdamW, clipping and the schedule; tests/oracles/test_optim.py compares with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from miro_jax.train import optim
from miro_jax.train.settings import Optim
from tests.updates import ADAPTED, SHAPES, flatten, make_gradients, make_params, nest, run


def make(name, **settings):
    return optim.make_optimizer(Optim(name, **settings), total_steps=10)


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture(scope="module")
def gradients():
    return make_gradients()


def test_nnx_state_is_updated_like_a_dict(params, gradients):
    optimizer = optim.lamb(3e-3, Optim("lamb", 3e-3, 0, weight_decay=0.1))
    state = nnx.State(jax.tree.map(lambda x: nnx.Param(jnp.asarray(x)), nest(params)))
    steps = [
        nnx.State(jax.tree.map(lambda x: nnx.Param(jnp.asarray(x)), nest(g))) for g in gradients[:3]
    ]
    found = flatten(nnx.to_pure_dict(run(optimizer, state, steps)))
    expected = flatten(run(optimizer, nest(params), map(nest, gradients[:3])))
    for key in SHAPES:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def test_norms_and_biases_are_not_adapted_unless_below_logvar(params):
    flat = flatten(optim.adapted(nest(params)))
    assert {key for key, value in flat.items() if value} == ADAPTED
    nested = {"head": {"logvar": {"out": {"bias": 0}}}, "bias_table": {"table": 0}}
    assert all(jax.tree.leaves(optim.adapted(nested)))


def test_moments_have_the_shapes_of_the_parameters(params):
    state = make("lamb", learning_rate=1e-3, warmup_steps=1).init(nest(params))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for key, shape in SHAPES.items():
        moments = [
            leaf
            for path, leaf in leaves
            if jax.tree_util.keystr(path, simple=True, separator="/").endswith(f"/{key}")
        ]
        assert [m.shape for m in moments] == [shape, shape], key
        assert all(m.dtype == jnp.float32 for m in moments)


def test_schedule_stays_at_its_end():
    schedule = optim.warmup_cosine(1e-3, 10, 100, 0.8)
    assert schedule(1000) == schedule(100) > 0


@pytest.mark.over_a_second
def test_update_number_k_uses_the_rate_of_count_k_minus_1(params, gradients):
    """AdamW without decay moves a leaf by the rate when its gradient is always the same."""
    constant = [nest({k: np.ones(s, np.float32) for k, s in SHAPES.items()})]
    optimizer = make("adamw", learning_rate=1e-2, warmup_steps=3, weight_decay=0.0)
    schedule = optim.warmup_cosine(1e-2, 3, 10, 0.8)
    start = jax.tree.map(jnp.zeros_like, nest(params))
    for updates in range(1, 6):
        moved = -run(optimizer, start, constant * updates)["patch"]["bias"][0]
        expected = sum(schedule(count) for count in range(updates))
        np.testing.assert_allclose(moved, expected, rtol=1e-4)


@pytest.mark.over_a_second
def test_make_optimizer_clips_before_it_updates(params, gradients):
    """LAMB forgets the size of the first gradient but not of the second relative to it."""
    big = [nest(gradients[0]), nest({k: 1e4 * v for k, v in gradients[1].items()})]
    norm = optax.tree.norm(big[1])
    clipped = [big[0], jax.tree.map(lambda g: g * (2.0 / norm), big[1])]
    settings = dict(learning_rate=1e-2, warmup_steps=0)
    assert optax.tree.norm(big[0]) < 2.0
    with_clip = run(make("lamb", **settings), nest(params), big)
    by_hand = run(make("lamb", **settings, clip_norm=float("inf")), nest(params), clipped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), with_clip, by_hand)


def test_the_trust_ratio_is_that_of_norms_and_1_where_one_is_zero():
    p = {"both": jnp.array([3.0, 4.0]), "no_update": jnp.ones(2), "no_weights": jnp.zeros(2)}
    u = {"both": jnp.array([0.0, 2.0]), "no_update": jnp.zeros(2), "no_weights": jnp.ones(2)}
    own, of_optax = optim.scale_by_trust_ratio(), optax.scale_by_trust_ratio()
    assert own.init(p) == of_optax.init(p)  # so that older checkpoints are read
    for update in (own.update, jax.jit(own.update)):
        found, _ = update(u, own.init(p), p)
        np.testing.assert_array_equal(found["both"], [0.0, 5.0])
        np.testing.assert_array_equal(found["no_update"], u["no_update"])
        np.testing.assert_array_equal(found["no_weights"], u["no_weights"])


def test_gradients_without_a_finite_norm_stay_without_and_no_limit_changes_nothing(gradients):
    own = optim.clip_by_global_norm(2.0)
    assert own.init(gradients[0]) == optax.clip_by_global_norm(2.0).init(gradients[0])
    bad = {"a": jnp.array([1.0, jnp.nan]), "b": jnp.ones(3)}
    clipped, _ = own.update(bad, own.init(bad))
    assert all(np.isnan(leaf).all() for leaf in clipped.values())
    free, _ = optim.clip_by_global_norm(float("inf")).update(gradients[0], own.init(None))
    jax.tree.map(np.testing.assert_array_equal, free, gradients[0])


def test_unknown_optimizer_lists_the_known_ones():
    with pytest.raises(ValueError, match="one of adamw, lamb; got 'sgd'"):
        make("sgd", learning_rate=1e-3, warmup_steps=1)


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_warmup_as_long_as_the_run_is_refused(warmup_steps):
    with pytest.raises(ValueError, match="warmup_steps must be"):
        make("lamb", learning_rate=1e-3, warmup_steps=warmup_steps)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite; got nan"),
        ({"learning_rate": -1e-3}, "learning_rate must be at least 0; got -0.001"),
        ({"learning_rate": None}, "learning_rate must be a number; got None"),
        ({"weight_decay": float("inf")}, "weight_decay must be finite; got inf"),
        ({"eps": -1.0}, "eps must be at least 1e-30"),
        ({"eps": 0.0}, "eps must be at least 1e-30"),
        ({"eps": 1e-50}, "eps must be at least 1e-30"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9, float("nan"))}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\)"),
    ],
)
def test_a_number_that_cannot_train_is_refused(changes, said):
    with pytest.raises(ValueError, match=f"config.optim.{said}"):
        Optim(**{"name": "lamb", "learning_rate": 1e-3, "warmup_steps": 1} | changes)
