"""Resize and crop images exactly as the published scorers do, in the variants that differ.

All bring the short side to `size` and keep the central square of the long one. They differ in

    where the crop begins    round((long - size) / 2), ties to even (torchvision), or floor (Hugging
                             Face): one pixel apart for a quarter of all sizes
    what is interpolated     bytes, rounded and clamped after each axis (Pillow), or floats in
                             [0, 1], whose over- and undershoot survives (torchvision on tensors)

Both interpolate by the cubic of Keys (1981, a = -0.5), widened by the factor of shrinking
(antialiasing). As floats, on one axis, with s = old / new and r = max(s, 1),

    out[i] = sum_j w_ij in[j] / sum_j w_ij,   w_ij = k((j + 1/2 - c_i) / r),   c_i = s (i + 1/2)

Source: torchvision's `Resize` and `CenterCrop`, Hugging Face's `CLIPImageProcessor`, Pillow.

Letters: H W of an image.
"""

import dataclasses
import functools

import numpy as np
from PIL import Image
from scipy import sparse

MAX_PIXELS = 64_000_000  # of an image after resizing, before the crop
ROUNDINGS = ("round", "floor")


@dataclasses.dataclass(frozen=True)
class BicubicCrop:
    """Resize bytes by Pillow and crop.

    Attributes:
      size: side of the result, in pixels.
      rounding: "round" or "floor", of where the crop begins.
    """

    size: int
    rounding: str = "round"

    def __post_init__(self):
        if self.rounding not in ROUNDINGS:
            raise ValueError(
                f"rounding must be one of {', '.join(ROUNDINGS)}; got {self.rounding!r}."
            )

    def __str__(self) -> str:
        """Name it; equal names make equal images."""
        return f"bicubic{self.size}-{self.rounding}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Bring an image [H, W, 3] uint8 to [size, size, 3] uint8.

        Raises:
          ValueError: it is so narrow that the resized image would have over 64 million pixels.
        """
        height, width = resized(image.shape[0], image.shape[1], self.size)
        if height * width > MAX_PIXELS:
            raise ValueError(
                f"an image must not be so narrow; got {image.shape[1]} x {image.shape[0]}, which "
                f"would become {width} x {height}. Crop it or skip it."
            )
        if image.shape[:2] != (height, width):
            bigger = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            image = np.asarray(bigger)
        top, left = (offset(side, self.size, self.rounding) for side in (height, width))
        return np.ascontiguousarray(image[top : top + self.size, left : left + self.size])


@dataclasses.dataclass(frozen=True)
class FloatBicubicCrop:
    """Resize floats in [0, 1] without clamping, and crop, its beginning rounded.

    Attributes:
      size: side of the result, in pixels.
    """

    size: int

    def __str__(self) -> str:
        """Name it; equal names make equal images."""
        return f"float-bicubic{self.size}-round"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Bring an image [H, W, 3] uint8 to [size, size, 3] float32, somewhat beyond [0, 1].

        Only the rows and columns that the crop keeps are computed.
        """
        old = image.shape[:2]
        new = resized(old[0], old[1], self.size)
        (rows, top, bottom), (columns, left, right) = (
            _crop_weights(a, b, self.size) for a, b in zip(old, new, strict=True)
        )
        x = image[top:bottom, left:right].astype(np.float32) / np.float32(255)
        x = rows @ x.reshape(len(x), -1)  # [size, W * 3]
        x = x.reshape(self.size, -1, 3).swapaxes(0, 1).reshape(right - left, -1)
        x = columns @ x  # [size, size * 3], columns first
        return np.ascontiguousarray(x.reshape(self.size, self.size, 3).swapaxes(0, 1))


def resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) after the short side became `size`; the long one is truncated."""
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def offset(length: int, size: int, rounding: str) -> int:
    """Return where the central `size` pixels of `length` begin."""
    return round((length - size) / 2) if rounding == "round" else (length - size) // 2


@functools.lru_cache(maxsize=256)
def _crop_weights(old: int, new: int, size: int) -> tuple[sparse.csr_array, int, int]:
    """Return the weights [size, end - begin] float32 of the crop's pixels, begin and end."""
    scale = np.float32(old / new)
    stretch = max(float(scale), 1.0)
    first = offset(new, size, "round")
    center = (scale * (np.arange(first, first + size) + 0.5)).astype(np.float32)
    support = 2 * stretch
    begin = np.maximum((center - support + 0.5).astype(np.int64), 0)
    end = np.minimum((center + support + 0.5).astype(np.int64), old)
    positions = begin[:, None] + np.arange((end - begin).max())[None]  # [size, taps]
    weights = _cubic((positions - center[:, None] + 0.5) / stretch)
    weights = np.where(positions < end[:, None], weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    used = slice(begin.min(), end.max())
    rows = np.repeat(np.arange(size), positions.shape[1])
    used_cells = (positions < end[:, None]).ravel()
    cells = (rows[used_cells], positions.ravel()[used_cells] - used.start)
    values = weights.ravel()[used_cells].astype(np.float32)
    matrix = sparse.csr_array((values, cells), shape=(size, used.stop - used.start))
    return matrix, int(used.start), int(used.stop)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
