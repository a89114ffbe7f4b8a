"""The target of Mean Flows: by finite differences of a network, and on a field solved exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import meanflow
from miro_jax.models import sharding
from tests.linear_field import average, linear
from tests.networks import (
    TINY,
    make_batch,
    random_network,
    resize,
    small_mesh,
)

ROWS = 4


@pytest.fixture(scope="module")
def student():
    """A random student as a function of (x, t, r), and a batch."""
    config = resize(TINY, student=True, self_condition=False)
    graphdef, *states = random_network(config, seed=0)
    batch = make_batch(config, ROWS, 3, seed=1)
    model = nnx.merge(graphdef, *states)
    scale = jnp.linspace(0, 2, ROWS)
    with sharding.use_mesh(small_mesh()):
        given = (batch[name] for name in ("caption_tokens", "caption_mask", "levels"))
        condition = jax.jit(model.encode_condition)(*given)
        yield jax.jit(lambda x, t, end: model(x, t, *condition, None, (end, scale))[0]), batch


def times(t, end):
    return jnp.full(ROWS, t), jnp.full(ROWS, end)


@pytest.mark.over_a_second
def test_the_target_is_that_of_finite_differences_of_a_network(student):
    """u along x + h v and t + h, at fixed r.

    The difference D(h) errs by c h^2 + O(h^4), so by a third of D(2 h) - D(h), and by rounding.
    """
    call, batch = student
    x, v = (jnp.asarray(batch[name]) for name in ("x_t", "noise"))
    t, end = jnp.linspace(0.4, 0.9, ROWS), jnp.linspace(0.0, 0.3, ROWS)
    u, target = jax.jit(lambda *given: meanflow.mean_flow(call, *given))(x, t, end, v)
    np.testing.assert_allclose(u, call(x, t, end), atol=1e-5)

    def difference(h):
        return (call(x + h * v, t + h, end) - call(x - h * v, t - h, end)) / (2 * h)

    h = 1e-2
    near, far = difference(h), difference(2 * h)
    span = (t - end)[:, None, None, None]
    rounding = 8 * np.finfo(np.float32).eps * np.abs(u).max() / h
    error = np.abs(target - (v - span * near))
    bound = span * (np.abs(far - near) + rounding)  # three times the error that is expected
    # An element whose h^2 term vanishes has that of its neighbours in size.
    assert (error <= np.maximum(bound, np.mean(bound))).all()
    assert np.mean(bound) < 0.02 * np.mean(np.abs(span * near))  # a wrong sign would show


def test_the_average_velocity_of_a_linear_field_is_its_own_target():
    """v = a x + b t, whose flow is known: u = v - (t - r) du/dt, for every r below t."""
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))

    def of_rows(x, t, end):
        return average(x, *(one.reshape(-1, 1, 1, 1) for one in (t, end)))

    for pair in ((0.9, 0.25), (1.0, 0.0)):
        t, end = times(*pair)
        v, _ = linear(x, pair[0], None)
        u, target = meanflow.mean_flow(of_rows, x, t, end, v)
        np.testing.assert_allclose(target, u, atol=1e-5)
        _, other = meanflow.mean_flow(of_rows, x, t, end, 1.1 * v)
        assert np.abs(other - u).max() > 0.01


def test_where_the_step_has_no_length_the_target_is_the_velocity():
    t, _ = times(0.5, 0.5)
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))
    _, target = meanflow.mean_flow(lambda x, t, end: jnp.sin(x), x, t, t, 3 * x)
    np.testing.assert_array_equal(target, 3 * x)


def test_no_gradient_passes_through_the_target():
    t, end = times(0.9, 0.25)
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))

    def both(factor):
        return [
            jnp.sum(one) for one in meanflow.mean_flow(lambda x, t, r: factor * x, x, t, end, x)
        ]

    of_average, of_target = jax.jacobian(both)(2.0)
    assert of_target == 0 and of_average == pytest.approx(float(jnp.sum(x)), rel=1e-5)


def test_times_are_in_order_and_reach_both_ends():
    t, end = map(np.asarray, meanflow.draw_times(jax.random.key(0), 8000, 0.5))
    assert (end <= t).all() and t.max() == 1 and end.min() == 0
    drawn = t != end
    assert 0.45 < drawn.mean() < 0.52  # and pairs that are both at an end
    # Each end has a twelfth of the draws: two are 1 and 0 in 1 of 72.
    assert 0.009 < ((t == 1) & (end == 0))[drawn].mean() < 0.02
    equal = meanflow.draw_times(jax.random.key(0), 100, 1.0)
    np.testing.assert_array_equal(*equal)
