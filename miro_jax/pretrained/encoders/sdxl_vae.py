"""Image encoder of the paper: the autoencoder of SDXL, 8 pixels a side for one of image latents.

Records hold the mean and standard deviation of the raw posterior; the network works on latents z
that each channel's own scale and shift bring to mean 0 and standard deviation 0.5,

    z = 0.5 / sigma (latent - mu).

The factor 0.13025 of SDXL is used nowhere.

Sources: Dufour et al. 2025 (arXiv 2510.25897); mu and sigma are the released configuration's. The
weights are stabilityai/sdxl-vae (MIT). The release turns decoded images into bytes by truncation,
half a grey level darker; here they are rounded.

Letters: B images, H W image, h w image latents.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.data.pixels import check_pixels
from miro_jax.data.sources.images import center_crop_resize
from miro_jax.pretrained.card import NetworkCard
from miro_jax.pretrained.encoders.pixels import Latents
from miro_jax.pretrained.networks import vae_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.convert import DTYPES

CARD_SIZE = 256  # pixels, side of the images that the numbers of the card are for
CARD = NetworkCard(
    name="sdxl_vae",
    weights="stabilityai/sdxl-vae",
    stem=vae_keys.STEM,
    used=r"(encoder\.|quant_conv\.)",
    parameters=34.2e6,
    image_gflop=272.7,
    work_mb=68,
    rows=8,
    uncut=None,
)
FACTOR, CHANNELS = 8, 4  # the statistics below are those of such image latents
MEANS = (-0.3480, 0.3754, 0.0419, 2.4331)  # mu
STDS = (7.8518, 5.8465, 6.8716, 5.3140)  # sigma
TARGET_STD = 0.5


class SdxlVaeEncoder:
    """Encode images by the encoder of SDXL's autoencoder; decode them by its decoder.

    Nothing is read before it is needed: encoding loads the encoder, decoding the decoder.

    Args:
      weights: hub id, or a folder in the same layout (config.json,
        diffusion_pytorch_model.safetensors); None is stabilityai/sdxl-vae.
      size: side of the images in pixels, a multiple of 8.
      dtype: of the encoder's parameters and convolutions, "float32" or "bfloat16". Convolutions of
        float32 have the device's precision: of bfloat16 on TPUs unless
        `jax_default_matmul_precision` is "highest".
      decoder_dtype: of the decoder's. float16 would overflow and is not offered.
      mesh: devices that share the images; each holds the parameters. None is the first device.
      batch_size: images that run through a network at a time, per device of the mesh axis
        `data`.

    Raises:
      ValueError: size is no positive multiple of 8, batch_size is below 1, or a dtype is unknown.
      FileNotFoundError: weights is neither a folder nor a hub id.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        size: int = 256,
        dtype: str = "float32",
        decoder_dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = 8,
    ):
        if size < FACTOR or size % FACTOR:
            raise ValueError(f"size must be a positive multiple of {FACTOR} pixels; got {size}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 image; got {batch_size}.")
        for name in (dtype, decoder_dtype):
            if name not in DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}.")
        self.repository = hub.open(CARD.weights if weights is None else weights)
        self.size, self.mesh, self.batch_size = size, mesh, batch_size
        self.dtype, self.decoder_dtype = dtype, decoder_dtype

    @functools.cached_property
    def identity(self) -> str:
        """Name, version and everything that changes the image latents; reads the weights."""
        return self._identity(self.repository.digest(vae_keys.STEM)[:12])

    @property
    def declared(self) -> str:
        """The identity as far as it is known without the weights, for `fnmatch`."""
        return self._identity("*")

    def _identity(self, digest: str) -> str:
        return f"sdxl_vae@1-{digest}-size{self.size}-{self.dtype}"

    def load(self) -> None:
        """Read what encoding needs, now.

        Raises:
          OSError: a file is missing. ValueError: it does not fit.
        """
        _ = self._encoding

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the image latents."""
        return (self.size // FACTOR, self.size // FACTOR, CHANNELS)

    def at_size(self, size: int) -> "SdxlVaeEncoder":
        """Return the encoder of images of another size, which shares the loaded weights."""
        options = (self.dtype, self.decoder_dtype, self.mesh, self.batch_size)
        other = SdxlVaeEncoder(self.repository.source, size, *options)
        vars(other).update(_encoding=self._encoding)  # a cached property
        return other

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Cut the largest central square and resize it as the release does, by Pillow's bilinear.

        Args:
          image: [H, W, 3] uint8.

        Returns:
          [size, size, 3] uint8.
        """
        return center_crop_resize(image, self.size, "bilinear")

    def encode(self, images: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Encode images.

        Args:
          images: [B, size, size, 3] uint8; or a list of [H, W, 3] uint8 of any sizes, which are
            prepared first.

        Returns:
          (mean, std) of the raw posterior, each [B, h, w, 4] float16.

        Raises:
          TypeError, ValueError: see `data.pixels.check_pixels`.
        """
        if isinstance(images, Sequence) and images:
            for image in images:
                check_pixels(image, "H", "W", 3)
            images = np.stack([self.prepare(image) for image in images])
        advice = "Give a list, and each is cropped and resized."
        check_pixels(images, "B", self.size, self.size, 3, advice=advice)
        if len(images) == 0:
            raise ValueError("images must be [B, H, W, 3] with B at least 1; got none.")
        parts = [self._encoding.run(_moments, images[rows]) for rows in self._slices(images)]
        mean, std = zip(*parts, strict=True)
        return np.concatenate(mean), np.concatenate(std)

    def normalize(self, latents: Latents) -> Latents:
        """Bring image latents [..., 4] to the model's scale, float32; numpy or jax arrays."""
        shift, scale = _statistics(latents)
        return (latents - shift) * (1 / scale)

    def denormalize(self, latents: Latents) -> Latents:
        """Undo `normalize`."""
        shift, scale = _statistics(latents)
        return latents * scale + shift

    def decode(self, latents: Latents) -> np.ndarray:
        """Decode raw image latents to images.

        Args:
          latents: [B, h, w, 4] float, not normalised; any sides.

        Returns:
          [B, 8 h, 8 w, 3] uint8.

        Raises:
          ValueError: latents has another shape.
        """
        if latents.ndim != 4 or latents.shape[-1] != CHANNELS or len(latents) == 0:
            raise ValueError(
                f"latents must have the shape [B, h, w, {CHANNELS}], B at least 1; got "
                f"{latents.shape}."
            )
        latents = np.asarray(latents, np.float32)
        parts = [self._decoding.run(_bytes, latents[rows]) for rows in self._slices(latents)]
        return np.concatenate(parts)

    def _slices(self, rows) -> list[slice]:
        data = 1 if self.mesh is None else self.mesh.shape["data"]
        step = self.batch_size * data
        return [slice(i, i + step) for i in range(0, len(rows), step)]

    @functools.cached_property
    def _encoding(self) -> Tower:
        return self._load("encoder", self.dtype)

    @functools.cached_property
    def _decoding(self) -> Tower:
        return self._load("decoder", self.decoder_dtype)

    def _load(self, part: str, dtype: str) -> Tower:
        config = self.repository.parsed("config.json", vae_keys.parse_config)
        if (config.factor, config.latent_channels) != (FACTOR, CHANNELS):
            raise ValueError(
                f"the autoencoder of {self.repository} must have {FACTOR} pixels a side for one of "
                f"image latents and {CHANNELS} channels; got {config.factor} and "
                f"{config.latent_channels}. Give the weights of an SDXL autoencoder."
            )
        return Tower(vae_keys.load_vae(self.repository, part, dtype=dtype, mesh=self.mesh))


def _moments(encoder, images):
    """Encode [B, H, W, 3] uint8 to mean and standard deviation, float16 as in records."""
    mean, log_variance = encoder(images.astype(jnp.float32) / 255 * 2 - 1)
    return mean.astype(jnp.float16), jnp.exp(log_variance / 2).astype(jnp.float16)


def _bytes(decoder, latents):
    """Decode raw image latents [B, h, w, 4] to [B, 8 h, 8 w, 3] uint8."""
    return jnp.round((decoder(latents) / 2 + 0.5).clip(0, 1) * 255).astype(jnp.uint8)


def _statistics(latents) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and sigma / 0.5, of the rank of the latents."""
    shape = (1,) * (latents.ndim - 1) + (CHANNELS,)
    if latents.shape[-1] != CHANNELS:
        raise ValueError(f"image latents must have {CHANNELS} channels; got {latents.shape}.")
    shift, scale = np.float32(MEANS), np.float32(STDS) / np.float32(TARGET_STD)
    return shift.reshape(shape), scale.reshape(shape)
