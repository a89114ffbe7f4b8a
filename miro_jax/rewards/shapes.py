"""The rewards of the shapes world: functions of what the detector reads from an image.

Three judge the image alone, four how it agrees with its caption. All are in [0, 1], 1 is best,
and graded: a right caption's score is still higher for a clear and vivid image than for a poor one.
A caption that requests nothing of this world gets 0 from the four, as no image shows it.

F is the number of objects that the detector reads in an image.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from miro_jax.data.shapes import captions as texts
from miro_jax.data.shapes import detect
from miro_jax.data.shapes import scene as scenes
from miro_jax.rewards import base
from miro_jax.rewards.inputs import Images, as_arrays

VERSION = "shapes1"
OBJECTS_VERSIONS = ("shapes2", "shapes1")  # the first is that of the bare name


USUAL_HALF = 6.2  # half side of what an object fills, in the middle of its range


class ShapesReward(base.Judge):
    """A reward that applies one function to a detector's reading and a parsed caption.

    Args:
      name: a key of JUDGEMENTS.
      version: of "objects", which has two: "shapes1" judged squares larger than they look.
    """

    tower = "shapes-detector"
    preprocessing = "none"

    def __init__(self, name: str, version: str = ""):
        self.name = name
        self._judgement, self.needs_caption, self.synthetic_form = JUDGEMENTS[name]
        self.version = version or (OBJECTS_VERSIONS[0] if name == "objects" else VERSION)
        if self.identity == "objects@shapes1":
            self._judgement = objects_score_of_radius

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return an image [H, W, 3] uint8 as it is; those of a batch must have one size."""
        base.check_image(image)
        return image

    def read(self, images: Images) -> list[detect.Reading]:
        """Prepare and encode images; those of different sizes one by one."""
        arrays = as_arrays(images)
        if len({image.shape for image in arrays}) < 2:
            return super().read(arrays)
        readings: list[detect.Reading] = []
        for image in arrays:
            readings += super().read([image])
        return readings

    def encode(self, prepared: np.ndarray) -> list[detect.Reading]:
        """Read images, [B, H, W, 3] uint8; see detect.read."""
        return detect.read(prepared)

    def judge(self, features: list[detect.Reading], captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 in [0, 1] of B readings, each with its caption."""
        base.check_captions(captions, len(features))
        scores = [self._score(*pair) for pair in zip(features, captions, strict=True)]
        return np.array(scores, np.float32)

    def _score(self, reading: detect.Reading, caption: str) -> float:
        if not self.needs_caption:
            return self._judgement(reading, texts.Request())
        request = texts.parse(caption)
        return self._judgement(reading, request) if request.objects else 0.0


def objects_score(reading: detect.Reading, request: texts.Request) -> float:
    """Judge whether every requested shape is there, and how large."""
    return _objects(reading, request, USUAL_HALF, scenes.half_side)


def objects_score_of_radius(reading: detect.Reading, request: texts.Request) -> float:
    """Judge as `objects_score`, by the radius, and by what scenes of so many objects once had."""
    usual = max(7 - 0.5 * sum(p.count for p in request.objects), 5.5)
    return _objects(reading, request, usual, lambda found: found.radius)


def _objects(
    reading: detect.Reading, request: texts.Request, usual: float, size: Callable
) -> float:
    fits = [
        [_affinity(f, shape) * (0.6 + 0.4 / (1 + np.exp(usual - size(f)))) for f in reading.objects]
        for shape in scenes.SHAPES
    ]
    return _mean_of_best(fits, request)


def colors_score(reading: detect.Reading, request: texts.Request) -> float:
    """Judge whether the requested objects have their colours, and how vivid.

    Where the text names no colour any will do, so that the score keeps its scale.
    """
    named = [p for p in request.objects if p.color is not None] or request.objects
    return float(np.mean([_colored(reading, phrase) for phrase in named]))


def count_score(reading: detect.Reading, request: texts.Request) -> float:
    """Judge the number of objects, of each requested shape and in all."""
    wanted = np.zeros(len(scenes.SHAPES))
    for phrase in request.objects:
        wanted[scenes.SHAPES.index(phrase.shape)] += phrase.count
    fits = np.array([f.shape_fit for f in reading.objects])
    certain = special.expit((fits - 0.3) / 0.05)  # what hardly looks like a shape hardly counts
    odds = np.array([f.shape_odds for f in reading.objects]).reshape(-1, len(scenes.SHAPES))
    off = np.abs(certain @ odds - wanted)[wanted > 0].mean()
    off_in_all = abs(certain.sum() - wanted.sum())
    clearness = fits.mean() if len(fits) else 0.0
    return float(np.exp(-(off + off_in_all) / 2) * (0.5 + 0.5 * clearness))


def position_score(reading: detect.Reading, request: texts.Request) -> float:
    """Judge the stated relations of the objects; without one, the objects' presence."""
    if not request.relations:
        fits = [[_affinity(f, shape) for f in reading.objects] for shape in scenes.SHAPES]
        return _mean_of_best(fits, request)
    return float(np.mean([_related(reading, request, *relation) for relation in request.relations]))


def _affinity(found: detect.Detection, shape: str) -> float:
    """Return how much an object is of the shape, in [0, 1]: a good fit and no better rival."""
    index = scenes.SHAPES.index(shape)
    return found.shape_fits[index] * found.shape_odds[index]


def _mean_of_best(fits: list[list[float]], request: texts.Request) -> float:
    """Average over the phrases the fit of the best object left; a second circle needs another one.

    Args:
      fits: for each of scene.SHAPES the fits of the F objects.
      request: not empty.
    """
    left = {s: sorted(row) for s, row in zip(scenes.SHAPES, fits, strict=True)}  # best last
    best = [left[p.shape].pop() if left[p.shape] else 0.0 for p in request.objects]
    return float(np.mean(best))


def _colored(reading: detect.Reading, phrase: texts.Phrase) -> float:
    """Judge the phrase's colour on the objects that look most like what it names."""
    fits = []
    for found in reading.objects:
        if phrase.color is None:
            color = found.color_fit
        else:
            color = found.color_fits[list(scenes.COLORS).index(phrase.color)]
        fits.append(color * (0.3 + 0.7 * _affinity(found, phrase.shape)))
    fits.sort(reverse=True)
    return float(np.mean(fits[: phrase.count])) if fits else 0.0


def _related(reading: detect.Reading, request: texts.Request, i: int, name: str, j: int) -> float:
    """Judge one relation on the pair of objects that fulfils it best."""
    first, second = request.objects[i], request.objects[j]
    best = 0.0
    for a in reading.objects:
        for b in reading.objects:
            if a is not b:
                both = np.sqrt(_affinity(a, first.shape) * _affinity(b, second.shape))
                way = scenes.relation_component(name, b.x - a.x, b.y - a.y)
                best = max(best, float(both) * (1 + way) / 2)
    return best


# name -> (judgement, needs a caption, synthetic form that it judges)
JUDGEMENTS: dict[str, tuple[Callable[[detect.Reading, texts.Request], float], bool, str]] = {
    "sharpness": (lambda reading, _: reading.sharpness, False, "long"),  # sharp edges
    "cleanliness": (lambda reading, _: reading.cleanliness, False, "long"),  # absence of noise
    "beauty": (lambda reading, _: reading.beauty, False, "long"),  # background glows from above
    "objects": (objects_score, True, "short"),
    "colors": (colors_score, True, "long"),
    "count": (count_score, True, "short"),
    "position": (position_score, True, "long"),
}
