"""Captions: true ones hold, wrong ones do not, and any string can be read."""

import re

import numpy as np
import pytest

from miro_jax.data.shapes import captions
from miro_jax.data.shapes import scene as scenes
from miro_jax.data.shapes.captions import Phrase


def draw(category, count=150):
    for index in range(count):
        rng = np.random.default_rng((5, index))
        yield scenes.sample_scene(rng, 32, category), rng


@pytest.mark.parametrize("category", scenes.CATEGORIES)
def test_captions_of_a_scene_hold_and_wrong_ones_do_not(category):
    for scene, rng in draw(category):
        crawl = captions.caption(scene, rng)
        for text in (crawl, captions.long_caption(scene), captions.short_caption(scene)):
            assert captions.holds(captions.parse(text), scene.objects), (text, scene)
        wrong = captions.wrong_caption(scene, rng)
        assert not captions.holds(captions.parse(wrong), scene.objects), (wrong, scene)
        other = captions.wrong_scene(scene, rng)
        assert not captions.holds(captions.parse(captions.short_caption(other)), scene.objects)


def test_wrong_captions_mostly_stay_near_the_truth():
    near = 0
    for scene, rng in draw("color_attr"):
        request = captions.parse(captions.wrong_caption(scene, rng))
        said = {(p.shape, p.color) for p in request.objects}
        near += len(request.objects) == 2 and any((o.shape, o.color) in said for o in scene.objects)
        near += said == {
            (a.shape, b.color) for a, b in zip(scene.objects, scene.objects[::-1], strict=True)
        }
    assert near > 100


def test_captions_say_what_their_category_is_about():
    for scene, _ in draw("counting"):
        (phrase,) = captions.parse(captions.short_caption(scene)).objects
        assert phrase == Phrase(len(scene.objects), None, scene.objects[0].shape)
    for scene, rng in draw("color_attr"):
        said = captions.parse(captions.caption(scene, rng)).objects
        assert {(p.shape, p.color) for p in said} == {(o.shape, o.color) for o in scene.objects}
    for scene, rng in draw("position"):
        assert len(captions.parse(captions.caption(scene, rng)).relations) == 1
    named = [
        p.color is not None
        for scene, rng in draw("single_object")
        for p in captions.parse(captions.caption(scene, rng)).objects
    ]
    assert 0.3 < np.mean(named) < 0.7


def test_long_captions_name_striking_quality_and_fit_a_small_encoder():
    for category in scenes.CATEGORIES:
        for scene, _ in draw(category, 50):
            text = captions.long_caption(scene)
            assert len(re.findall(r"\w+|,", text)) <= 24
            assert ("glowing" in text) == (scene.glow > 0.8)
            assert ("blurry" in text) == (scene.blur > 0.8 * scenes.MAX_BLUR)
            assert ("clean" in text) == (scene.noise < 0.2 * scenes.MAX_NOISE)
            assert all(o.color in text for o in scene.objects)


@pytest.mark.parametrize(
    "text, objects, relations",
    [
        ("a red circle", [(1, "red", "circle")], []),
        ("Three SQUARES!", [(3, None, "square")], []),
        (
            "a circle left of a blue square",
            [(1, None, "circle"), (1, "blue", "square")],
            [(0, "left of", 1)],
        ),
        (
            "a circle to the right of a square and a triangle above a circle",
            [(1, None, s) for s in ("circle", "square", "triangle", "circle")],
            [(0, "right of", 1), (2, "above", 3)],
        ),
        ("a purple triangle at the top left, blurry", [(1, "purple", "triangle")], []),
        ("above a circle", [(1, None, "circle")], []),
        ("red. a circle", [(1, None, "circle")], []),
        ("an encircled squared triangular red fox", [], []),
        ("", [], []),
        ("\U0001f534 \U0001f7e6 \x00 \ud800 ٣ çircle²", [], []),
    ],
)
def test_texts_are_read(text, objects, relations):
    request = captions.parse(text)
    assert request.objects == tuple(Phrase(*o) for o in objects)
    assert request.relations == tuple(relations)


def test_any_text_is_read_without_an_exception():
    rng = np.random.default_rng(0)
    words = [
        *scenes.COLORS,
        *scenes.SHAPES,
        "circles",
        "left",
        "of",
        "above",
        "and",
        "two",
        "99999",
    ]
    words += [",", "\n", "é", "\U0001f600", "of of", "9" * 5000]
    for _ in range(60):
        text = " ".join(rng.choice(words, rng.integers(0, 500)))
        request = captions.parse(text)
        assert all(0 <= i < j < len(request.objects) for i, _, j in request.relations)
        captions.holds(request, ())


def test_holds_follows_the_rules_of_geneval():
    def thing(shape, color, x, y):
        return scenes.Object(shape, color, x, y, 6.0)

    things = (
        thing("circle", "red", 8, 8),
        thing("circle", "blue", 24, 8),
        thing("square", "red", 8, 24),
    )
    truths = {
        "a circle": True,  # at least one
        "two circles": True,
        "three circles": False,
        "two red circles": False,  # exactly that many of that colour
        "a triangle": False,
        "a red circle left of a blue circle": True,
        "a blue circle left of a red circle": False,
        "a square below a circle": True,
        "a square right of a circle": False,
        "a red square and a blue circle": True,
        "a blue square and a red circle": False,
        "": False,
    }
    for text, truth in truths.items():
        assert captions.holds(captions.parse(text), things) == truth, text
    more = (*things, thing("circle", "green", 24, 24))
    for text, truth in {"two circles": False, "three circles": True, "a circle": True}.items():
        assert captions.holds(captions.parse(text), more) == truth, text


def test_only_strings_are_read():
    with pytest.raises(TypeError, match="text must be a str; got bytes"):
        captions.parse(b"a circle")
