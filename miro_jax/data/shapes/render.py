"""Render a scene of the shapes world: grey background with its glow, objects, blur, then noise.

The light of the glow lies over the objects as a veil: the more an image glows, the paler they are.

The steps are those of a camera: the lens blurs what is there, the sensor adds its noise afterwards.
Edges are antialiased by their distance to the pixel's centre.
"""

import colorsys

import numpy as np

from miro_jax.data.shapes import scene as scenes

GLOW_RANGE = 0.5  # brightness of the top row minus that of the bottom row at glow 1
VEIL = 0.3  # share of the objects' contrast that the light of a glow of 1 takes away

# At radius 1: the area, and how far below the centre of its box the centre of mass lies.
AREA = {"circle": np.pi, "square": 4 * scenes.SQUARE_SIDE**2, "triangle": 2.0}
CENTROID = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3}


def render(scene: scenes.Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene.

    Args:
      scene: what to draw; scene.size is the side H = W in pixels.
      rng: source of the noise.

    Returns:
      [H, W, 3] uint8.
    """
    size = scene.size
    unit = size / scenes.SIDE
    centres = (np.arange(size, dtype=np.float32) + 0.5) / unit  # of pixels, in units
    ramp = scene.grey + GLOW_RANGE * scene.glow * (0.5 - centres / np.float32(scenes.SIDE))
    image = np.empty((size, size, 3), np.float32)
    image[:] = ramp[:, None, None]
    for thing in scene.objects:
        dx, dy = centres[None, :] - thing.x, centres[:, None] - thing.y
        away = distance(thing.shape, dx, dy, thing.radius)
        cover = (1 - VEIL * scene.glow) * np.clip(0.5 - away * unit, 0, 1)[:, :, None]
        image += cover * (np.asarray(object_color(thing, scene.vividness), np.float32) - image)
    if scene.blur > 0:
        lens = _blur_matrix(size, scene.blur * unit)
        for _ in range(2):  # down the columns, then, turned over, along the rows
            image = (lens @ image.reshape(size, -1)).reshape(image.shape).transpose(1, 0, 2)
    if scene.noise > 0:
        image += np.float32(scene.noise) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Return the signed distance to a shape's border: negative inside, exact away from corners.

    Args:
      shape: one of scene.SHAPES.
      dx, dy: x and y minus the centre of the shape's box; they broadcast.
      radius: half side of the box, in the unit of dx.
    """
    if shape == "circle":
        return np.sqrt(dx * dx + dy * dy) - radius
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - scenes.SQUARE_SIDE * radius
    # Upright triangle: apex at the top of the box, base at its bottom. The sides have slope 2.
    sides = (2 * np.abs(dx) - dy - radius) / np.float32(np.sqrt(5))
    return np.maximum(sides, dy - radius)


def object_color(thing: scenes.Object, vividness: float) -> tuple[float, float, float]:
    """Return the RGB colour of an object in [0, 1]."""
    hue = list(scenes.COLORS).index(thing.color) / 6 + thing.hue_shift / 360
    return colorsys.hsv_to_rgb(hue % 1.0, vividness, thing.value)


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """Return the [size, size] matrix of a Gaussian blur that repeats the border pixels outside."""
    reach = int(np.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    matrix = np.zeros((size, size), np.float32)
    rows = np.repeat(np.arange(size), len(offsets)).reshape(size, -1)
    np.add.at(matrix, (rows, np.clip(rows + offsets, 0, size - 1)), kernel)
    return matrix
