"""Guidance: identities of v+ + w (v+ - v-), and what its variants must be in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models.guidance import guide, guide_apg, guide_cfg_zero, linear_schedule
from miro_jax.sample.settings import Settings, parse_rule


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


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def test_cfg_zero_guides_against_the_projection_of_the_positive_velocity(velocities):
    """At w = -1 what is left is s v-, the point of the line through v- that is nearest to v+."""
    v_pos, v_neg = velocities
    fitted = flat(guide_cfg_zero(v_pos, v_neg, -1.0, jnp.float32(0.5), 0.04))
    rest = flat(v_pos) - fitted
    np.testing.assert_allclose((rest * flat(v_neg)).sum(1), 0, atol=1e-4)
    along = (fitted * flat(v_neg)).sum(1) / np.linalg.norm(flat(v_neg), axis=1)
    np.testing.assert_allclose(abs(along), np.linalg.norm(fitted, axis=1), rtol=1e-5)


def test_cfg_zero_is_guidance_where_the_projection_is_the_negative_velocity(velocities):
    """v+ = v- + something at right angles to v-: s is 1."""
    v_pos, v_neg = velocities
    share = (flat(v_pos) * flat(v_neg)).sum(1) / (flat(v_neg) ** 2).sum(1)
    v_pos = v_neg + v_pos - jnp.asarray(share, jnp.float32).reshape(-1, 1, 1, 1) * v_neg
    made = guide_cfg_zero(v_pos, v_neg, jnp.array([0.0, 2.0, 7.0]), jnp.float32(0.5), 0.04)
    np.testing.assert_allclose(made, guide(v_pos, v_neg, jnp.array([0.0, 2.0, 7.0])), atol=1e-4)


def test_cfg_zero_does_not_move_at_first(velocities):
    for t, moves in ((1.0, False), (0.97, False), (0.95, True)):
        made = guide_cfg_zero(*velocities, 2.0, jnp.float32(t), 0.04)
        assert bool((made != 0).any()) == moves
    assert (guide_cfg_zero(*velocities, 2.0, jnp.float32(1.0), 0.0) != 0).any()


def apg(velocities, scale=3.0, t=0.4, average=None, **numbers):
    v_pos, v_neg = velocities
    x = jnp.asarray(np.random.default_rng(1).normal(size=v_pos.shape), jnp.float32)
    values = jnp.array(
        [numbers.get("eta", 0.0), numbers.get("norm", 0.0), numbers.get("momentum", 0)]
    )
    zeros = jnp.zeros_like(v_pos) if average is None else average
    made, average = guide_apg(v_pos, v_neg, scale, x, jnp.float32(t), zeros, values)
    clean = [flat(x - t * v) for v in (v_pos, made)]
    return made, average, clean


def test_apg_of_the_whole_change_is_guidance(velocities):
    made, average, _ = apg(velocities, eta=1.0)
    np.testing.assert_allclose(made, guide(*velocities, 3.0), atol=1e-4)
    np.testing.assert_allclose(average, -0.4 * (velocities[0] - velocities[1]), atol=1e-6)
    scales = jnp.array([0.0, 2.0, 7.0])
    made, *_ = apg(velocities, scales, eta=1.0)
    np.testing.assert_allclose(made, guide(*velocities, scales), atol=1e-4)


def test_apg_changes_the_clean_image_at_right_angles_to_it(velocities):
    _, _, (before, after) = apg(velocities)
    change = after - before
    cosine = (change * before).sum(1) / np.linalg.norm(change, axis=1)
    np.testing.assert_allclose(cosine / np.linalg.norm(before, axis=1), 0, atol=1e-4)
    assert np.linalg.norm(change, axis=1).min() > 1


def test_apg_limits_the_norm_and_remembers(velocities):
    _, _, (before, after) = apg(velocities, eta=1.0, norm=0.5)
    np.testing.assert_allclose(np.linalg.norm(after - before, axis=1), 3.0 * 0.5, rtol=1e-4)
    _, average, _ = apg(velocities)
    _, twice, _ = apg(velocities, average=average, momentum=-0.5)
    np.testing.assert_allclose(twice, 0.5 * average, atol=1e-6)


def test_apg_is_algorithm_1_of_its_paper(velocities):
    """Written out for predictions of the clean image, a row at a time, over three evaluations."""
    rng, w, eta, limit, momentum = np.random.default_rng(2), 4.0, 0.3, 2.0, -0.75
    remembered, average = np.zeros((3, 32)), jnp.zeros_like(velocities[0])
    for t in (1.0, 0.6, 0.2):
        pair = [jnp.asarray(rng.normal(size=v.shape), jnp.float32) for v in velocities]
        made, average, (positive, guided) = apg(
            pair, w, t, average, eta=eta, norm=limit, momentum=momentum
        )
        for row, clean in enumerate(positive):
            change = t * (flat(pair[1]) - flat(pair[0]))[row]  # D+ - D-
            remembered[row] = change + momentum * remembered[row]
            change = remembered[row] * min(1.0, limit / np.linalg.norm(remembered[row]))
            along = clean / np.linalg.norm(clean)
            parallel = (change @ along) * along
            wanted = clean + w * (change - parallel + eta * parallel)
            np.testing.assert_allclose(guided[row], wanted, atol=1e-4)


def test_equal_branches_need_no_guidance_of_any_kind(velocities):
    v_pos, _ = velocities
    np.testing.assert_allclose(apg((v_pos, v_pos))[0], v_pos, atol=1e-6)
    made = guide_cfg_zero(v_pos, v_pos, 7.0, jnp.float32(0.5), 0.04)
    np.testing.assert_allclose(made, v_pos, atol=1e-5)


def test_the_linear_schedule_has_the_mean_of_the_scale():
    times = (np.arange(1000) + 0.5) / 1000
    scales = linear_schedule(7.0, jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(scales.mean(), 7.0, rtol=1e-5)
    assert linear_schedule(7.0, 1.0) == 0 and linear_schedule(7.0, 0.0) == 14
    assert (np.diff(scales) < 0).all()


def test_rules_are_read_with_their_numbers():
    assert parse_rule("cfg") == ("cfg", ())
    assert parse_rule("cfg_zero") == ("cfg_zero", (0.04,))
    assert parse_rule("apg:momentum=-0.5,norm=2.5") == ("apg", (0.0, 2.5, -0.5))
    for text, said in (
        ("afg", "one of cfg, cfg_zero, apg; got 'afg'"),
        ("apg:zero=1", "takes eta=0, norm=0, momentum=0; got 'zero=1'"),
        ("apg:norm=nan", "got 'norm=nan'"),
        ("apg:norm=-1", "norm at least 0"),
        ("cfg:eta=1", "takes no numbers"),
        ("cfg_zero:zero=2", r"zero must be in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=said):
            Settings(guidance_rule=text)


def test_what_is_off_is_not_written():
    """Manifests and requests of before there were rules stay the same."""
    assert "guidance_rule" not in Settings().to_json()
    assert Settings().to_json().keys() >= {"guidance_scale", "num_steps", "solver"}
    written = Settings(guidance_rule="apg", guidance_schedule="linear").to_json()
    assert written["guidance_rule"] == "apg" and written["guidance_schedule"] == "linear"
