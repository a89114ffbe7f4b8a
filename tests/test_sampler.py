"""Sampling: branches with their own memory, keys that fix a picture, and what compiles anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import solvers
from miro_jax.models.sampler import Branch, Guidance, draw_noise, make_sampler, sample_keys
from tests.networks import TINY, difference, make_batch, random_network

STEPS = 3
ROWS = 3


class Setup:
    """A network, its sampler, and two branches that ask for different things."""

    def __init__(self):
        self.network = random_network(TINY, seed=0)
        graphdef, *states = self.network
        self.weights = tuple(states)
        self.sample = make_sampler(graphdef, solvers.euler, STEPS)
        self.keys = sample_keys(0, np.arange(ROWS), np.zeros(ROWS, int))
        self.positive, self.negative = make_branch(1, 1.0), make_branch(2, 0.0)

    def __call__(
        self, keys=None, positive=None, negative=None, scale=2.0, guided=True, interval=(0, 1)
    ):
        guidance = Guidance(
            np.broadcast_to(np.float32(scale), (ROWS,)), np.array(interval, np.float32)
        )
        return np.asarray(
            self.sample(
                self.weights,
                draw_noise(self.keys if keys is None else keys, TINY.latent_shape),
                positive or self.positive,
                negative or self.negative,
                guidance,
                guided=guided,
            )
        )


def make_branch(seed, level) -> Branch:
    batch = make_batch(TINY, ROWS, 4, seed)
    mask = batch["caption_mask"].copy()
    mask[0, 2:] = False
    return Branch(
        batch["caption_tokens"], mask, np.full((ROWS, TINY.num_rewards), level, np.float32)
    )


def take(branch, rows) -> Branch:
    return jax.tree.map(lambda x: x[np.array(rows)], branch)


@pytest.fixture(scope="module")
def setup():
    return Setup()


@pytest.mark.slow
def test_guided_sampling_equals_two_separate_chains_of_evaluations(setup):
    """Each branch is encoded once and carries its own latent tokens; each picture has its scale."""
    graphdef, params, buffers = setup.network

    @jax.jit
    def evaluate(branch, x, t, carry):
        model = nnx.merge(graphdef, params, buffers)
        condition, mask = model.encode_condition(branch.tokens, branch.mask, branch.levels)
        return model(x, jnp.full((ROWS,), t), condition, mask, carry)

    scale = np.array([0.0, 2.0, 5.0], np.float32)
    x = np.asarray(draw_noise(setup.keys, TINY.latent_shape))
    carries = [np.zeros((ROWS, TINY.num_latent_tokens, TINY.latent_width), np.float32)] * 2
    for t in (1.0, 2 / 3, 1 / 3):
        velocities = []
        for i, branch in enumerate((setup.positive, setup.negative)):
            v, carries[i] = evaluate(branch, x, jnp.float32(t), carries[i])
            velocities.append(np.asarray(v))
        v_pos, v_neg = velocities
        x = x - (v_pos + scale[:, None, None, None] * (v_pos - v_neg)) / 3
    assert difference(setup(scale=scale), x) <= 1e-5


def test_picture_depends_on_its_key_and_request_and_not_on_the_batch(setup):
    together = setup()
    rows = [2, 1, 0]
    other_key = sample_keys(0, [7], [7])
    keys = jnp.concatenate([setup.keys[2:], other_key, setup.keys[:1]])
    moved = setup(keys, take(setup.positive, rows), take(setup.negative, rows))
    assert difference(moved[0], together[2]) <= 1e-5
    assert difference(moved[2], together[0]) <= 1e-5
    assert difference(moved[1], together[1]) > 0.1


def test_same_request_gives_the_same_picture(setup):
    np.testing.assert_array_equal(setup(), setup())


def test_scale_zero_is_sampling_without_the_negative_branch(setup):
    assert difference(setup(scale=0.0), setup(guided=False)) <= 1e-5


def test_equal_branches_give_the_unguided_picture_at_any_scale(setup):
    guided = setup(negative=setup.positive, scale=50.0)
    assert difference(guided, setup(guided=False)) <= 1e-5


def test_levels_captions_and_scale_change_the_picture(setup):
    picture = setup()
    asked = Branch(setup.positive.tokens, setup.positive.mask, setup.negative.levels)
    said = Branch(setup.negative.tokens, setup.positive.mask, setup.positive.levels)
    for other in (setup(positive=asked), setup(positive=said), setup(scale=7.0)):
        assert difference(other, picture) > 1e-3


def test_only_the_guided_flag_compiles_anew(setup):
    setup()
    setup(guided=False)
    size = setup.sample._cache_size()
    setup(sample_keys(5, [1, 2, 3], [4, 5, 6]), setup.negative, setup.positive, scale=9.0)
    setup(interval=(0.2, 0.7))
    assert setup.sample._cache_size() == size == 2


def test_guidance_acts_inside_its_interval_only(setup):
    """Times of the three steps are 1, 2/3 and 1/3."""
    guided, plain = setup(), setup(scale=0.0)
    np.testing.assert_array_equal(setup(interval=(0.3, 1.0)), guided)
    np.testing.assert_array_equal(setup(interval=(0.0, 0.3)), plain)
    partly = setup(interval=(0.5, 0.8))
    assert difference(partly, guided) > 1e-3 and difference(partly, plain) > 1e-3


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_keys_differ_between_seeds_prompts_and_samples():
    prompts, samples = np.meshgrid(np.arange(5), np.arange(4))
    grids = [data(sample_keys(seed, prompts.ravel(), samples.ravel())) for seed in (0, 1)]
    assert len(np.unique(np.concatenate(grids), axis=0)) == 40


def test_key_depends_on_its_three_numbers_only():
    all_keys = data(sample_keys(3, [0, 1, 2, 1], [5, 6, 7, 0]))
    np.testing.assert_array_equal(data(sample_keys(3, [2], [7]))[0], all_keys[2])
    np.testing.assert_array_equal(data(sample_keys(3, [1, 0], [6, 5])), all_keys[[1, 0]])


def test_noise_is_standard_normal_and_one_draw_a_key():
    keys = sample_keys(0, np.arange(50), np.zeros(50, int))
    noise = np.asarray(draw_noise(keys, (20, 20, 1)))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    np.testing.assert_array_equal(draw_noise(keys[7:8], (20, 20, 1))[0], noise[7])
    correlations = np.corrcoef(noise.reshape(50, -1)) - np.eye(50)
    assert np.abs(correlations).max() < 0.25  # five standard errors
