"""Read any picture back into objects and quality, by looking at its pixels only.

Objects are regions of one hue on a neutral background. In the hexagonal hue plane

    u = R - (G + B) / 2,   v = sqrt(3) / 2 (G - B)

grey is the origin, the angle is the hue and the length is the colourfulness, whatever the hue. Both
are linear in the pixels, so noise of zero mean stays so. The steps, all on arrays over many
pictures at once:

1. smooth u and v, keep what is colourful, label connected regions of the same nearest colour;
2. around each region take a window of c = colourfulness along the region's hue over its peak: the
   share of each pixel that the object covers, 0..1;
3. area and centre are the sums of c; the width of the edges follows from sum c (1 - c), which for
   an edge blurred by sigma is perimeter * sigma / sqrt(pi);
4. draw circle, square and triangle of that area, centre and edge width, and see which explains c.

The noise level is that of second differences on the background, the glow is the slope of its
brightness. K is the number of regions in a batch, W the side of a window.
"""

import dataclasses

import numpy as np
from scipy import ndimage, special

from miro_jax.shapes import render
from miro_jax.shapes import scene as scenes

MAX_FOUND = 8  # the largest regions of a picture; scenes hold four
_MIN_AREA = 12.0  # square units; the smallest object covers 46
_SMOOTHING = 0.7  # units
_MIN_COLORFULNESS = 0.15  # the palest object has 0.4
_HALF_WINDOW = 12.0  # units
_HUE_WIDTH = 25.0  # degrees at which the fit of a colour falls to 1 / e
_PIXELS_AT_ONCE = 2**18  # bounds the memory
_AREA = {"circle": np.pi, "square": 4 * render.SQUARE_SIDE**2, "triangle": 2.0}  # at radius 1
_PERIMETER = {"circle": 2 * np.pi, "square": 8 * render.SQUARE_SIDE, "triangle": 2 + 2 * 5**0.5}
_CENTROID = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3}  # y of the centre of mass at radius 1


@dataclasses.dataclass(frozen=True)
class Found:
    """An object as read from a picture.

    Attributes:
        shape: the one of scene.SHAPES that fits best.
        color: the one of scene.COLORS that fits best.
        x: centre in units from the left; a unit is 1/32 of the picture's shorter side.
        y: centre in units from the top.
        area: in square units.
        shape_fits: for each of scene.SHAPES how well it explains the region, in [0, 1].
        color_fits: for each of scene.COLORS how near the hue is, times the colourfulness, in [0,
            1].
        shape_odds: for each of scene.SHAPES its share of belief against the others; they sum to 1.
    """

    shape: str
    color: str
    x: float
    y: float
    area: float
    shape_fits: tuple[float, ...]
    color_fits: tuple[float, ...]
    shape_odds: tuple[float, ...]

    @property
    def shape_fit(self) -> float:
        """How well the found shape explains the region, in [0, 1]."""
        return max(self.shape_fits)

    @property
    def color_fit(self) -> float:
        """How near the hue is to the found colour, times the colourfulness, in [0, 1]."""
        return max(self.color_fits)


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that is read from a picture.

    Attributes:
        found: the objects, largest first.
        blur: standard deviation of the edges' blur in units; infinite if there is no edge to judge.
        noise: standard deviation of the noise per channel, as a share of the full range.
        glow: slope of the background's brightness, 0 flat and 1 as bright at the top as a scene's
            glow of 1.
    """

    found: tuple[Found, ...]
    blur: float
    noise: float
    glow: float

    @property
    def sharpness(self) -> float:
        """Sharpness in [0, 1]: 1 for ideal edges, 0 for none."""
        return float(np.exp(-self.blur / 1.2))

    @property
    def cleanliness(self) -> float:
        """Cleanliness in [0, 1]: 1 for no noise at all."""
        return float(np.exp(-self.noise / 0.1))

    @property
    def beauty(self) -> float:
        """Strength of the glow in [0, 1], never saturated: 0.12 for a glow of 0, 0.88 for a glow of
        1."""
        return float(special.expit(4 * self.glow - 2))


def detect(image: np.ndarray) -> tuple[Found, ...]:
    """Return the objects of one picture, [H, W, 3] uint8 of any size, largest first."""
    return read(_one(image))[0].found


def quality(image: np.ndarray) -> tuple[float, float, float]:
    """Return (sharpness, cleanliness, beauty), each in [0, 1], of one picture, [H, W, 3] uint8."""
    reading = read(_one(image))[0]
    return reading.sharpness, reading.cleanliness, reading.beauty


def read(images: np.ndarray) -> list[Reading]:
    """Read pictures of one size.

    Args:
        images: [B, H, W, 3] uint8, any pixels at all.

    Returns:
        B Readings. A reading depends on its own picture only.

    Raises:
        TypeError: images is not an array of uint8.
        ValueError: images has another rank or number of channels, or pictures without pixels.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise TypeError(
            f"images must be a numpy array of uint8; got {getattr(images, 'dtype', type(images))}."
        )
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"images must have the shape [B, H, W, 3]; got {images.shape}.")
    step = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    readings = []
    for start in range(0, len(images), step):
        readings += _read(images[start : start + step].astype(np.float32) / 255)
    return readings


def _one(image: np.ndarray) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        raise ValueError(f"image must be an array [H, W, 3]; got {np.shape(image)}.")
    return image[None]


def _read(images: np.ndarray) -> list[Reading]:
    """Read [B, H, W, 3] float32 in [0, 1]."""
    factor = max(1, int(min(images.shape[1:3]) // scenes.SIDE))  # objects are read at 32..63 pixels
    small = _shrink(images, factor)
    unit = min(small.shape[1:3]) / scenes.SIDE
    plane = np.stack(
        [
            small[..., 0] - (small[..., 1] + small[..., 2]) / 2,
            np.float32(np.sqrt(0.75)) * (small[..., 1] - small[..., 2]),
        ]
    )  # [2, B, H, W]
    sigma = _SMOOTHING * unit
    plane = ndimage.gaussian_filter(plane, (0, 0, sigma, sigma), mode="nearest", truncate=3.0)
    colorfulness = np.hypot(plane[0], plane[1])
    peak = colorfulness.max(axis=(1, 2))
    background = _background(colorfulness, peak)
    noise = _noise(images, np.kron(background, np.ones((1, factor, factor), bool)))
    glow = _glow(small, background)
    regions = _regions(plane, colorfulness, peak, unit)
    found: list[list[Found]] = [[] for _ in images]
    edges = np.zeros((2, len(images)))  # sums of area * blur, and of area
    if len(regions.picture):
        for picture, thing, blur in _explain(plane, regions, noise / factor, unit):
            if len(found[picture]) < MAX_FOUND:
                found[picture].append(thing)
                edges[:, picture] += thing.area * blur, thing.area
    return [
        Reading(
            tuple(things),
            float(area_blur / area) if area else float("inf"),
            float(grain),
            float(slope),
        )
        for things, area_blur, area, grain, slope in zip(found, *edges, noise, glow, strict=True)
    ]


def _shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor pixels; a remainder at the right and the bottom is cut."""
    if factor == 1:
        return images
    height, width = (side // factor for side in images.shape[1:3])
    blocks = images[:, : height * factor, : width * factor]
    return blocks.reshape(-1, height, factor, width, factor, 3).mean(axis=(2, 4))


def _background(colorfulness: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return [B, H, W] bool: pixels away from all objects; all pixels where hardly any are."""
    limit = np.maximum(0.3 * peak, 0.1)[:, None, None]
    near = ndimage.binary_dilation(colorfulness > limit, np.ones((1, 3, 3), bool), iterations=2)
    background = ~near
    background[background.mean(axis=(1, 2)) < 0.1] = True
    return background


def _noise(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return [B]: standard deviation of white noise per channel, from second differences both
    ways."""
    if min(images.shape[1:3]) < 3:
        return np.zeros(len(images), np.float32)
    rows = images[:, 2:] - 2 * images[:, 1:-1] + images[:, :-2]
    both = rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2]  # variance 36 times the pixels'
    height, width = both.shape[1:3]
    inner = np.zeros(both.shape[:3], bool)
    covered = background[:, 1 : 1 + height, 1 : 1 + width]  # shorter where blocks were cut
    inner[:, : covered.shape[1], : covered.shape[2]] = covered
    inner[~inner.any(axis=(1, 2))] = True
    size = np.abs(both).sum(axis=3)
    mean = (size * inner).sum(axis=(1, 2)) / inner.sum(axis=(1, 2)) / 3
    return mean * np.sqrt(np.pi / 2) / 6


def _glow(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return [B]: slope of the background's brightness from bottom to top, over that of a glow of
    1."""
    height = images.shape[1]
    up = (0.5 - (np.arange(height, dtype=np.float32) + 0.5) / height)[None, :]  # [1, H]
    weight = background.sum(axis=2, dtype=np.float32)  # [B, H]
    light = (images.mean(axis=3) * background).sum(axis=2)  # [B, H]
    total = weight.sum(axis=1)
    up_mean = (weight * up).sum(axis=1) / total
    spread = (weight * up * up).sum(axis=1) - total * up_mean**2
    cross = (light * up).sum(axis=1) - up_mean * light.sum(axis=1)
    return cross / np.maximum(spread, 1e-3 * total) / render.GLOW_RANGE


@dataclasses.dataclass(frozen=True)
class _Regions:
    """Regions of one hue, sorted by picture and falling area; each array is [K]."""

    picture: np.ndarray  # index into the batch
    area: np.ndarray  # pixels
    x: np.ndarray  # centre of mass in pixels
    y: np.ndarray
    u: np.ndarray  # unit vector of the hue
    v: np.ndarray
    peak: np.ndarray  # colourfulness where the object covers a pixel wholly


def _regions(
    plane: np.ndarray, colorfulness: np.ndarray, peak: np.ndarray, unit: float
) -> _Regions:
    """Label the colourful regions of the smoothed hue plane [2, B, H, W]."""
    limit = np.maximum(0.45 * peak, _MIN_COLORFULNESS)[:, None, None]
    pixels = np.nonzero(colorfulness > limit)
    u, v = plane[0][pixels], plane[1][pixels]
    nearest = np.rint(np.arctan2(v, u) * (3 / np.pi)).astype(np.int64) % 6
    batch, height, width = colorfulness.shape
    classes = np.zeros((6, batch, height, width), bool)
    classes[(nearest, *pixels)] = True
    cross = np.zeros((3, 3, 3), bool)
    cross[1] = ndimage.generate_binary_structure(2, 1)  # pictures do not touch each other
    labels, count = ndimage.label(classes.reshape(-1, height, width), cross)
    label = labels.reshape(classes.shape)[(nearest, *pixels)]

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights, minlength=count + 1)

    area = total(np.ones(len(label)))
    picture = np.zeros(count + 1, np.int64)
    picture[label] = pixels[0]
    kept = np.flatnonzero(area >= _MIN_AREA * unit**2)
    kept = kept[np.lexsort((kept, -area[kept], picture[kept]))]
    first = np.searchsorted(picture[kept], picture[kept])
    kept = kept[np.arange(len(kept)) - first < MAX_FOUND]
    strength = colorfulness[pixels].astype(np.float64)
    hue_u, hue_v = total(u)[kept], total(v)[kept]
    length = np.maximum(np.hypot(hue_u, hue_v), 1e-6)
    return _Regions(
        picture[kept],
        area[kept],
        total(pixels[2])[kept] / area[kept],
        total(pixels[1])[kept] / area[kept],
        hue_u / length,
        hue_v / length,
        # Leans on the strongest pixels: the edges of the region are half covered.
        total(strength**6)[kept] / np.maximum(total(strength**5)[kept], 1e-12),
    )


def _explain(
    plane: np.ndarray, regions: _Regions, noise: np.ndarray, unit: float
) -> list[tuple[int, Found, float]]:
    """Return (picture, Found, blur in units) of each region, in the regions' order."""
    cover, mask, dx, dy = _windows(plane, regions, unit)  # [K, W, W]
    # Smoothing and the projection leave this much of the noise's variance in the cover.
    leftover = 1.5 * noise[regions.picture] ** 2 * _smoothing_gain(unit) / regions.peak**2  # [K]
    pixels = mask.sum(axis=(1, 2))
    area = np.maximum(cover.sum(axis=(1, 2)), 1.0)  # [K]
    x = (cover * dx).sum(axis=(1, 2)) / area
    y = (cover * dy).sum(axis=(1, 2)) / area
    dx, dy = dx - x[:, None, None], dy - y[:, None, None]
    ramp = (cover * (1 - cover)).sum(axis=(1, 2)) + pixels * leftover
    misfits, blurs = [], []
    for shape in scenes.SHAPES:
        radius = np.sqrt(area / _AREA[shape])
        sigma = np.maximum(np.sqrt(np.pi) * ramp / (_PERIMETER[shape] * radius), 0.3)
        drawn = mask * _soft(
            shape, dx, dy + (_CENTROID[shape] * radius)[:, None, None], radius, sigma
        )
        energy = np.maximum((drawn * drawn).sum(axis=(1, 2)), 1e-6)
        scale = (cover * drawn).sum(axis=(1, 2)) / energy
        rest = ((cover - scale[:, None, None] * drawn) ** 2).sum(axis=(1, 2)) - pixels * leftover
        misfits.append(rest / (np.maximum(scale, 0.1) ** 2 * energy))
        blurs.append(sigma)
    misfit = np.stack(misfits, axis=1)  # [K, shapes]
    best = misfit.argmin(axis=1)
    sigma = np.stack(blurs, axis=1)[np.arange(len(best)), best]
    own = (_SMOOTHING * unit) ** 2 + 1 / 6  # of the smoothing and of the pixels themselves
    blur = np.sqrt(np.maximum(sigma**2 - own, 0)) / unit
    fits = np.exp(-np.maximum(misfit, 0) / 0.1)
    odds = special.softmax(-misfit / 0.01, axis=1)
    radius = np.sqrt(area / np.array([_AREA[s] for s in scenes.SHAPES])[best])
    center = np.array([_CENTROID[s] for s in scenes.SHAPES])[best] * radius
    colors = _color_fits(regions)
    names = list(scenes.COLORS)
    return [
        (
            int(regions.picture[k]),
            Found(
                scenes.SHAPES[best[k]],
                names[int(colors[k].argmax())],
                float((round(regions.x[k]) + x[k] + 0.5) / unit),
                float((round(regions.y[k]) + y[k] - center[k] + 0.5) / unit),
                float(area[k] / unit**2),
                tuple(fits[k].tolist()),
                tuple(colors[k].tolist()),
                tuple(odds[k].tolist()),
            ),
            float(blur[k]),
        )
        for k in range(len(best))
    ]


def _windows(
    plane: np.ndarray, regions: _Regions, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (cover, mask, dx, dy) around each region, each [K, W, W]; dx, dy from its rounded
    centre."""
    height, width = plane.shape[2:]
    reach = int(np.ceil(_HALF_WINDOW * unit))
    steps = np.arange(-reach, reach + 1)
    rows = np.rint(regions.y).astype(np.int64)[:, None, None] + steps[None, :, None]
    columns = np.rint(regions.x).astype(np.int64)[:, None, None] + steps[None, None, :]
    near = (
        np.sqrt(regions.area) + 2.5 * unit
    )  # an apex lies 0.94 sqrt(area) from the centre of mass
    own = (rows - regions.y[:, None, None]) ** 2 + (columns - regions.x[:, None, None]) ** 2
    mask = own <= near[:, None, None] ** 2
    mask &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # Of two neighbours each gets the pixels on its side of the line between their circles.
    own -= (regions.area / np.pi)[:, None, None]
    for shift in range(1, MAX_FOUND):
        pairs = np.flatnonzero(regions.picture[shift:] == regions.picture[:-shift])
        if not len(pairs):
            break
        for a, b in ((pairs, pairs + shift), (pairs + shift, pairs)):
            other = (rows[a] - regions.y[b, None, None]) ** 2
            other = other + (columns[a] - regions.x[b, None, None]) ** 2
            mask[a] &= own[a] <= other - (regions.area[b] / np.pi)[:, None, None]
    picture = regions.picture[:, None, None]
    at = (picture, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    u, v, peak = (a.astype(np.float32)[:, None, None] for a in (regions.u, regions.v, regions.peak))
    cover = (plane[0][at] * u + plane[1][at] * v) / peak * mask
    steps = steps.astype(np.float32)
    return cover, mask, *np.broadcast_arrays(steps[None, None, :], steps[None, :, None])


def _soft(
    shape: str, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return the cover [K, W, W] of a shape blurred by sigma [K]."""
    away = render.distance(shape, dx, dy, radius[:, None, None])
    return special.ndtr((-away / sigma[:, None, None]).astype(np.float32))


def _smoothing_gain(unit: float) -> float:
    """Return the factor by which smoothing lowers the variance of white noise."""
    impulse = np.zeros(61)
    impulse[30] = 1
    kernel = ndimage.gaussian_filter1d(impulse, _SMOOTHING * unit, truncate=3.0)
    return float((kernel**2).sum() ** 2)


def _color_fits(regions: _Regions) -> np.ndarray:
    """Return [K, colors]: nearness of the hue times colourfulness."""
    hue = np.degrees(np.arctan2(regions.v, regions.u))[:, None]
    away = (hue - 60.0 * np.arange(6)[None, :] + 180) % 360 - 180
    return np.exp(-((away / _HUE_WIDTH) ** 2)) * np.minimum(regions.peak, 1.0)[:, None]
