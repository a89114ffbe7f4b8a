"""The contract of rewards: ours keep it, and each promise that is broken is found and named."""

import numpy as np
import pytest

from miro_jax.data.shapes import world
from miro_jax.rewards import SHAPES_REWARDS, base, load_reward
from miro_jax.rewards.contract import BrokenPromise, check_reward
from miro_jax.rewards.failure import RewardFailed


@pytest.mark.parametrize("name", SHAPES_REWARDS)
def test_rewards_of_the_shapes_world_keep_it(name):
    check_reward(load_reward(name), images=[world.make_sample(3, i, 48).image for i in range(4)])


class Sound(base.Judge):
    """Mean of the picture and the caption's letters, on a device that does not exist."""

    name, version, tower, preprocessing = "sound", "1", "none", "mean"
    needs_caption, synthetic_form = True, "short"

    def prepare(self, image):
        base.check_image(image)
        return image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)

    def encode(self, prepared):
        return prepared.mean(axis=1)

    def judge(self, features, captions):
        base.check_captions(captions, len(features))
        return features + np.array([len(text) for text in captions], np.float32)


def test_a_sound_reward_keeps_it():
    check_reward(Sound())


def test_a_missing_score_is_fine_where_it_may_be():
    class Missing(Sound):
        def judge(self, features, captions):
            scores = super().judge(features, captions)
            return np.where([not text for text in captions], np.float32(np.nan), scores)

    with pytest.raises(BrokenPromise, match="scores must be finite"):
        check_reward(Missing())
    Missing.may_be_missing = True
    check_reward(Missing())


def broken(**changes):
    """A reward that differs from the sound one in these members."""
    return type("Broken", (Sound,), changes)()


def by_batch(self, features, captions):
    return Sound.judge(self, features, captions) + np.float32(0.01 * len(features))


def by_longest(self, features, captions):
    return Sound.judge(self, features, [max(captions, key=len)] * len(captions))


def counting(self, image):
    self.calls = getattr(self, "calls", 0) + 1
    return Sound.prepare(self, image) + np.float32(self.calls > 8)


def consuming(self, features, captions):
    scores = Sound.judge(self, features, captions)
    features[:] = 0
    return scores


def overwriting(self, image):
    prepared = Sound.prepare(self, image)
    image[:] = 0
    return prepared


def zipped(self, features, captions):
    pairs = zip(features, captions, strict=False)
    return np.array([f + len(c) for f, c in pairs], np.float32)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "My Reward"}, "name must be of small letters"),
        ({"version": "1@2"}, "version must hold no"),
        ({"version": 1}, "version must be a text; got 1"),
        ({"tower": ""}, "tower must be a text"),
        ({"identity": "sound"}, "identity must be name@version; got 'sound'"),
        ({"needs_caption": 1}, "needs_caption must be True or False"),
        ({"synthetic_form": "tiny"}, "synthetic_form must be one of long, short"),
        ({"prepare": lambda self, image: image}, "all sizes to one shape"),
        ({"prepare": lambda self, image: [1]}, "must return an array"),
        ({"prepare": counting}, "the same result each time"),
        ({"prepare": lambda self, x: np.float32(np.mean(x[..., :3], (0, 1)))}, "must refuse"),
        ({"judge": lambda self, f, c: Sound.judge(self, f, c).astype(float)}, "float32"),
        ({"judge": lambda self, f, c: Sound.judge(self, f, c)[:, None]}, r"\[5\] float32"),
        ({"judge": lambda self, f, c: list(Sound.judge(self, f, c))}, "a numpy array"),
        ({"judge": lambda self, f, c: Sound.judge(self, f, c) / 0}, "must be finite"),
        ({"judge": consuming}, "twice on the same features"),
        ({"judge": by_batch}, "must not depend on its batch"),
        ({"judge": by_longest}, "must not depend on its batch"),
        ({"score": lambda self, i, c: zipped(self, self.read(i), c) if i else self.judge(
            np.zeros(0, np.float32), [])}, "must refuse a missing caption"),
        ({"score": lambda self, i, c: self.judge(self.read(i), c)}, "at least one image"),
        ({"judge": lambda self, f, c: f}, "some of the captions must change"),
        ({"needs_caption": False}, "no caption may change a score"),
        ({"stored": lambda self, s: -s}, "stored must rise"),
        ({"stored": lambda self, s: np.clip(s, 0, 1)}, "stored must rise"),
        ({"stored": lambda self, s: s.astype(float)}, "stored must return"),
        ({"stored": lambda self, s: np.nan_to_num(s)}, "missing"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_broken_promise_is_found_and_named(changes, text):
    with pytest.raises(ValueError, match=text):
        check_reward(broken(**changes))


def test_a_picture_must_not_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        check_reward(broken(prepare=overwriting))


def test_what_a_reward_raises_on_a_good_input_is_not_hidden():
    def refuse_empty(self, features, captions):
        if "" in captions:
            raise KeyError("no words")
        return Sound.judge(self, features, captions)

    with pytest.raises(RewardFailed, match="failed in judge: KeyError: 'no words'") as failed:
        check_reward(broken(judge=refuse_empty))
    assert isinstance(failed.value.__cause__, KeyError)
