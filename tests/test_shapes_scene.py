"""Scenes: what each category holds, their geometry, independent quality."""

import itertools

import numpy as np
import pytest

from miro_jax.data.shapes import scene as scenes


def draw(category, count=200, size=32):
    return [
        scenes.sample_scene(np.random.default_rng((7, i)), size, category) for i in range(count)
    ]


@pytest.mark.parametrize("category", scenes.CATEGORIES)
def test_each_object_stands_within_a_quarter_of_its_own_and_all_quarters_are_used(category):
    used = set()
    for scene in draw(category):
        quarters = {(thing.x // 16, thing.y // 16) for thing in scene.objects}
        assert len(quarters) == len(scene.objects)
        used |= quarters
        for thing in scene.objects:
            half = scenes.half_side(thing)
            for length in (thing.x, thing.y):
                assert 0.7 - 1e-2 <= length % 16 - half
                assert length % 16 + half <= 15.3 + 1e-2
    assert used == set(itertools.product((0, 1), repeat=2))


def test_each_category_holds_what_its_name_says():
    assert all(len(s.objects) == 1 for s in draw("single_object") + draw("colors"))
    for scene in draw("two_object") + draw("color_attr") + draw("position"):
        first, second = scene.objects
        assert first.shape != second.shape and first.color != second.color
    counted = draw("counting")
    assert {len(s.objects) for s in counted} == {2, 3, 4}
    assert all(len({(o.shape, o.color) for o in s.objects}) == 1 for s in counted)
    relations = set()
    for scene in draw("position"):
        dx, dy = (getattr(scene.objects[1], a) - getattr(scene.objects[0], a) for a in "xy")
        best = max(scenes.RELATIONS, key=lambda name: scenes.relation_component(name, dx, dy))
        assert scenes.relation_component(best, dx, dy) > 0.85
        relations.add(best)
    assert relations == set(scenes.RELATIONS)


def test_all_shapes_and_colors_appear():
    drawn = draw("colors")
    assert {s.objects[0].shape for s in drawn} == set(scenes.SHAPES)
    assert {s.objects[0].color for s in drawn} == set(scenes.COLORS)


def test_quality_factors_fill_their_ranges_independently():
    drawn = draw("two_object", 600)
    names = {"blur": (0, scenes.MAX_BLUR), "noise": (0, scenes.MAX_NOISE), "glow": (0, 1)}
    names |= {"vividness": (scenes.MIN_VIVIDNESS, 1)}
    table = np.array([[getattr(s, name) for name in names] for s in drawn])
    for column, (low, high) in zip(table.T, names.values(), strict=True):
        assert column.min() >= low and column.max() <= high
        np.testing.assert_allclose(
            np.quantile(column, [0.1, 0.5, 0.9]),
            low + (high - low) * np.array([0.1, 0.5, 0.9]),
            atol=0.06 * (high - low),
        )
    correlations = np.corrcoef(table.T) - np.eye(len(names))
    assert np.abs(correlations).max() < 0.15


def test_a_scene_depends_on_the_generator_only_and_not_on_the_size():
    (small,), (large,) = draw("counting", 1), draw("counting", 1, size=64)
    assert small == draw("counting", 1)[0]
    assert large.size == 64 and small.objects == large.objects and small.glow == large.glow


@pytest.mark.parametrize("relation, opposite", [("left of", "right of"), ("above", "below")])
def test_relations_point_their_way(relation, opposite):
    along = {"left of": (3.0, 0.0), "above": (0.0, 3.0)}[relation]  # y grows downwards
    assert scenes.relation_component(relation, *along) == 1
    assert scenes.relation_component(opposite, *along) == -1
    assert scenes.relation_component(relation, *along[::-1]) == 0


def test_an_unknown_category_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="single_object, two_object.*got 'triplets'"):
        scenes.sample_scene(np.random.default_rng(0), 32, "triplets")
