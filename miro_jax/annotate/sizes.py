"""How large the published models are, and what a picture costs them.

Parameters are counted in the headers of weights that are on this machine; of others the published
number is told. Costs are those of a forward pass, two floating-point operations a multiply-add,
counted in the programs at the published sizes. Memory at work is what XLA sets aside for them, the
larger of an H100's and a TPU's programs; where devices share parameters it depends on how early XLA
gathers them, so that is a bound and not a promise.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from miro_jax.pretrained.encoders import flan_t5, sdxl_vae
from miro_jax.pretrained.networks import t5_keys, vae_keys
from miro_jax.pretrained.networks.tower import padded_rows
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    VERSIONS,
    aesthetic,
    clip,
    hpsv2,
    image_reward,
    openai_clip,
    pick_score,
    sci_score,
    vqa,
)

_BYTES = {"float32": 4, "bfloat16": 2, None: 4}
_DEFAULTS = {"vqa": "vqa@clip-flant5-xxl", "hpsv2": "hpsv2@2.1"}
TOKENS_PER_WORD = 1.35  # of T5, about
# Of the parameters that devices along `data` share, the most that was seen gathered at a time.
_GATHERED = 0.5
_FLOAT32_WORK = 1.3  # times that of bfloat16: much of it is float32 there, too


@dataclasses.dataclass(frozen=True)
class Text:
    """What a caption costs: GFLOP in all, and for each token of the length it is padded to.

    step: lengths are multiples of it; None: powers of two.
    """

    fixed: float = 0
    per_token: float = 0
    step: int | None = None

    def gflop(self, words: float) -> float:
        """Return the cost of a caption of so many words."""
        tokens = max(words * TOKENS_PER_WORD + 1, 1)
        if self.step is None:
            return self.fixed + self.per_token * max(16, 2 ** math.ceil(math.log2(tokens)))
        return self.fixed + self.per_token * self.step * math.ceil(tokens / self.step)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published model.

    source: hub id of its weights. parameters: that are kept on devices. image: GFLOP of a picture.
    text: of a caption. work: MB that a row takes at most while it runs, in bfloat16. rows: of a run
    on a device; None is as many as there are. read: MB of a picture while all are read, where that
    is a run of its own. kept: MB of a picture that stays on the devices. uncut: share of the
    parameters that the mesh axis `model` does not cut; None: no axis cuts any. stem: of the weight
    file. used: regular expression of the tensors that annotation needs.
    """

    source: str
    parameters: float
    image: float
    text: Text
    work: float
    rows: int | None = None
    read: float = 0
    kept: float = 0
    uncut: float | None = 0
    stem: str = "model"
    used: str = ""


_CLIP_H = Published(pick_score.WEIGHTS, 986.1e6, 325.9, Text(45.5), 12, uncut=0.05)
_CLIP_L = Published(openai_clip.WEIGHTS, 427.6e6, 156.4, Text(12.4), 10, uncut=0.09)
_T5_STEP, _VISION = vqa.STEP, {"rows": vqa.ROWS, "read": 38, "kept": 1.18}
MODELS = {
    "clip": Published(clip.WEIGHTS, 862.7e6, 950.2, Text(per_token=0.61), 176, uncut=0.53),
    "aesthetic": dataclasses.replace(
        _CLIP_L,
        source=aesthetic.WEIGHTS,
        parameters=304.0e6,
        text=Text(),
        uncut=0,
        used=r"(vision_model|visual)\.",
    ),
    "pick_score": _CLIP_H,
    "sci_score": dataclasses.replace(_CLIP_H, source=sci_score.WEIGHTS),
    "hpsv2@2.1": dataclasses.replace(_CLIP_H, source=hpsv2.WEIGHTS, stem=hpsv2.FILES["2.1"]),
    "hpsv2@2.0": dataclasses.replace(_CLIP_H, source=hpsv2.WEIGHTS, stem=hpsv2.FILES["2.0"]),
    "openai_clip": _CLIP_L,
    "image_reward": Published(
        image_reward.WEIGHTS,
        445.3e6,
        123.1,
        Text(14.7),
        9,
        kept=0.4,
        uncut=0.06,
        stem=image_reward.FILE,
    ),
    "vqa@clip-flant5-xl": Published(
        vqa.WEIGHTS.format("xl"),
        3.147e9,
        366,
        Text(1739, 3.0, _T5_STEP),
        196,
        **_VISION,
        uncut=0.04,
    ),
    "vqa@clip-flant5-xxl": Published(
        vqa.WEIGHTS.format("xxl"),
        11.447e9,
        366,
        Text(6811, 11.4, _T5_STEP),
        398,
        **_VISION,
        uncut=0.02,
    ),
    "sdxl_vae": Published(
        sdxl_vae.WEIGHTS,
        34.2e6,
        272.7,
        Text(),
        68,
        rows=8,
        uncut=None,
        stem=vae_keys.STEM,
        used=r"(encoder\.|quant_conv\.)",
    ),
    "flan_t5": Published(
        flan_t5.WEIGHTS,
        1223.5e6,
        0,
        Text(per_token=2.33),
        31,
        rows=flan_t5.ROWS,
        uncut=0.05,
        used=r"(encoder\.|shared\.)",
    ),
}
KNOWN = {name.partition("@")[0] for name in MODELS} | set(MODELS)
_VAE_SIDE = 256  # pixels, that the numbers of the autoencoder are for
_VAE = "sdxl_vae"


@dataclasses.dataclass(frozen=True)
class Work:
    """What a worker is given. batch: pictures at a time. data, model: devices along the axes.

    captions: of a record, each with its words and the share of records that have it.
    """

    batch: int
    data: int
    model: int
    captions: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Size:
    """A model as it will be used. parameters: number. counted: in its files, not just published.

    fetch: hub id that its weights must be fetched from first, None where they are here.
    resident: bytes of parameters on each device. work: bytes more on each while it runs.
    gflop: of a record.
    """

    name: str
    parameters: float
    counted: bool
    fetch: str | None
    resident: float
    work: float
    gflop: float


def find(name: str) -> Published | None:
    """Return a published model by the name it was asked for; None for any other."""
    if name.partition("@")[0] not in KNOWN:
        return None
    return MODELS[name if name in VERSIONS else _DEFAULTS.get(name, name)]


def size_of_reward(name: str, place: str | None, dtype: str | None, given: Work) -> Size | None:
    """Return the size of a published reward, None for any other.

    Args:
        name: as it was asked for. place: of its weights, None for the published ones.
        dtype: of its network.
    """
    model = find(name)
    return None if model is None else _size(name, model, place, dtype, given)


def size_of_encoder(
    arguments: Mapping[str, Any], given: Work, side: int | None = None
) -> Size | None:
    """Return the size of an encoder given as for its builder, None for one without a network.

    Args:
        side: pixels, of an image encoder.
    """
    name = arguments["name"]
    if name not in MODELS:
        return None
    model = MODELS[name]
    if side is not None:
        more = (side / _VAE_SIDE) ** 2
        rows = arguments.get("batch_size", model.rows)
        model = dataclasses.replace(model, image=model.image * more, work=model.work * more)
        model = dataclasses.replace(model, rows=rows)
    return _size(name, model, arguments.get("weights"), arguments.get("dtype"), given)


def _size(name: str, model: Published, place: str | None, dtype: str | None, given: Work) -> Size:
    count = None if place is None else count_parameters(place, model.stem, model.used)
    number = model.parameters if count is None else count
    share = number / model.parameters  # what was counted costs little where the model is small
    size, batch = number * _BYTES[dtype], padded_rows(given.batch, given.data) // given.data
    wide = 1.0 if dtype == "bfloat16" else 2.0 if name == _VAE else _FLOAT32_WORK
    running = max(model.work * min(batch, model.rows or batch), model.read * batch)
    work = (running * wide + model.kept * batch * _BYTES[dtype] / 2) * 1e6 * share
    resident = size
    if model.uncut is not None:
        cut = model.uncut + (1 - model.uncut) / given.model
        resident, work = size * cut / given.data, work * (1 + 1 / given.model) / 2
        work += _GATHERED * size * cut if given.data > 1 else 0
    gflop = model.image + sum(part * model.text.gflop(words) for words, part in given.captions)
    repository = hub.open(place or model.source)
    fetch = None if repository.is_here(model.stem) else str(repository)
    return Size(name, number, count is not None, fetch, resident, work, gflop * share)


def count_parameters(place: str, stem: str, used: str) -> int | None:
    """Count the numbers of the tensors that are used; None where the weights are not a folder.

    Raises:
        FileNotFoundError, ValueError: the folder has no such weights, or they are damaged.
    """
    repository = hub.open(place)
    if not repository.is_local:
        return None
    tensors = repository.tensors(stem)
    copies = t5_keys.ALIASES if "shared.weight" in tensors else ()
    return sum(
        math.prod(tensor.shape)
        for key, tensor in tensors.items()
        if re.match(used, key) and key not in copies
    )


def check_folder(name: str, place: str) -> None:
    """Raise ValueError where a folder that is given for a model holds no weights of it.

    Raises:
        FileNotFoundError: the place is neither a folder nor a hub id.
    """
    model, repository = find(name), hub.open(place)
    if model is None or not repository.is_local:
        return
    try:
        repository.weights(model.stem)
    except FileNotFoundError as error:
        raise ValueError(f"The folder given for {name} must hold its weights: {error}") from error


def require_weights(name: str, place: str | None) -> None:
    """Raise OSError where the weights of a published model are not to be had; see `weights.hub`.

    Those of the hub are fetched: the file itself, or the list of the files that they are in.
    """
    model = find(name)
    if model is not None:
        hub.open(place or model.source).weights(model.stem)
