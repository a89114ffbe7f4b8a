"""Whether detector and device work, seen before anything is scored: a broken one scores 0.03.

    products   a matrix product on the device is exact to float32: not TF32, not bfloat16
    samples    the deformable sampling on the device equals a loop over pixels on the host
    scene      a drawn stop sign is found: as a stop sign, above GenEval's threshold, where it is

The first two fail on a device or compiler that computes something else; the third on weights that
were not trained, or another preprocessing. A detector of photographs recognises a drawn sign, but
the drawing is ours and not the benchmark's: with `self_test=numbers` the scene is left to the user.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from miro_jax.evaluate.suites.geneval import detector, verdict
from miro_jax.pretrained.networks import deformable

SCENE, NUMBERS, OFF = "full", "numbers", "off"
LEVELS = (SCENE, NUMBERS, OFF)
NAME = "stop sign"
SIDE = 512  # pixels
LEAST_OVERLAP = 0.5
_CENTER, _RADIUS = (256, 200), 120
_LETTERS = {  # strokes of the sign's letters on a grid of 2 x 4
    "S": [(2, 0), (0, 0), (0, 2), (2, 2), (2, 4), (0, 4)],
    "T": [(0, 0), (2, 0), (1, 0), (1, 4)],
    "O": [(0, 0), (2, 0), (2, 4), (0, 4), (0, 0)],
    "P": [(0, 4), (0, 0), (2, 0), (2, 2), (0, 2)],
}


class BrokenJudge(RuntimeError):
    """The judge does not do what it must; the text says what was got and what to do."""


def run(judge: detector.Detector, level: str = SCENE) -> None:
    """Check a detector on its device.

    Args:
      level: one of LEVELS; "numbers" is without the scene.

    Raises:
      BrokenJudge: it must not score.
    """
    if level == OFF:
        return
    check_products()
    check_samples()
    if level == SCENE:
        check_scene(judge)


def check_products() -> None:
    """Raise BrokenJudge unless matrix products are exact to float32."""
    x, y = np.random.default_rng(0).normal(size=(2, 256, 256)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jnp.dot(x, y), np.float64)
    _require_near("a matrix product", found, x.astype(np.float64) @ y, 1e-5)


def check_samples() -> None:
    """Raise BrokenJudge unless the deformable sampling is right."""
    rng = np.random.default_rng(1)
    height, width, points = 5, 7, 20
    values = rng.normal(size=(1, 1, height * width, 3)).astype(np.float32)
    places = rng.uniform(-0.5, 1.5, (1, 1, points, 1, 2)).astype(np.float32)
    ones = np.ones((1, 1, points, 1), np.float32)
    found = jax.jit(deformable.sample, static_argnums=1)(values, (height, width), places, ones)
    grid = np.pad(values.reshape(height, width, 3), ((2, 2), (2, 2), (0, 0))).astype(np.float64)
    wanted = np.zeros((points, 3))
    for number, (x, y) in enumerate(places[0, 0, :, 0].astype(np.float64)):
        x, y = x * width - 0.5, y * height - 0.5
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                inside = 0 <= column < width and 0 <= row < height
                wanted[number] += share * grid[row + 2, column + 2] if inside else 0
    _require_near("a deformable sample", np.asarray(found)[0, 0], wanted, 1e-5)


def check_scene(judge: detector.Detector) -> None:
    """Raise BrokenJudge unless the drawn stop sign is found where it is."""
    image, box = draw_scene()
    found = judge.detect([image])[0]
    if not np.isfinite(found.scores).all():
        raise BrokenJudge("the detector must give finite scores; it gave NaN on the test scene.")
    best, score = "nothing", 0.0
    for name, numbers in detector.by_class(found).items():
        number = numbers[0]
        seen = found.scores[number] > verdict.OFFICIAL.score
        if name == NAME and seen and overlap(found.boxes[number], box) > LEAST_OVERLAP:
            return
        if found.scores[number] > score:
            best, score = name, float(found.scores[number])
    raise BrokenJudge(
        f"the detector must find the drawn {NAME} of the self-test with a score above "
        f"{verdict.OFFICIAL.score}; the best that it found is {best} at {score:.3f}. Are these "
        "trained weights? If you know that they are, give self_test=numbers."
    )


def draw_scene() -> tuple[np.ndarray, np.ndarray]:
    """Return a stop sign on its post before sky and road, [512, 512, 3] uint8, and its box."""
    x, y = _CENTER
    sky, road = np.array([150, 190, 225.0]), np.array([120, 120, 115.0])
    shade = np.linspace(0, 1, SIDE)[:, None, None]
    colors = np.where(shade < 0.7, sky + 40 * shade, road - 30 * shade)  # [H, 1, 3]
    canvas = Image.fromarray(np.broadcast_to(colors, (SIDE, SIDE, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    pen.rectangle((x - 8, y, x + 8, 470), fill=(125, 128, 130))
    for radius, color in ((_RADIUS, (240, 240, 240)), (_RADIUS - 9, (185, 25, 35))):
        angles = [math.pi / 8 + k * math.pi / 4 for k in range(8)]
        corners = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        pen.polygon(corners, fill=color)
    for number, letter in enumerate("STOP"):
        left = x - 82 + 44 * number
        points = [(left + 15 * a, y - 32 + 16 * b) for a, b in _LETTERS[letter]]
        pen.line(points, fill=(245, 245, 245), width=9, joint="curve")
    extent = _RADIUS * math.cos(math.pi / 8)
    return np.asarray(canvas), np.array([x - extent, y - extent, x + extent, y + extent])


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over the union of two boxes [4]."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    both = np.prod(np.maximum(high - low, 0))
    areas = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])
    return float(both / (areas - both))


def _require_near(what: str, found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    if not error < tolerance:
        raise BrokenJudge(
            f"{what} on {jax.devices()[0].device_kind} must be exact to {tolerance}; its relative "
            f"error is {error:.1e}. Scores of this device would not be GenEval's."
        )
