"""Guidance: identities of v+ + w (v+ - v-)."""

import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models.guidance import guide


@pytest.fixture(scope="module")
def velocities():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(3, 4, 4, 2)), jnp.float32) for _ in range(2))


def test_scale_zero_gives_the_positive_velocity(velocities):
    v_pos, v_neg = velocities
    np.testing.assert_array_equal(guide(v_pos, v_neg, 0.0), v_pos)
    np.testing.assert_array_equal(guide(v_pos, v_neg, jnp.zeros(3)), v_pos)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 7.0, 1e4])
def test_equal_branches_give_the_positive_velocity_at_any_scale(velocities, scale):
    v_pos, _ = velocities
    np.testing.assert_array_equal(guide(v_pos, v_pos, scale), v_pos)


def test_scale_minus_one_gives_the_negative_velocity(velocities):
    v_pos, v_neg = velocities
    np.testing.assert_allclose(guide(v_pos, v_neg, -1.0), v_neg, atol=1e-6)


def test_guidance_is_affine_in_the_scale(velocities):
    v_pos, v_neg = velocities
    at = [np.asarray(guide(v_pos, v_neg, s), np.float64) for s in (0.0, 1.0, 7.0)]
    np.testing.assert_allclose(at[2] - at[0], 7 * (at[1] - at[0]), atol=1e-5)
    assert np.abs(at[1] - at[0]).max() > 1


def test_each_sample_can_have_its_own_scale(velocities):
    v_pos, v_neg = velocities
    scales = [0.0, 2.0, 7.0]
    together = guide(v_pos, v_neg, jnp.array(scales))
    for row, scale in enumerate(scales):
        np.testing.assert_array_equal(together[row], guide(v_pos[row], v_neg[row], scale))
