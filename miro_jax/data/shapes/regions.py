"""Find the colourful regions of images, and cut a window around each.

In the hexagonal hue plane

    u = R - (G + B) / 2,   v = sqrt(3) / 2 (G - B)

grey is the origin, the angle is the hue and the length is the colourfulness, whatever the hue. Both
are linear in the pixels, so noise of zero mean stays so. B images of H x W pixels, K regions
among them, windows of P pixels.
"""

import dataclasses

import numpy as np
from scipy import ndimage

MAX_REGIONS = 8  # the largest of an image; scenes hold four objects
_SMOOTHING = 0.7  # units; of the copy in which regions are looked for
_MIN_COLORFULNESS = 0.15  # the palest object has 0.4
_MIN_AREA = 12.0  # square units; the smallest object covers 54
_HALF_WINDOW = 12.0  # units


@dataclasses.dataclass(frozen=True)
class Regions:
    """Regions of one nearest colour, by image, then by falling area; arrays of [K] float32.

    image: [K] int64, index into the batch. area: in pixels. x, y: centre of mass in pixels, 0 is
    the centre of the first pixel. u, v: unit vector of the hue. peak: colourfulness of the
    strongest pixels, smoothed.
    """

    image: np.ndarray
    area: np.ndarray
    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    v: np.ndarray
    peak: np.ndarray


@dataclasses.dataclass(frozen=True)
class Windows:
    """The surroundings of regions, each array [K, P] float32.

    cover: colourfulness along the region's hue over the region's peak: the share of a pixel that
    the object covers, plus noise; 0 where mask is 0. mask: 1 for the pixels that can belong to the
    region, else 0. dx, dy: pixels from the centre of mass, to the right and downwards.
    """

    cover: np.ndarray
    mask: np.ndarray
    dx: np.ndarray
    dy: np.ndarray


def hue_plane(images: np.ndarray) -> np.ndarray:
    """Return u and v, [2, B, H, W] float32, of images [B, H, W, 3] float32 in [0, 1]."""
    red, green, blue = np.moveaxis(images, 3, 0)
    return np.stack([red - (green + blue) / 2, np.float32(np.sqrt(0.75)) * (green - blue)])


def smooth(plane: np.ndarray, unit: float) -> np.ndarray:
    """Return [2, B, H, W] less noisy; unit is the number of pixels per unit."""
    sigma = _SMOOTHING * unit
    return ndimage.gaussian_filter(plane, sigma, mode="nearest", truncate=3.0, axes=(2, 3))


def find_regions(smoothed: np.ndarray, unit: float) -> Regions:
    """Label connected pixels that are colourful and nearest to the same of the six colours.

    Args:
      smoothed: [2, B, H, W] float32, the smoothed hue plane.
      unit: pixels per unit.
    """
    colorfulness = np.hypot(smoothed[0], smoothed[1])
    peak = colorfulness.max(axis=(1, 2))
    limit = np.maximum(0.45 * peak, _MIN_COLORFULNESS)[:, None, None]
    pixels = np.nonzero(colorfulness > limit)
    u, v = smoothed[0][pixels], smoothed[1][pixels]
    nearest = np.rint(np.arctan2(v, u) * (3 / np.pi)).astype(np.int64) % 6
    batch, height, width = colorfulness.shape
    classes = np.zeros((6, batch, height, width), bool)
    classes[(nearest, *pixels)] = True
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = ndimage.generate_binary_structure(2, 1)  # images do not touch each other
    labels = np.empty((6 * batch, height, width), np.int32)
    ndimage.label(classes.reshape(labels.shape), neighbours, output=labels)
    count = int(labels.max(initial=0))
    label = labels.reshape(classes.shape)[(nearest, *pixels)]

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(label, weights, minlength=count + 1)

    area = total(np.ones(len(label)))
    image = np.zeros(count + 1, np.int64)
    image[label] = pixels[0]
    kept = np.flatnonzero(area >= _MIN_AREA * unit**2)
    kept = kept[np.lexsort((kept, -area[kept], image[kept]))]
    first = np.searchsorted(image[kept], image[kept])
    kept = kept[np.arange(len(kept)) - first < MAX_REGIONS]
    strength = np.hypot(u, v).astype(np.float64)
    hue_u, hue_v = total(u)[kept], total(v)[kept]
    length = np.maximum(np.hypot(hue_u, hue_v), 1e-6)
    numbers = (
        area[kept],
        total(pixels[2])[kept] / area[kept],
        total(pixels[1])[kept] / area[kept],
        hue_u / length,
        hue_v / length,
        # Leans on the strongest pixels: those at the edge are half covered.
        total(strength**6)[kept] / np.maximum(total(strength**5)[kept], 1e-12),
    )
    return Regions(image[kept], *(number.astype(np.float32) for number in numbers))


def cut_windows(plane: np.ndarray, regions: Regions, unit: float) -> Windows:
    """Cut a square window around each region.

    Args:
      plane: [2, B, H, W] float32, the hue plane, not smoothed.
      regions: what find_regions found in it.
      unit: pixels per unit.
    """
    height, width = plane.shape[2:]
    reach = int(np.ceil(_HALF_WINDOW * unit))
    steps = np.arange(-reach, reach + 1)
    down, right = (step.ravel() for step in np.meshgrid(steps, steps, indexing="ij"))  # [P]
    rows = np.rint(regions.y).astype(np.int64)[:, None] + down  # [K, P]
    columns = np.rint(regions.x).astype(np.int64)[:, None] + right
    dx = columns.astype(np.float32) - regions.x[:, None]
    dy = rows.astype(np.float32) - regions.y[:, None]
    apart = dx * dx + dy * dy
    near = np.sqrt(regions.area) + np.float32(2.5 * unit)  # an apex is 0.94 sqrt(area) away
    mask = apart <= near[:, None] ** 2
    mask &= (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # Of two neighbours each gets the pixels on its side of the line between their circles.
    bulk = regions.area / np.float32(np.pi)
    for shift in range(1, MAX_REGIONS):
        first = np.flatnonzero(regions.image[shift:] == regions.image[:-shift])
        for own, other in ((first, first + shift), (first + shift, first)):
            to_x = (regions.x[other] - regions.x[own])[:, None]
            to_y = (regions.y[other] - regions.y[own])[:, None]
            # |d|^2 - bulk_own <= |d - to|^2 - bulk_other
            limit = to_x**2 + to_y**2 + (bulk[own] - bulk[other])[:, None]
            mask[own] &= 2 * (dx[own] * to_x + dy[own] * to_y) <= limit
    at = (regions.image[:, None], rows.clip(0, height - 1), columns.clip(0, width - 1))
    along = plane[0][at] * (regions.u / regions.peak)[:, None]
    along += plane[1][at] * (regions.v / regions.peak)[:, None]
    mask = mask.astype(np.float32)
    cover = along * mask
    amount = np.maximum(cover.sum(axis=1), 1)
    dx -= ((cover * dx).sum(axis=1) / amount)[:, None]
    dy -= ((cover * dy).sum(axis=1) / amount)[:, None]
    return Windows(cover, mask, dx, dy)
