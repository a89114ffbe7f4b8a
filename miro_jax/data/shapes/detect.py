"""Read any image back into objects and quality, by looking at its pixels only.

Objects are regions of one hue on a neutral background (see regions). To each region circle, square
and triangle are fitted by least squares, drawn as

    logistic(-1.702 distance to the border / sigma),

which is within 0.01 a straight edge blurred by a Gaussian whose standard deviation is sigma. The
fitted sigma gives the blur, the misfit gives the shape. The noise level is that of second
differences on the background, the glow is the slope of the background's brightness. All steps are
on arrays over many images at once: B images, K regions among them, windows of P pixels.
"""

import dataclasses
import itertools

import numpy as np
from scipy import ndimage, special

from miro_jax.data.pixels import check_pixels
from miro_jax.data.shapes import regions as find
from miro_jax.data.shapes import render
from miro_jax.data.shapes import scene as scenes

_HUE_WIDTH = 25.0  # degrees at which the fit of a colour falls to 1 / e
_PIXELS_AT_ONCE = 2**18  # bounds the memory
_MAX_VARIANCE = 0.12  # the palest object in the strongest noise has 0.09
_MIN_UNIT = 0.25  # pixels; shapes in an image of fewer than 8 look alike
_ROUNDS = 3  # Gauss-Newton steps; triangles need the third
_LOGISTIC = 1.702  # the logistic function of this times z is nearest to the normal one of z
_PIXEL_VARIANCE = 1 / 12  # of a pixel's own width, in square pixels


@dataclasses.dataclass(frozen=True)
class Detection:
    """An object as read from an image; lengths in units, 1/32 of the image's shorter side.

    Attributes:
      shape, color: the ones of scene.SHAPES and scene.COLORS that fit best.
      x, y: centre of the object's box, from the left and from the top.
      radius: half side of the box.
      shape_fits: for each of scene.SHAPES how well it explains the region, in [0, 1].
      shape_odds: for each of scene.SHAPES the belief in it against the others; they sum to 1.
      color_fits: for each of scene.COLORS how near the hue is, times the colourfulness.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    shape_fits: tuple[float, ...]
    shape_odds: tuple[float, ...]
    color_fits: tuple[float, ...]

    @property
    def area(self) -> float:
        """Area in square units."""
        return render.AREA[self.shape] * self.radius**2

    @property
    def shape_fit(self) -> float:
        """How well the shape explains the region, in [0, 1]."""
        return self.shape_fits[scenes.SHAPES.index(self.shape)]

    @property
    def color_fit(self) -> float:
        """How near the hue is to the colour, times the colourfulness, in [0, 1]."""
        return max(self.color_fits)


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that is read from an image: `objects`, largest region first, and its quality.

    blur: standard deviation of the objects' edges in units; infinite if there is no object. noise:
    that of the noise per channel, as a share of the full range. glow: slope of the background's
    brightness; 0 is flat, 1 that of a scene with a glow of 1.
    """

    objects: tuple[Detection, ...]
    blur: float
    noise: float
    glow: float

    @property
    def sharpness(self) -> float:
        """Sharpness in [0, 1]: 1 for edges as sharp as pixels, 0 without any object."""
        return float(np.exp(-self.blur / 1.2))

    @property
    def cleanliness(self) -> float:
        """Cleanliness in [0, 1]: 1 for no noise at all."""
        return float(np.exp(-self.noise / 0.1))

    @property
    def beauty(self) -> float:
        """Strength of the glow in [0, 1], never saturated: 0.12 for a glow of 0, 0.88 for 1."""
        return float(special.expit(4 * self.glow - 2))


def detect(image: np.ndarray) -> tuple[Detection, ...]:
    """Return the objects of one image, [H, W, 3] uint8 of any size, largest first."""
    return read(image[None])[0].objects


def read(images: np.ndarray) -> list[Reading]:
    """Read images of one size.

    Args:
      images: [B, H, W, 3] uint8, any pixels at all.

    Returns:
      B Readings, each a function of its own image only.

    Raises:
      TypeError, ValueError: see `data.pixels.check_pixels`.
    """
    check_pixels(images, "B", "H", "W", 3)
    step = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    starts = range(0, len(images), step)
    parts = (_read(images[i : i + step].astype(np.float32) / 255) for i in starts)
    return list(itertools.chain.from_iterable(parts))


def _read(images: np.ndarray) -> list[Reading]:
    """Read [B, H, W, 3] float32 in [0, 1]."""
    factor = max(1, int(min(images.shape[1:3]) // scenes.SIDE))  # objects are read at 32..63 pixels
    small = _shrink(images, factor)
    unit = min(small.shape[1:3]) / scenes.SIDE
    plane = find.hue_plane(small)
    smoothed = find.smooth(plane, unit)
    background = _background(smoothed)
    noise = _noise(images, background.repeat(factor, axis=1).repeat(factor, axis=2))
    glow = _glow(small, background)
    regions = find.find_regions(smoothed, unit)
    objects: list[list[Detection]] = [[] for _ in images]
    amounts = np.zeros((2, len(images)))  # sums of area * blur, and of area
    for image, thing, blur in _explain(plane, regions, noise / factor, unit):
        objects[image].append(thing)
        amounts[:, image] += thing.area * blur, thing.area
    blur = np.divide(*amounts, out=np.full(len(images), np.inf), where=amounts[1] > 0)
    return [
        Reading(tuple(things), *(float(number) for number in numbers))
        for things, *numbers in zip(objects, blur, noise, glow, strict=True)
    ]


def _shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels; a remainder at the right and the bottom is cut."""
    if factor == 1:
        return images
    height, width = (side // factor for side in images.shape[1:3])
    blocks = images[:, : height * factor, : width * factor]
    return blocks.reshape(-1, height, factor, width, factor, 3).mean(axis=(2, 4))


def _background(smoothed: np.ndarray) -> np.ndarray:
    """Return [B, H, W] bool: pixels well away from objects; all of them where hardly any are."""
    colorfulness = np.hypot(smoothed[0], smoothed[1])
    limit = np.maximum(0.3 * colorfulness.max(axis=(1, 2)), 0.1)[:, None, None]
    near = ndimage.maximum_filter(colorfulness > limit, (1, 5, 5))
    background = np.logical_not(near)
    background[background.mean(axis=(1, 2)) < 0.1] = True
    return background


def _noise(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return [B]: standard deviation of white noise per channel, from differences both ways."""
    if min(images.shape[1:3]) < 3:
        return np.zeros(len(images), np.float32)
    rows = images[:, 2:] - 2 * images[:, 1:-1] + images[:, :-2]
    both = rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2]  # 36 times the variance
    height, width = both.shape[1:3]
    inner = np.zeros(both.shape[:3], np.float32)
    covered = background[:, 1 : 1 + height, 1 : 1 + width]  # shorter where blocks were cut
    inner[:, : covered.shape[1], : covered.shape[2]] = covered
    inner[~inner.any(axis=(1, 2))] = 1
    size = np.abs(both).sum(axis=3)
    mean = (size * inner).sum(axis=(1, 2)) / inner.sum(axis=(1, 2)) / 3
    return mean * np.float32(np.sqrt(np.pi / 2) / 6)


def _glow(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return [B]: slope of the background's brightness from bottom to top, 1 for a glow of 1."""
    height = images.shape[1]
    up = (0.5 - (np.arange(height) + 0.5) / height)[None, :]  # [1, H]
    weight = background.sum(axis=2, dtype=np.float64)  # [B, H]
    # In float64: the order of the sum depends on the size of the batch, the result must not.
    light = (images.mean(axis=3, dtype=np.float64) * background).sum(axis=2)  # [B, H]
    total = weight.sum(axis=1)
    up_mean = (weight * up).sum(axis=1) / total
    spread = (weight * up * up).sum(axis=1) - total * up_mean**2
    cross = (light * up).sum(axis=1) - up_mean * light.sum(axis=1)
    slope = cross / np.maximum(spread, 1e-3 * total)
    return (slope / render.GLOW_RANGE).astype(np.float32)


def _explain(
    plane: np.ndarray, regions: find.Regions, noise: np.ndarray, unit: float
) -> list[tuple[int, Detection, float]]:
    """Return (image, Detection, blur in units) of each region, in the regions' order."""
    if not len(regions.image) or unit < _MIN_UNIT:
        return []
    windows = find.cut_windows(plane, regions, unit)
    fitted = [_fit(shape, windows, unit) for shape in scenes.SHAPES]
    misfit, radius, sigma = (np.stack(numbers, axis=1) for numbers in zip(*fitted, strict=True))
    # Of a pixel's cover, [K]. Bounded, or noise would explain any misfit in an image of noise.
    variance = np.minimum(1.5 * noise[regions.image] ** 2 / regions.peak**2, _MAX_VARIANCE)
    area = np.array([render.AREA[s] for s in scenes.SHAPES]) * radius**2  # [K, shapes]
    excess = (misfit - (variance * windows.mask.sum(axis=1))[:, None]) / area
    # The share of the area that the shape does not explain; noise alone gives 0 on average.
    fits = special.expit((0.25 - excess) / 0.08) * _plausible(radius / unit)
    odds = special.softmax(-misfit / (2 * (variance + 0.03))[:, None], axis=1)
    blur = np.sqrt(np.maximum(sigma**2 - _PIXEL_VARIANCE, 0)) / unit
    colors = _color_fits(regions)
    middle = windows.dx.shape[1] // 2  # pixel of a window
    center_x = np.rint(regions.x) + 0.5 - windows.dx[:, middle]
    center_y = np.rint(regions.y) + 0.5 - windows.dy[:, middle]
    result = []
    for k, best in enumerate(misfit.argmin(axis=1)):
        shape, size = scenes.SHAPES[best], radius[k, best]
        middle = center_y[k] - render.CENTROID[shape] * size
        color = list(scenes.COLORS)[int(colors[k].argmax())]
        x, y, half = (float(length) / unit for length in (center_x[k], middle, size))
        beliefs = [tuple(numbers[k].tolist()) for numbers in (fits, odds, colors)]
        thing = Detection(shape, color, x, y, half, *beliefs)
        result.append((int(regions.image[k]), thing, float(blur[k, best])))
    return result


def _fit(
    shape: str, windows: find.Windows, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a shape's opacity, radius and edge width to windows by Gauss-Newton steps.

    Returns:
      (misfit, radius, sigma), each [K] float32: sum of squares, pixels, pixels.
    """
    start = np.sqrt(np.maximum(windows.cover.sum(axis=1), 1) / np.float32(render.AREA[shape]))
    radius, sigma = start, np.full_like(start, 0.8 * unit)
    drop = np.float32(render.CENTROID[shape])  # of the centre of mass below the box's centre
    step = np.float32(0.01)
    farthest = np.float32(1.5 * unit)
    slopes = np.empty((len(start), 3, windows.cover.shape[1]), np.float32)  # by the three numbers
    change = np.empty((len(start), 3, 1), np.float32)
    for _ in range(_ROUNDS):
        r, s = radius[:, None], sigma[:, None]
        away = render.distance(shape, windows.dx, windows.dy + drop * r, r)
        grown = r * (1 + step)
        gain = away - render.distance(shape, windows.dx, windows.dy + drop * grown, grown)
        slopes[:, 0] = 0.5 - 0.5 * np.tanh(away * (np.float32(_LOGISTIC / 2) / s))
        density = slopes[:, 0] * (1 - slopes[:, 0]) * (np.float32(_LOGISTIC) / s)
        slopes[:, 1] = density * gain / (r * step)
        slopes[:, 2] = density * (away / s)
        slopes *= windows.mask[:, None]
        gram = slopes @ slopes.transpose(0, 2, 1)  # [K, 3, 3]
        gram[:, range(3), range(3)] += 1e-3 * (1 + gram[:, range(3), range(3)])  # never singular
        change = np.linalg.solve(gram, slopes @ windows.cover[:, :, None])  # [K, 3, 1]
        opacity = np.clip(change[:, 0, 0], 0.5, 2)
        radius = radius + np.clip(change[:, 1, 0] / opacity, -farthest, farthest)
        radius = np.clip(radius, 0.7 * start, 1.3 * start)
        sigma = sigma + np.clip(change[:, 2, 0] / opacity, -farthest / 2, farthest / 2)
        sigma = np.clip(sigma, np.float32(0.2 * unit), np.float32(4 * unit))
    rest = windows.cover - (change.transpose(0, 2, 1) @ slopes)[:, 0]
    return (rest * rest).sum(axis=1), radius, sigma


def _plausible(radius: np.ndarray) -> np.ndarray:
    """Return in [0, 1] whether a radius in units is an object's, not a speck's or backdrop's."""
    return special.expit((radius - 3) / 0.3) * special.expit((10 - radius) / 0.5)


def _color_fits(regions: find.Regions) -> np.ndarray:
    """Return [K, colors]: nearness of the hue times colourfulness."""
    hue = np.degrees(np.arctan2(regions.v, regions.u))[:, None]
    away = (hue - 60.0 * np.arange(6)[None, :] + 180) % 360 - 180
    return np.exp(-((away / _HUE_WIDTH) ** 2)) * np.minimum(regions.peak, 1.0)[:, None]
