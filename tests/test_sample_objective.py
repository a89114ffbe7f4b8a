"""What a search maximises: a reward, the mean of several on one scale, the check of shapes."""

import numpy as np
import pytest

from miro_jax.sample import draw, search
from miro_jax.sample.objective import RewardMean, ShapesCheck
from miro_jax.sample.request import make_request
from miro_jax.sample.search_options import Search
from tests.painting import Gauge
from tests.sampling import NAMES, Dial


def test_the_mean_of_rewards_is_in_standard_deviations():
    images = np.random.default_rng(0).integers(0, 255, (64, 8, 8, 3)).astype(np.uint8)
    images[:, 1] //= 100  # another scale
    a, b = Gauge("a", 0), Gauge("b", 1)
    texts = [""] * 64
    both = RewardMean([a, b], images, texts)
    columns = [one.score(images, texts).astype(float) for one in (a, b)]
    expected = np.mean([(c - c.mean()) / c.std() for c in columns], axis=0)
    np.testing.assert_allclose(both.score(images, texts), expected, atol=1e-5)
    assert both.identity == "a@1 + b@1"
    np.testing.assert_allclose(RewardMean([a]).score(images, texts), columns[0])


def test_one_reward_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match="members must be a list of rewards; got <"):
        RewardMean(Gauge("a", 0))


def test_a_reward_that_does_not_differ_between_images_has_no_common_scale():
    images = np.random.default_rng(0).integers(0, 255, (64, 8, 8, 3)).astype(np.uint8)
    images[:, 1] = 7
    with pytest.raises(ValueError, match="b@1 gives all 64 images the same score"):
        RewardMean([Gauge("a", 0), Gauge("b", 1)], images, [""] * 64)


@pytest.mark.parametrize("prompts, count", [(2, 16), (3, 16), (40, 20)])
def test_few_prompts_bring_rewards_to_one_scale_by_more_images(monkeypatch, prompts, count):
    seen = []

    def draw_all(pipe, images):
        seen.extend(images)
        return np.random.default_rng(0).integers(0, 255, (len(images), 8, 8, 3)).astype(np.uint8)

    monkeypatch.setattr(draw, "draw_all", draw_all)
    monkeypatch.setattr(search, "load_rewards", lambda *_, **__: [Gauge("a", 0), Gauge("b", 1)])
    request = make_request(NAMES, [f"prompt {n}" for n in range(prompts)], 1)
    search.load_objective(Dial(), request, Search(("a", "b")))
    assert len(seen) == count
    assert {image.prompt for image in seen} == {f"prompt {n}" for n in range(0, prompts, 2)}


def test_the_check_of_the_shapes_world_is_that_of_the_evaluator():
    images = np.zeros((2, 16, 16, 3), np.uint8)
    assert ShapesCheck().score(images, ["a circle", "a square"]).tolist() == [0.0, 0.0]
