"""How large the published models are, and what a picture costs them.

Parameters are counted in the headers of weights that are on this machine; of others the published
number is told. The cost is that of one forward pass, two floating-point operations a
multiply-add, counted on the published sizes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from miro_jax.networks import vae_files
from miro_jax.rewards import VERSIONS
from miro_jax.weights import hub

_BYTES = {"float32": 4, "bfloat16": 2, None: 4}
_DEFAULTS = {"vqa": "vqa@clip-flant5-xxl", "hpsv2": "hpsv2@2.1"}


@dataclasses.dataclass(frozen=True)
class Published:
    """A published model.

    parameters: as published. image, text: GFLOP of a picture, and of a caption of common length.
    activations: MB that a picture takes at most while it runs, in bfloat16, by rough count.
    rows: pictures in one run on a device; None is as many as there are. stem: of its weight file.
    used: regular expression of the tensors that annotation needs.
    """

    parameters: float
    image: float
    text: float
    activations: float
    rows: int | None = None
    stem: str = "model"
    used: str = ""


_CLIP_H = Published(986.1e6, 334.6, 47.1, 10)
MODELS = {
    "clip": Published(865.3e6, 950, 100, 130),
    "aesthetic": Published(304.1e6, 162, 0, 9, used=r"(vision_model|visual)\."),
    "pick_score": _CLIP_H,
    "sci_score": _CLIP_H,
    "hpsv2@2.1": dataclasses.replace(_CLIP_H, stem="HPS_v2.1_compressed"),
    "hpsv2@2.0": dataclasses.replace(_CLIP_H, stem="HPS_v2_compressed"),
    "openai_clip": Published(427.6e6, 162, 13.3, 9),
    "image_reward": Published(446.2e6, 123.1, 14.7, 8, stem="ImageReward"),
    "vqa@clip-flant5-xl": Published(3.16e9, 389, 1826, 230, rows=16),
    "vqa@clip-flant5-xxl": Published(11.46e9, 406, 7142, 460, rows=16),
    "sdxl_vae": Published(
        34.2e6, 273, 0, 67, rows=8, stem=vae_files.STEM, used=r"(encoder\.|quant_conv\.)"
    ),
    "flan_t5": Published(1223.5e6, 0, 300, 18, rows=64, used=r"(encoder\.|shared\.)"),
}
KNOWN = {name.partition("@")[0] for name in MODELS} | set(MODELS)
_VAE_SIDE = 256  # pixels, that the numbers of the autoencoder are for


@dataclasses.dataclass(frozen=True)
class Size:
    """A model as it will be used. parameters: number. counted: in its files, not just published.

    parameter_bytes: of all devices together. activation_bytes: on each device. gflop: of a record.
    """

    name: str
    parameters: float
    counted: bool
    parameter_bytes: float
    activation_bytes: float
    gflop: float


def size_of_reward(
    name: str, place: str | None, dtype: str | None, rows: int, captions: float
) -> Size | None:
    """Return the size of a published reward, None for any other.

    Args:
        name: as it was asked for. place: of its weights, None for the published ones.
        dtype: of its network. rows: pictures on a device at a time. captions: a record has.
    """
    if name.partition("@")[0] not in KNOWN:
        return None
    known = name if name in VERSIONS else _DEFAULTS.get(name, name)
    return _size(name, MODELS[known], place, dtype, rows, captions)


def size_of_encoder(
    arguments: Mapping[str, Any], rows: int, captions: float, side: int | None = None
) -> Size | None:
    """Return the size of an encoder given as for its builder, None for one without a network.

    Args:
        side: pixels, of an image encoder.
    """
    if arguments["name"] not in MODELS:
        return None
    model = MODELS[arguments["name"]]
    if side is not None:
        more = (side / _VAE_SIDE) ** 2
        model = dataclasses.replace(
            model, image=model.image * more, activations=model.activations * more
        )
    dtype = arguments.get("dtype", "float32")
    return _size(arguments["name"], model, arguments.get("weights"), dtype, rows, captions)


def _size(name, model, place, dtype, rows, captions) -> Size:
    count = None if place is None else count_parameters(place, model.stem, model.used)
    number, wide = model.parameters if count is None else count, _BYTES[dtype]
    # What was counted is small where the model is.
    share = min(1.0, number / model.parameters)
    rows = min(rows, model.rows or rows)
    return Size(
        name,
        number,
        count is not None,
        number * wide,
        model.activations * 1e6 * rows * wide / 2 * share,
        (model.image + model.text * captions) * share,
    )


def count_parameters(place: str, stem: str, used: str) -> int | None:
    """Count the numbers of the tensors that are used; None where the weights are not a folder.

    Raises:
        FileNotFoundError, ValueError: the folder has no such weights, or they are damaged.
    """
    repository = hub.open(place)
    if not repository.is_local:
        return None
    tensors = repository.tensors(stem)
    return sum(math.prod(t.shape) for key, t in tensors.items() if re.match(used, key))
