"""Image encoder of the shapes world: the pixels themselves, in place of a VAE.

It has the interface of a VAE's encoder: mean and standard deviation of the image latents, which are
stored in records, and `normalize`, which brings them to the scale that the model works on. Here
both are trivial.
"""

import jax
import numpy as np

from miro_jax.data.pixels import check_pixels
from miro_jax.data.sources.images import center_crop_resize

Latents = np.ndarray | jax.Array
_HALF_RANGE = 127.5


class PixelsEncoder:
    """Use pixels as image latents.

    Args:
      size: side of the images.

    Raises:
      ValueError: size is below 1.
    """

    def __init__(self, size: int = 32):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a whole number of pixels, at least 1; got {size!r}.")
        self.size = size

    @property
    def identity(self) -> str:
        """Name, version and everything that changes the image latents."""
        return f"pixels@1-size{self.size}"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the image latents."""
        return (self.size, self.size, 3)

    def at_size(self, size: int) -> "PixelsEncoder":
        """Return the encoder of images of another size."""
        return PixelsEncoder(size)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Cut the largest central square of an image and resize it.

        Args:
          image: [H, W, 3] uint8.

        Returns:
          [size, size, 3] uint8.
        """
        return center_crop_resize(image, self.size)

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode images.

        Args:
          images: [B, size, size, 3] uint8.

        Returns:
          (mean, std), each [B, size, size, 3] float16; the mean is in [-1, 1], std is 0.

        Raises:
          TypeError, ValueError: see `data.pixels.check_pixels`.
        """
        check_pixels(images, "B", *self.latent_shape, advice="Crop and resize them first.")
        mean = (images.astype(np.float32) / _HALF_RANGE - 1).astype(np.float16)
        return mean, np.zeros_like(mean)

    def normalize(self, latents: Latents) -> Latents:
        """Return image latents on the model's scale, as they are; numpy or jax arrays."""
        return latents

    def denormalize(self, latents: Latents) -> Latents:
        """Undo `normalize`."""
        return latents

    def decode(self, latents: Latents) -> Latents:
        """Decode image latents to images, on numpy or jax arrays, inside jit or not.

        Args:
          latents: [B, size, size, 3] float in [-1, 1]; values outside are clipped.

        Returns:
          [B, size, size, 3] uint8.
        """
        return ((latents.clip(-1, 1) + 1) * _HALF_RANGE).round().astype(np.uint8)
