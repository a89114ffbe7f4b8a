"""Arrays of pixels, checked where they enter."""

from typing import Any

import numpy as np


def check_pixels(images: Any, *shape: int | str, advice: str = "") -> None:
    """Raise unless images is an array of uint8 of a shape.

    Args:
      shape: numbers, and letters for sides of any length but 0; "B" may be 0.
      advice: ends the text of a ValueError.

    Raises:
      TypeError: it is no array of uint8. ValueError: it has another shape.
    """
    kind = getattr(images, "dtype", type(images).__name__)
    if kind != np.uint8:
        raise TypeError(f"images must be arrays of uint8 in [0, 255]; got {kind}.")
    fits = len(images.shape) == len(shape) and all(
        n == want or want == "B" or (isinstance(want, str) and n > 0)
        for n, want in zip(images.shape, shape, strict=True)
    )
    if not fits:
        form = ", ".join(map(str, shape))
        raise ValueError(f"images must have the shape [{form}]; got {images.shape}. {advice}")
