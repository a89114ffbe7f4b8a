"""The shapes rewards: right for the right reason, graded, at ease with anything."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from miro_jax import rewards as reward_table
from miro_jax.data.shapes import captions, render, world
from miro_jax.data.shapes import scene as scenes
from miro_jax.rewards import base

NAMES = ("sharpness", "cleanliness", "beauty", "objects", "colors", "count", "position")
BUILT = {name: reward_table.load_reward(name) for name in NAMES}
COUNT = 500


@pytest.fixture(scope="module")
def pictures():
    samples = [world.make_sample(21, index) for index in range(COUNT)]
    images = np.stack([s.image for s in samples])
    return samples, images, BUILT["objects"].read(images)


def auc(better, worse):
    """Return the probability that a better score is above a worse one."""
    ranks = stats.rankdata(np.concatenate([better, worse]))[: len(better)]
    return (ranks.sum() - len(better) * (len(better) + 1) / 2) / (len(better) * len(worse))


def test_the_seven_stand_in_their_order_with_identity():
    assert reward_table.SHAPES_REWARDS == NAMES
    for name, reward in BUILT.items():
        assert reward.name == name and reward.identity == f"{name}@shapes{1 + (name == 'objects')}"
        assert reward.synthetic_form in base.SYNTHETIC_FORMS
        assert reward.needs_caption == (name in NAMES[3:])
    assert len({reward.tower for reward in BUILT.values()}) == 1


@pytest.mark.parametrize(
    "name, factor, sign",
    [("sharpness", "blur", -1), ("cleanliness", "noise", -1), ("beauty", "glow", 1)],
)
def test_image_rewards_follow_their_factor_only(pictures, name, factor, sign):
    samples, images, _ = pictures
    scores = BUILT[name].score(images, [""] * COUNT)
    for other in ("blur", "noise", "glow", "vividness"):
        rank = stats.spearmanr(scores, [sign * getattr(s.scene, other) for s in samples])[0]
        if other == factor:
            assert rank >= 0.955
        else:
            assert abs(rank) < 0.15, other


def changed(scene, what, rng):
    """Return the short caption of the scene with one attribute changed."""
    objects = list(scene.objects)
    if what == "relation":
        objects = [dataclasses.replace(o, x=32 - o.x, y=32 - o.y) for o in objects]
    elif what == "count":
        objects = (objects * 3)[: rng.choice([n for n in (2, 3, 4) if n != len(objects)])]
    elif what == "binding":
        objects = [
            dataclasses.replace(a, color=b.color)
            for a, b in zip(objects, objects[::-1], strict=True)
        ]
    else:
        known = scenes.SHAPES if what == "shape" else tuple(scenes.COLORS)
        taken = {getattr(o, what) for o in objects}
        new = str(rng.choice([name for name in known if name not in taken]))
        alike = scene.category == "counting"
        objects = [
            dataclasses.replace(o, **{what: new}) if alike or i == 0 else o
            for i, o in enumerate(objects)
        ]
    return captions.short_caption(dataclasses.replace(scene, objects=tuple(objects)))


@pytest.mark.parametrize(
    "name, what, categories",
    [
        ("objects", "shape", scenes.CATEGORIES),
        ("colors", "color", ("colors", "color_attr")),
        ("colors", "binding", ("color_attr",)),
        ("count", "count", ("counting",)),
        ("position", "relation", ("position",)),
    ],
)
def test_text_rewards_tell_a_wrong_attribute_of_theirs(pictures, name, what, categories):
    samples, _, readings = pictures
    chosen = [i for i, s in enumerate(samples) if s.scene.category in categories]
    rng = np.random.default_rng(0)
    truth = [captions.short_caption(samples[i].scene) for i in chosen]
    lie = [changed(samples[i].scene, what, rng) for i in chosen]
    assert all(a != b for a, b in zip(truth, lie, strict=True))
    read = [readings[i] for i in chosen]
    right, wrong = BUILT[name].judge(read, truth), BUILT[name].judge(read, lie)
    assert auc(right, wrong) >= 0.98
    assert np.mean(right > wrong) >= 0.98
    assert right.mean() - wrong.mean() > 0.3


def test_right_captions_are_graded_by_size_and_vividness(pictures):
    samples, _, readings = pictures
    truth = [captions.long_caption(s.scene) for s in samples]
    colors = BUILT["colors"].judge(readings, truth)
    seen = [s.scene.vividness * (1 - render.VEIL * s.scene.glow) for s in samples]
    assert stats.spearmanr(colors, seen)[0] > 0.9
    single = [i for i, s in enumerate(samples) if len(s.scene.objects) == 1]
    size = BUILT["objects"].judge([readings[i] for i in single], [truth[i] for i in single])
    half = [scenes.half_side(samples[i].scene.objects[0]) for i in single]
    assert stats.spearmanr(size, half)[0] > 0.9
    before = reward_table.load_reward("objects@shapes1")
    earlier = before.judge([readings[i] for i in single], [truth[i] for i in single])
    radius = [samples[i].scene.objects[0].radius for i in single]
    assert before.identity == "objects@shapes1" and stats.spearmanr(earlier, radius)[0] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_graded_float32_in_the_unit_interval(pictures, name):
    samples, _, readings = pictures
    scores = BUILT[name].judge(readings, [s.caption for s in samples])
    assert scores.dtype == np.float32 and scores.shape == (COUNT,)
    assert scores.min() >= 0 and scores.max() <= 1
    assert len(np.unique(scores)) > 0.9 * COUNT
    np.testing.assert_array_equal(BUILT[name].stored(scores), scores)


def test_what_a_caption_does_not_say_is_not_held_against_a_picture(pictures):
    samples, _, readings = pictures
    chosen = [i for i, s in enumerate(samples) if s.scene.category == "color_attr"]
    read = [readings[i] for i in chosen]
    shapes = [samples[i].scene.objects for i in chosen]
    plain = [f"a {a.shape} and a {b.shape}" for a, b in shapes]
    vivid = [f"a {a.color} {a.shape} and a {b.color} {b.shape}" for a, b in shapes]
    difference = BUILT["colors"].judge(read, plain) - BUILT["colors"].judge(read, vivid)
    assert np.abs(difference).mean() < 0.02
    assert np.quantile(BUILT["position"].judge(read, plain), 0.05) > 0.8


def test_beauty_and_agreement_are_in_conflict(pictures):
    samples, _, readings = pictures
    texts = [s.caption for s in samples]
    beauty = BUILT["beauty"].judge(readings, texts)
    for name in ("objects", "colors"):
        assert stats.spearmanr(beauty, BUILT[name].judge(readings, texts))[0] < -0.03


def test_scores_fall_as_a_picture_is_destroyed(pictures):
    samples, images, _ = pictures
    texts = [captions.long_caption(s.scene) for s in samples[:60]]
    grain = np.random.default_rng(0).integers(0, 256, images[:60].shape)
    means = []
    for share in (0.0, 0.4, 0.6, 0.8, 1.0):
        mixed = ((1 - share) * images[:60] + share * grain).astype(np.uint8)
        means.append([BUILT[name].score(mixed, texts).mean() for name in NAMES[3:]])
    assert (np.diff(np.array(means), axis=0)[:3] < 0.01).all()
    assert (np.array(means[-1]) < 0.2).all()


def test_pictures_larger_than_the_default_are_judged_alike():
    for index in range(12):
        sample = world.make_sample(5, index, size=64)
        text = captions.long_caption(sample.scene)
        other = captions.wrong_caption(sample.scene, np.random.default_rng(index))
        right, wrong = (
            np.array([BUILT[n].score(sample.image[None], [t])[0] for n in NAMES[3:]])
            for t in (text, other)
        )
        assert right.sum() > wrong.sum() and right[2] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_any_picture_with_any_caption_has_a_score(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    images[0], images[1] = 0, 255
    images[2] = world.make_sample(0, 0).image
    for text in ("", "\U0001f600 \U0001f534", "a circle " * 250, "a circle left of " * 100, "\x00"):
        scores = BUILT[name].score(images, [text] * 6)
        assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
    if name in NAMES[3:]:
        np.testing.assert_array_equal(BUILT[name].score(images, ["a red fox"] * 6), 0)
    assert BUILT[name].score(images[:0], []).shape == (0,)


class Counting(base.Judge):
    """A reward that counts how often it reads and judges."""

    version = "1"
    synthetic_form = "short"
    preprocessing = "none"

    def __init__(self, name, tower, needs_caption):
        self.name, self.tower, self.needs_caption = name, tower, needs_caption
        self.reads, self.prepared, self.judged = 0, 0, []

    def prepare(self, image):
        self.prepared += 1
        return image

    def encode(self, prepared):
        self.reads += 1
        return prepared.mean(axis=(1, 2, 3))

    def judge(self, features, captions):
        self.judged.append(list(captions))
        lengths = [len(text) for text in captions] if self.needs_caption else 0
        return (features + lengths).astype(np.float32)

    def stored(self, score):
        return score / 100


def test_score_all_reads_once_per_tower_and_judges_the_form_asked_for():
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20)])
    first, second = Counting("first", "one", True), Counting("second", "one", True)
    blind = Counting("blind", "two", False)
    second.synthetic_form = "long"
    sets = [{"caption": ["a", "bb"]}, {"long": ["cccc", "ddddd"], "short": ["", "e"]}]
    plain, synthetic = base.score_all([first, blind, second], images, sets)
    assert (first.reads, second.reads, blind.reads) == (1, 0, 1)
    assert first.judged == [["a", "bb"], ["", "e"]] and len(blind.judged) == 1
    assert plain.dtype == np.float32
    np.testing.assert_allclose(plain * 100, [[11, 10, 11], [22, 20, 22]], rtol=1e-6)
    np.testing.assert_allclose(synthetic * 100, [[10, 10, 14], [21, 20, 25]], rtol=1e-6)


def test_score_all_prepares_once_per_preprocessing_and_encodes_equal_pictures_once_per_tower():
    """Two croppings that differ for pictures of odd size share the encoding of all others."""
    rewards = [Counting(name, "one", False) for name in ("a", "b", "c")]
    rewards[2].preprocessing = "crop"
    rewards[2].prepare = lambda image: image[:3, :3]
    for size, reads in ((3, 0), (4, 1)):
        images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        (scores,) = base.score_all(rewards, images, [{"caption": ["", ""]}])
        assert rewards[2].reads == reads and rewards[1].reads == 0 == rewards[1].prepared
        for column, kept in zip(scores.T, (images, images, images[:, :3, :3]), strict=True):
            np.testing.assert_allclose(column * 100, kept.mean(axis=(1, 2, 3)), rtol=1e-6)
    assert (rewards[0].reads, rewards[0].prepared) == (2, 4)


def test_batches_of_score_all_give_the_scores_of_one_batch(monkeypatch):
    images = list(np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8))
    reward, texts = Counting("a", "one", True), ["x" * n for n in range(7)]
    sets = [{"caption": texts}, {"short": texts[::-1]}]
    whole = base.score_all([reward], images, sets)
    monkeypatch.setattr(base, "BATCH_SIZE", 3)
    cut = base.score_all([reward], images, sets)
    assert reward.reads == 4
    np.testing.assert_array_equal(whole, cut)
    assert base.score_all([reward], [], [{"caption": []}])[0].shape == (0, 1)


def test_pictures_that_rewards_cannot_take_are_refused_by_name():
    reward, good = Counting("a", "one", True), np.zeros((4, 4, 3), np.uint8)
    for bad, error, text in (
        (np.zeros((4, 4), np.uint8), ValueError, r"\[H, W, 3\].*got \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got \(0, 4, 3\)"),
        (good.astype(np.float32), TypeError, "got float32"),
        (None, TypeError, "got NoneType"),
    ):
        with pytest.raises(error, match=text):
            reward.read([good, bad])
        with pytest.raises(error, match=text):
            base.prepare_image([reward], bad)
    with pytest.raises(TypeError, match="one or a list; got NoneType"):
        reward.read(None)
    with pytest.raises(FileNotFoundError, match="image.png"):
        reward.read("image.png")
    with pytest.raises(ValueError, match=r"one shape; got \(4, 4, 3\) and \(5, 4, 3\)"):
        reward.read([good, np.zeros((5, 4, 3), np.uint8)])
    with pytest.raises(ValueError, match="got none"):
        reward.read([])


def test_score_all_equals_each_reward_alone(pictures):
    samples, images, _ = pictures
    texts = [s.caption for s in samples[:40]]
    (table,) = base.score_all(list(BUILT.values()), images[:40], [{"caption": texts}])
    for column, reward in zip(table.T, BUILT.values(), strict=True):
        np.testing.assert_array_equal(column, reward.score(images[:40], texts))


def test_images_of_different_sizes_score_as_each_alone(pictures):
    samples, images, _ = pictures
    several = [images[0], images[1][:30], images[2][:, :28]]
    for name, reward in BUILT.items():
        texts = [s.caption for s in samples[:3]] if reward.needs_caption else None
        alone = [reward.score(image, texts and texts[row]) for row, image in enumerate(several)]
        np.testing.assert_array_equal(reward.score(several, texts), np.concatenate(alone), name)


def test_wrong_arguments_are_refused(pictures):
    _, images, _ = pictures
    reward, image = BUILT["count"], images[:2]
    with pytest.raises(TypeError, match="uint8.*got float64"):
        reward.score(image / 255, ["", ""])
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]; got \(32, 32\)"):
        reward.score(image[0, ..., 0], ["", ""])
    with pytest.raises(ValueError, match="each of 1 images; got 2"):
        reward.score(image[0], ["", ""])
    with pytest.raises(ValueError, match="each of 2 images; got 1"):
        reward.score(image, [""])
    with pytest.raises(TypeError, match="one str"):
        reward.score(image, "ab")
    with pytest.raises(TypeError, match=r"captions\[1\] must be a str; got NoneType"):
        reward.score(image, ["", None])
    with pytest.raises(ValueError, match="each of the 2 images; got 1 of the form 'long'"):
        base.score_all([reward], image, [{"long": [""]}])
    with pytest.raises(ValueError, match="'short' that count judges; got 'long'"):
        base.score_all([reward], image, [{"long": ["", ""]}])
    with pytest.raises(ValueError, match="sharpness, cleanliness.*got 'clp'"):
        reward_table.load_reward("clp")
    with pytest.raises(TypeError, match="one string 'count'"):
        reward_table.check_names("count")
    with pytest.raises(ValueError, match="differ"):
        reward_table.check_names(["count", "count"])
