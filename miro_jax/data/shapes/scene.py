"""Scenes of the shapes world: what an image shows, before any pixel is drawn.

A scene holds one to four flat, saturated objects on a grey background, and four quality factors
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
MAX_BLUR = 1.4  # standard deviation in units; a triangle of the smallest radius is still readable
MAX_NOISE = 0.1  # standard deviation per channel, as a share of the full range
MIN_VIVIDNESS = 0.5
MIN_COUNT, MAX_COUNT = 2, 4  # objects in an image of the category "counting"
_MARGIN = 1.0  # units between an object and the border
_GAP = 3.0  # units between two objects: they stay apart under the strongest blur
_HUE_JITTER = 6.0  # degrees to either side; neighbouring colours are 60 degrees apart


@dataclasses.dataclass(frozen=True)
class Object:
    """One object: a shape that fills the box of half side `radius` around (x, y), upright.

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
            *(round(float(length), 3) for length in box),
            hue_shift=round(float(rng.uniform(-_HUE_JITTER, _HUE_JITTER)), 3),
            value=round(float(rng.uniform(0.85, 1.0)), 3),
        )
        for shape, color, box in zip(shapes, colors, boxes, strict=True)
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


def relation_component(relation: str, dx: float, dy: float) -> float:
    """Return how far a displacement points along a relation: 1 straight along it, -1 against it.

    Args:
      relation: one of RELATIONS.
      dx, dy: the second thing's x and y minus the first's; in "a left of b", b is the second.
    """
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return along / max(float(np.hypot(dx, dy)), 1e-6)


def _boxes(rng: np.random.Generator, count: int, aligned: bool) -> list[tuple[float, float, float]]:
    """Draw (x, y, radius) of objects whose boxes keep apart; aligned: one axis dominates."""
    if count == 1:
        radius = rng.uniform(5.5, 7.5)
        return [(*rng.uniform(_MARGIN + radius, SIDE - _MARGIN - radius, 2), radius)]
    if count > 2:  # one object in each quarter
        boxes = []
        for quarter in rng.permutation(4)[:count]:
            radius = rng.uniform(5.2, 5.8)
            x, y = rng.uniform(_MARGIN + radius, SIDE / 2 - _GAP / 2 - radius, 2)
            boxes.append((x if quarter % 2 else SIDE - x, y if quarter < 2 else SIDE - y, radius))
        return boxes
    first, second = rng.uniform(5.4, 6.6, 2)
    slack = SIDE - 2 * _MARGIN - _GAP - 2 * (first + second)
    before = rng.uniform(0, slack)
    between = rng.uniform(0, slack - before)
    along = [_MARGIN + before + first]
    along.append(along[0] + first + _GAP + between + second)
    across = [rng.uniform(_MARGIN + first, SIDE - _MARGIN - first)]
    reach = (along[1] - along[0]) / 2 if aligned else SIDE
    low = max(_MARGIN + second, across[0] - reach)
    across.append(rng.uniform(low, min(SIDE - _MARGIN - second, across[0] + reach)))
    axes = (along, across) if rng.random() < 0.5 else (across, along)
    boxes = list(zip(*axes, (first, second), strict=True))
    return boxes if rng.random() < 0.5 else boxes[::-1]
