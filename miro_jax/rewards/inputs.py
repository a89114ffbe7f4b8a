"""What `reward.score` takes: images as paths, PIL images or arrays, and their captions.

Letters: B images, H W image.
"""

import os
from collections.abc import Sequence, Sized
from typing import TypeGuard

import numpy as np
from PIL import Image

from miro_jax.data.pixels import check_pixels
from miro_jax.data.regular_file import read_regular
from miro_jax.data.sources.images import MAX_BYTES, from_pillow, load_rgb

AnyImage = str | os.PathLike | Image.Image | np.ndarray
Images = AnyImage | Sequence[AnyImage]


def as_arrays(images: Images) -> list[np.ndarray]:
    """Return images as a list of [H, W, 3] uint8.

    Files and PIL images are turned upright by their EXIF orientation and laid over white where they
    are transparent.

    Args:
      images: one path, PIL image or [H, W, 3] uint8; a sequence of them; or [B, H, W, 3] uint8.

    Raises:
      TypeError: another kind of value, or arrays that are not uint8.
      ValueError: another rank or number of channels, or a file that holds no usable image.
      FileNotFoundError: a path is missing.
    """
    if isinstance(images, np.ndarray) and images.ndim not in (3, 4):
        raise ValueError(f"images must have the shape [B, H, W, 3]; got {images.shape}.")
    if is_one(images):
        images = [images]
    if isinstance(images, bytes | bytearray) or not isinstance(images, Sequence | np.ndarray):
        raise TypeError(
            "images must be paths, PIL images or numpy arrays of uint8, one or a list; "
            f"got {type(images).__name__}."
        )
    return [_as_array(image, position) for position, image in enumerate(images)]


def is_one(images: Images) -> TypeGuard[AnyImage]:
    """Return whether images is a single image."""
    if isinstance(images, np.ndarray):
        return images.ndim == 3
    return isinstance(images, str | os.PathLike | Image.Image)


def _as_array(image: AnyImage, position: int) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        data = read_regular(image, MAX_BYTES)
        try:
            return load_rgb(data, min_side=1)
        except ValueError as error:
            raise ValueError(f"{image} must be an image; got: {error}.") from error
    if isinstance(image, Image.Image):
        try:
            return from_pillow(image)
        except (
            Exception
        ) as error:  # a file that is decoded only now, by decoders that raise anything
            name = getattr(image, "filename", "") or f"images[{position}]"
            raise ValueError(f"{name} must be an image; got: {error}.") from error
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "an image must be a path, a PIL image or a numpy array of uint8; "
            f"got {type(image).__name__}."
        )
    check_image(image)
    return image


def check_image(image: np.ndarray) -> None:
    """Raise unless image is [H, W, 3] uint8 with at least one pixel.

    Raises:
      TypeError, ValueError: see `data.pixels.check_pixels`.
    """
    check_pixels(image, "H", "W", 3)


def check_captions(captions: Sequence[str], count: int) -> None:
    """Raise unless captions is a sequence of `count` strings.

    Raises:
      TypeError: one string or another kind instead of a sequence, or a member that is no string.
      ValueError: another number of captions.
    """
    if isinstance(captions, str):
        raise TypeError("captions must be a sequence of str; got one str. Put it in a list.")
    if not isinstance(captions, Sized):
        raise TypeError(
            f"captions must be a list of str, one for each image; got {type(captions).__name__}."
        )
    if len(captions) != count:
        raise ValueError(
            f"captions must hold one text for each of {count} images; got {len(captions)}."
        )
    for position, text in enumerate(captions):
        if not isinstance(text, str):
            raise TypeError(f"captions[{position}] must be a str; got {type(text).__name__}.")
