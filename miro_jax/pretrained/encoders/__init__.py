"""Encoders by name: of images into image latents, of captions into tokens."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from miro_jax.pretrained.encoders import flan_t5, pixels, sdxl_vae, words

ImageEncoder = pixels.PixelsEncoder | sdxl_vae.SdxlVaeEncoder
CaptionEncoder = words.WordsEncoder | flan_t5.FlanT5Encoder

IMAGE_ENCODERS: dict[str, Callable[..., ImageEncoder]] = {
    "pixels": pixels.PixelsEncoder,
    "sdxl_vae": sdxl_vae.SdxlVaeEncoder,
}
CAPTION_ENCODERS: dict[str, Callable[..., CaptionEncoder]] = {
    "words": words.WordsEncoder,
    "flan_t5": flan_t5.FlanT5Encoder,
}

# Encoders with published weights: their builders take `weights`, `dtype` and `mesh`.
PUBLISHED = ("sdxl_vae", "flan_t5")


def build_image_encoder(name: str, **arguments) -> ImageEncoder:
    """Build an image encoder: a key of IMAGE_ENCODERS and what its builder takes."""
    return _build(IMAGE_ENCODERS, "image encoder", name, arguments)


def build_caption_encoder(name: str, **arguments) -> CaptionEncoder:
    """Build a caption encoder: a key of CAPTION_ENCODERS and what its builder takes."""
    return _build(CAPTION_ENCODERS, "caption encoder", name, arguments)


def _build(
    table: Mapping[str, Callable[..., Any]], kind: str, name: str, arguments: dict[str, Any]
) -> Any:
    if name not in table:
        raise ValueError(f"{kind} must be one of {', '.join(table)}; got {name!r}.")
    build = table[name]
    known = inspect.signature(build).parameters
    if unknown := [key for key in arguments if key not in known]:
        raise TypeError(
            f"{kind} {name} takes {', '.join(known)}; got {', '.join(map(repr, unknown))}."
        )
    types = typing.get_type_hints(build.__init__)
    for key, value in arguments.items():
        if not isinstance(value, types[key]):
            wanted = getattr(types[key], "__name__", str(types[key]))
            raise TypeError(f"{kind} {name}: {key} must be of type {wanted}; got {value!r}.")
    return build(**arguments)
