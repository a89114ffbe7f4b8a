"""What encoders share: checked images, image latents, tokens of captions as one array."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import DTypeLike

Latents = np.ndarray | jax.Array


def check_pixels(images: Any, *shape: int | str, advice: str = "") -> None:
    """Raise unless images is an array of uint8 of a shape; letters stand for any number but 0.

    Raises:
      TypeError: it is no array of uint8.
      ValueError: it has another shape; the text ends in `advice`.
    """
    kind = getattr(images, "dtype", type(images).__name__)
    if kind != np.uint8:
        raise TypeError(f"images must be arrays of uint8 in [0, 255]; got {kind}.")
    fits = [
        n == want or (isinstance(want, str) and n > 0)
        for n, want in zip(images.shape, shape, strict=False)
    ]
    if len(images.shape) != len(shape) or not all(fits):
        raise ValueError(
            f"images must have the shape [{', '.join(map(str, shape))}], no side 0; "
            f"got {images.shape}. {advice}".strip()
        )


def pad_tokens(
    codes: Sequence[np.ndarray], length: int, width: int, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the tokens of captions out as one array, as sampling needs them.

    Args:
      codes: B arrays [L, D]. length: of the result, at least every L. width: D.

    Returns:
      tokens [B, length, D], zero at padding; mask [B, length] bool, False there.
    """
    tokens = np.zeros((len(codes), length, width), dtype)
    mask = np.zeros(tokens.shape[:2], bool)
    for row, code in enumerate(codes):
        tokens[row, : len(code)], mask[row, : len(code)] = code, True
    return tokens, mask
