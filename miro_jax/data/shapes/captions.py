"""Texts of the shapes world: captions of a scene, wrong captions, and a parser of them.

A crawl-like caption is short and says what its category is about; colours are named half of the
time where the category does not ask for them. The synthetic captions play the part of a captioning
model's: the long one also names positions and striking quality, the short one nothing but the
category's own subject. Every word carries meaning: a small model has no capacity to learn to ignore
words.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable

import numpy as np

from miro_jax.data.shapes import scene as scenes

_COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_NUMBERS |= {str(number): number for number in range(1, 10)}
_NOUNS = {form: shape for shape in scenes.SHAPES for form in (shape, shape + "s")}
_WITH_COLORS = ("colors", "color_attr")
_OTHER_SCENE = 0.15  # share of wrong captions that belong to another image altogether
_RELATION_HOLDS = 0.5  # cosine: within 60 degrees of the direction, as in GenEval


@dataclasses.dataclass(frozen=True)
class Phrase:
    """Objects named by one noun: how many, of which colour (None: any), of which shape."""

    count: int
    color: str | None
    shape: str


@dataclasses.dataclass(frozen=True)
class Request:
    """What a text requests: `objects` in its order, and `relations` between them.

    (i, relation, j): objects[i] stands in the relation, one of scene.RELATIONS, to objects[j].
    """

    objects: tuple[Phrase, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()


def caption(scene: scenes.Scene, rng: np.random.Generator) -> str:
    """Return a short crawl-like caption that is true of the scene."""
    named = scene.category in _WITH_COLORS or rng.random() < 0.5
    objects = scene.objects
    if (
        len(objects) == 2 and rng.random() < 0.5
    ):  # "a left of b" and "b right of a" are both written
        objects = objects[::-1]
    return _describe(objects, scene.category, named, related=scene.category == "position")


def short_caption(scene: scenes.Scene) -> str:
    """Return the short synthetic caption: the subject of the category and nothing else."""
    named = scene.category in _WITH_COLORS
    return _describe(scene.objects, scene.category, named, related=scene.category == "position")


def long_caption(scene: scenes.Scene) -> str:
    """Return the long synthetic caption: all colours, where things are, and striking quality."""
    objects = scene.objects
    related = len(objects) == 2 and scene.category != "counting" and _relation(objects) is not None
    text = _describe(objects, scene.category, named=True, related=related)
    if len(objects) == 1:
        position = _position_words(objects[0])
        text += " in the center" if position == "center" else f" at the {position}"
    words = [
        _quality_word(1 - scene.blur / scenes.MAX_BLUR, "blurry", "sharp"),
        _quality_word(1 - scene.noise / scenes.MAX_NOISE, "noisy", "clean"),
        _quality_word(scene.glow, "flat", "glowing"),
    ]
    return ", ".join([text, *(word for word in words if word)])


def wrong_caption(scene: scenes.Scene, rng: np.random.Generator) -> str:
    """Return a crawl-like caption that is not true of the scene: one thing differs, or all."""
    while True:  # a changed colour is not always named; a changed shape always is
        text = caption(_altered(scene, rng), rng)
        if not holds(parse(text), scene.objects):
            return text


def wrong_scene(scene: scenes.Scene, rng: np.random.Generator) -> scenes.Scene:
    """Return a scene like this one, or another, whose short caption is not true of this one."""
    while True:
        other = _altered(scene, rng)
        if not holds(parse(short_caption(other)), scene.objects):
            return other


def parse(text: str) -> Request:
    """Read what a text asks for, ignoring the words that are not of this world.

    Args:
      text: a caption of this world, or anything else.

    Returns:
      The Request; empty if the text names no shape.

    Raises:
      TypeError: text is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str; got {type(text).__name__}.")
    objects: list[Phrase] = []
    relations: list[tuple[int, str, int]] = []
    count, color, relation = 1, None, None
    words = re.findall(r"[a-z0-9]+", text.lower())
    for word, following in itertools.pairwise([*words, ""]):
        if word in _NUMBERS:
            count, color = _NUMBERS[word], None
        elif word in scenes.COLORS:
            color = word
        elif word in ("above", "below"):
            relation = word
        elif word in ("left", "right") and following == "of":
            relation = f"{word} of"
        elif word == "and":
            relation = None
        elif word in _NOUNS:
            if relation is not None and objects:
                relations.append((len(objects) - 1, relation, len(objects)))
            objects.append(Phrase(count, color, _NOUNS[word]))
            count, color, relation = 1, None, None
    return Request(tuple(objects), tuple(relations))


def holds(request: Request, things: Iterable) -> bool:
    """Return whether the things are what the request asks for, by GenEval's rules.

    A phrase for one object needs at least one such thing, a phrase for several exactly that many. A
    relation needs two such things within 60 degrees of its direction. An empty request never holds.

    Args:
      request: what the prompt names.
      things: anything with the attributes shape, color, x and y: a scene's objects or a
        detector's findings.
    """
    things = tuple(things)
    matches = [
        [t for t in things if t.shape == p.shape and p.color in (None, t.color)]
        for p in request.objects
    ]
    for phrase, matching in zip(request.objects, matches, strict=True):
        if len(matching) < phrase.count or (phrase.count > 1 and len(matching) != phrase.count):
            return False
    related = (
        any(
            scenes.relation_component(relation, b.x - a.x, b.y - a.y) > _RELATION_HOLDS
            for a, b in itertools.product(matches[i], matches[j])  # 0 between a thing and itself
        )
        for i, relation, j in request.relations
    )
    return bool(request.objects) and all(related)


def _altered(scene: scenes.Scene, rng: np.random.Generator) -> scenes.Scene:
    """Return the scene with one attribute changed, or another scene of any category."""
    if rng.random() < _OTHER_SCENE:
        category = scenes.CATEGORIES[rng.integers(len(scenes.CATEGORIES))]
        return scenes.sample_scene(rng, scene.size, category)
    changes = {
        "single_object": ("shape",),
        "two_object": ("shape",),
        "counting": ("count", "count", "shape"),
        "colors": ("color", "color", "shape"),
        "position": ("relation", "relation", "shape"),
        "color_attr": ("color", "swap", "shape"),
    }[scene.category]
    change = changes[rng.integers(len(changes))]
    return dataclasses.replace(scene, objects=_changed(scene, change, rng))


def _changed(
    scene: scenes.Scene, change: str, rng: np.random.Generator
) -> tuple[scenes.Object, ...]:
    """Return the scene's objects with the named attribute changed."""
    objects = scene.objects
    if change == "count":
        counts = [n for n in range(scenes.MIN_COUNT, scenes.MAX_COUNT + 1) if n != len(objects)]
        return (objects * 2)[: counts[rng.integers(len(counts))]]
    if change == "relation":  # seen in a mirror
        side = scenes.SIDE
        return tuple(dataclasses.replace(o, x=side - o.x, y=side - o.y) for o in objects)
    if change == "swap":
        pairs = zip(objects, objects[::-1], strict=True)
        return tuple(dataclasses.replace(o, color=other.color) for o, other in pairs)
    names = scenes.SHAPES if change == "shape" else tuple(scenes.COLORS)
    taken = {getattr(o, change) for o in objects}
    free = [name for name in names if name not in taken]
    new = free[rng.integers(len(free))]
    alike = scene.category == "counting"
    chosen = None if alike else int(rng.integers(len(objects)))
    return tuple(
        dataclasses.replace(o, **{change: new}) if alike or i == chosen else o
        for i, o in enumerate(objects)
    )


def _describe(objects: tuple[scenes.Object, ...], category: str, named: bool, related: bool) -> str:
    """Name the objects, their colours if `named`, and their relation if `related`."""
    if category == "counting":
        return _noun(objects[0], len(objects), named)
    nouns = [_noun(o, 1, named) for o in objects]
    relation = _relation(objects) if related else None
    return f" {relation or 'and'} ".join(nouns)


def _noun(thing: scenes.Object, count: int, named: bool) -> str:
    color = f"{thing.color} " if named else ""
    return f"{_COUNT_WORDS[count]} {color}{thing.shape}{'s' if count > 1 else ''}"


def _relation(objects: tuple[scenes.Object, ...]) -> str | None:
    """Return the relation of two objects, or None where no direction dominates."""
    dx, dy = objects[1].x - objects[0].x, objects[1].y - objects[0].y
    best = max(scenes.RELATIONS, key=lambda name: scenes.relation_component(name, dx, dy))
    return best if scenes.relation_component(best, dx, dy) > 0.85 else None


def _position_words(thing: scenes.Object) -> str:
    rows, columns = ("top", "", "bottom"), ("left", "", "right")
    third = scenes.SIDE / 3
    words = (rows[min(int(thing.y / third), 2)], columns[min(int(thing.x / third), 2)])
    return " ".join(word for word in words if word) or "center"


def _quality_word(quality: float, worst: str, best: str) -> str:
    """Name a quality in [0, 1] only where it strikes: in the lowest and the highest fifth."""
    return worst if quality < 0.2 else best if quality > 0.8 else ""
