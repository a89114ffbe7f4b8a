"""Straight paths, their velocity, training times, and the weighing by log-variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models import flow


@pytest.fixture(scope="module")
def x_and_noise():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(4, 2, 3, 5)), jnp.float32) for _ in range(2))


def test_path_starts_at_the_data_and_ends_at_the_noise(x_and_noise):
    x, noise = x_and_noise
    np.testing.assert_array_equal(flow.interpolate(x, noise, jnp.zeros(4)), x)
    np.testing.assert_array_equal(flow.interpolate(x, noise, jnp.ones(4)), noise)


def test_each_sample_has_its_own_time(x_and_noise):
    x, noise = x_and_noise
    t = jnp.array([0.0, 0.25, 0.5, 1.0])
    x_t = flow.interpolate(x, noise, t)
    for row in range(4):
        by_hand = x[row] + float(t[row]) * (noise[row] - x[row])
        np.testing.assert_allclose(x_t[row], by_hand, atol=1e-6)


def test_velocity_is_the_time_derivative_of_the_path(x_and_noise):
    x, noise = x_and_noise
    t = jnp.array([0.0, 0.1, 0.7, 1.0])
    _, derivative = jax.jvp(lambda t: flow.interpolate(x, noise, t), (t,), (jnp.ones(4),))
    np.testing.assert_allclose(derivative, flow.velocity_target(x, noise), atol=1e-6)


def test_an_image_gives_the_velocity_of_its_path(x_and_noise):
    x, noise = x_and_noise
    t = jnp.array([flow.MIN_TIME, 0.1, 0.7, 1.0])
    velocity = flow.velocity_to(x, flow.interpolate(x, noise, t), t)
    np.testing.assert_allclose(velocity, flow.velocity_target(x, noise), atol=1e-5)
    early = jnp.full(4, flow.MIN_TIME / 2)
    x_t = flow.interpolate(x, noise, early)
    np.testing.assert_allclose(
        flow.velocity_to(x, x_t, early), (x_t - x) / flow.MIN_TIME, atol=1e-6
    )


def test_times_are_logit_normal():
    t = np.asarray(flow.sample_time(jax.random.key(0), 20_000, 0.5, 2.0), np.float64)
    assert t.shape == (20_000,) and 0 < t.min() and t.max() < 1
    logits = np.log(t / (1 - t))
    assert abs(logits.mean() - 0.5) < 0.05  # three and a half standard errors
    assert abs(logits.std() - 2.0) < 0.05
    assert np.std(flow.sample_time(jax.random.key(1), 100, 0.0, 0.0)) == 0


def test_squared_error_is_a_mean_over_each_sample_in_float32():
    error = flow.squared_error(
        jnp.array([[[1.0], [3.0]], [[0.0], [2.0]]], jnp.bfloat16), jnp.zeros((2, 2, 1))
    )
    assert error.dtype == jnp.float32
    np.testing.assert_array_equal(error, [5.0, 2.0])


def test_weighed_error_is_least_where_the_log_variance_is_that_of_the_error():
    error = jnp.array([0.01, 1.0, 30.0])
    slope = jax.vmap(jax.grad(flow.weigh_by_log_variance, argnums=1))
    np.testing.assert_allclose(slope(error, jnp.log(error)), 0.0, atol=1e-6)
    assert (slope(error, jnp.log(error) + 0.1) > 0).all()
    assert (slope(error, jnp.log(error) - 0.1) < 0).all()


def test_weighed_error_at_zero_log_variance_is_the_error():
    error = jnp.array([0.01, 1.0, 30.0])
    np.testing.assert_array_equal(flow.weigh_by_log_variance(error, jnp.zeros(3)), error)
