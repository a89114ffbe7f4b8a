"""Pixels as GenEval's detector gets them, to the byte: OpenCV's bilinear resize, in integers.

An image is scaled until its short side is 800 or its long side 1333, whichever comes first. Every
square image becomes 800 x 800. OpenCV does not antialias when it shrinks, and it rounds in its own
way. On each axis, with x = (i + 1/2) old / new - 1/2 as float32 and f = x - floor(x),

    a0, a1 = rint(2048 (1 - f)), rint(2048 f)         horizontally; f = 0 at both ends
    h = a0 p[x] + a1 p[x + 1]
    out = ((b0 (h[y] >> 4) >> 16) + (b1 (h[y + 1] >> 4) >> 16) + 2) >> 2     f stays at both ends

Pixels beyond an end are those of the end.

Source: mmdet's test pipeline; OpenCV's INTER_LINEAR for 8 bits.

Letters: H W image, h w the detector's input.
"""

import functools

import numpy as np

SHORT, LONG = 800, 1333  # pixels
MULTIPLE = 32  # of the padded sides
MEAN = (123.675, 116.28, 103.53)  # of red, green and blue in [0, 255]
STD = (58.395, 57.12, 57.375)
_ONE = 2048  # of a weight


def scaled(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to."""
    scale = min(LONG / max(height, width), SHORT / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def padded(height: int, width: int) -> tuple[int, int]:
    """Return the next multiples of 32."""
    return height + -height % MULTIPLE, width + -width % MULTIPLE


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [H, W, C] uint8 to [height, width, C] uint8 as OpenCV's INTER_LINEAR does."""
    low, high, near, far = _horizontal(image.shape[1], width)
    x = image.astype(np.int32)
    x = x[:, low] * near[None, :, None] + x[:, high] * far[None, :, None]
    x >>= 4
    low, high, near, far = _vertical(image.shape[0], height)
    upper, lower = x[low] * near[:, None, None], x[high] * far[:, None, None]
    return ((upper >> 16) + (lower >> 16) + 2 >> 2).astype(np.uint8)


def prepare(image: np.ndarray) -> np.ndarray:
    """Bring an image [H, W, 3] uint8 to the detector's size, [h, w, 3] uint8, not padded yet."""
    return resize(image, *scaled(*image.shape[:2]))


@functools.lru_cache(maxsize=64)
def _positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return floor(x) and f of each new pixel."""
    x = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    low = np.floor(x).astype(np.int32)
    return low, x - low.astype(np.float32)


def _horizontal(old: int, new: int) -> tuple[np.ndarray, ...]:
    low, fraction = _positions(old, new)
    fraction = np.where((low < 0) | (low >= old - 1), np.float32(0), fraction)
    low = np.clip(low, 0, old - 1)
    return low, np.minimum(low + 1, old - 1), *_weights(fraction)


def _vertical(old: int, new: int) -> tuple[np.ndarray, ...]:
    low, fraction = _positions(old, new)
    return np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1), *_weights(fraction)


def _weights(fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one = np.float32(1)
    near, far = (np.rint(share * np.float32(_ONE)) for share in (one - fraction, fraction))
    return near.astype(np.int32), far.astype(np.int32)
