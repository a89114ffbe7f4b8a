"""Scenes of the shapes world: what an image shows, before any pixel is drawn.

A scene holds one to four flat, saturated objects on a grey background, each in a quarter of its own
so that a small network can draw them one by one, and four quality factors
that are global to the image: `blur`, `noise`, `glow` and `vividness`. The factors are independent
and uniform, so that each reward has its own direction to learn. The categories are those of GenEval
(Ghosh et al., 2023).

Lengths are in units of 1/32 of the image's side: at the default size of 32 a unit is a pixel. x
grows to the right, y downwards, both from the top left corner.
"""

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle")
# Fully saturated, 60 degrees of hue apart, in that order: red is 0, purple is 300 degrees.
COLORS = {
    "red": (255, 0, 0),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "purple": (255, 0, 255),
}
CATEGORIES: tuple[str, ...] = tuple(
    "single_object two_object counting colors position color_attr".split()
)
RELATIONS = ("left of", "right of", "above", "below")

SIDE = 32.0  # units per image side
SQUARE_SIDE = 0.9  # half side of a square of radius 1: about the area of the circle
MAX_BLUR = 1.4  # standard deviation in units; neighbours are still separate
MAX_NOISE = 0.1  # standard deviation per channel, as a share of the full range
MIN_VIVIDNESS = 0.5
MIN_COUNT, MAX_COUNT = 2, 4  # objects in an image of the category "counting"
_QUARTER = SIDE / 2  # side of the part of the image that belongs to one object
_MIN_HALF, _MAX_HALF = 5.6, 6.8  # half sides of what an object fills
_SHIFT = 0.5  # most that an object leaves the centre of its quarter, in each direction
_NEIGHBOURS = ((0, 1), (2, 3), (0, 2), (1, 3))  # quarters that share a side
_HUE_JITTER = 6.0  # degrees to either side; neighbouring colours are 60 degrees apart


@dataclasses.dataclass(frozen=True)
class Object:
    """One object: an upright shape of a radius around (x, y), which is half the side of the box
    that it fills; squares are smaller, by SQUARE_SIDE.

    shape, color: of SHAPES and COLORS. x, y, radius: in units. hue_shift: degrees added to the hue
    of the colour. value: brightness of the colour, in [0, 1].
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    hue_shift: float = 0.0
    value: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image's content and quality.

    Attributes:
      objects: one to four Objects that neither overlap nor leave the image.
      category: one of CATEGORIES.
      blur: standard deviation of the Gaussian blur in units, in [0, MAX_BLUR].
      noise: that of the noise per channel, as a share of the full range, in [0, MAX_NOISE].
      glow: strength of the background's gradient from bright top to dark bottom, in [0, 1].
      vividness: saturation of the objects' colours, in [MIN_VIVIDNESS, 1].
      grey: mean brightness of the background, in [0, 1].
      size: side of the image in pixels.
    """

    objects: tuple[Object, ...]
    category: str
    blur: float = 0.0
    noise: float = 0.0
    glow: float = 0.0
    vividness: float = 1.0
    grey: float = 0.5
    size: int = 32


def sample_scene(rng: np.random.Generator, size: int = 32, category: str = "colors") -> Scene:
    """Draw a scene of the category.

    Args:
      rng: source of randomness; the scene depends on its state only.
      size: side of the image in pixels; the scene is otherwise the same for every size.
      category: one of CATEGORIES.

    Raises:
      ValueError: the category is unknown.
    """
    check_category(category)
    count = 1 if category in ("single_object", "colors") else 2
    if category == "counting":
        count = int(rng.integers(MIN_COUNT, MAX_COUNT + 1))
    shapes = [str(s) for s in rng.permutation(SHAPES)[:count]]
    colors = [str(c) for c in rng.permutation(list(COLORS))[:count]]
    if category == "counting":  # all alike, so that a number says it all
        shapes, colors = shapes[:1] * count, colors[:1] * count
    boxes = _boxes(rng, count, aligned=category == "position")
    objects = tuple(
        Object(
            shape,
            color,
            round(float(x), 3),
            round(float(y), 3),
            # A square fills its box, so that at a glance it is no circle.
            round(float(half / SQUARE_SIDE if shape == "square" else half), 3),
            hue_shift=round(float(rng.uniform(-_HUE_JITTER, _HUE_JITTER)), 3),
            value=round(float(rng.uniform(0.85, 1.0)), 3),
        )
        for shape, color, (x, y, half) in zip(shapes, colors, boxes, strict=True)
    )
    blur, noise, glow, vividness, grey = (
        round(float(number), 4)
        for number in rng.uniform((0, 0, 0, MIN_VIVIDNESS, 0.45), (MAX_BLUR, MAX_NOISE, 1, 1, 0.6))
    )
    return Scene(objects, category, blur, noise, glow, vividness, grey, size)


def check_category(category: str) -> None:
    """Raise ValueError unless the category is one of CATEGORIES."""
    if category not in CATEGORIES:
        raise ValueError(f"category must be one of {', '.join(CATEGORIES)}; got {category!r}.")


def half_side(thing: Object) -> float:
    """Return half the side of the box that an object, or a detected one, fills."""
    return thing.radius * (SQUARE_SIDE if thing.shape == "square" else 1.0)


def relation_component(relation: str, dx: float, dy: float) -> float:
    """Return how far a displacement points along a relation: 1 straight along it, -1 against it.

    Args:
      relation: one of RELATIONS.
      dx, dy: the second thing's x and y minus the first's; in "a left of b", b is the second.
    """
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return along / max(float(np.hypot(dx, dy)), 1e-6)


def _boxes(rng: np.random.Generator, count: int, aligned: bool) -> list[tuple[float, float, float]]:
    """Draw (x, y, half side) of boxes, each in a quarter of its own; aligned: side by side."""
    quarters = rng.permutation(4)[:count]  # row by row
    if aligned:
        quarters = rng.permutation(_NEIGHBOURS[rng.integers(len(_NEIGHBOURS))])
    boxes = []
    for row, column in (divmod(int(quarter), 2) for quarter in quarters):
        half, dx, dy = rng.uniform((_MIN_HALF, -_SHIFT, -_SHIFT), (_MAX_HALF, _SHIFT, _SHIFT))
        boxes.append((_QUARTER * (column + 0.5) + dx, _QUARTER * (row + 0.5) + dy, half))
    return boxes
