"""PickScore, HPSv2, SciScore, ICT and OpenAI's CLIP score: cosines of the two towers of a CLIP.

    score = factor <u, v> / (|u| |v|),   u = vision(image), v = text(caption)

The factor is exp(logit_scale) of the weights; HPSv2 and ICT have 1. Images are normalised on the
device, the features are normed there, and the last product is float32.

    pick_score   CLIP-H, which of two images people picked     Kirstain et al. 2023, 2305.01569
    hpsv2        CLIP-H, which of several people preferred     Wu et al. 2023, 2306.09341
    sci_score    CLIP-H, images that obey the laws of nature   Li et al. 2025, 2504.13129
    ict          CLIP-H, images that contain their caption     Ba et al. 2025, 2507.19002
    openai_clip  CLIP-L, which MIRO's evaluation reports       Radford et al. 2021, 2103.00020

HPSv2 has two versions, 2.1 of MIRO's annotation and 2.0 of its evaluation, whose scores spread
differently. MIRO resizes its images as floats and crops them; the authors' own `hpsv2.score` pads
to a square, which differs for images that are not square.

Letters: B images, H W image, S its side in the network, E width of the shared space.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import numpy as np
from flax import nnx

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import clip, clip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.convert import Placing
from miro_jax.pretrained.weights.tokenizer import (
    CaptionTokenizer,
    check_vocabulary,
    hugging_face_tokenizer,
    once_each,
    openai_tokenizer,
    vocabulary,
)
from miro_jax.rewards import base
from miro_jax.rewards.card import UNKNOWN, Card, Licence
from miro_jax.rewards.resize import BicubicCrop, FloatBicubicCrop

# Used if the repository of the weights has no tokenizer; all CLIPs have the same vocabulary.
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
BASE = TOKENIZER  # whose sizes weights have that come without a config
OPEN_CLIP_CONFIG = "open_clip_config.json"  # beside some weights in OpenAI's layout
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
CLIP_L = "openai/clip-vit-large-patch14"
CLIP_L_LICENCE = Licence(
    CLIP_L,
    UNKNOWN,
    None,
    "the code is MIT, the weights state no licence, and their model card calls deployed use out of "
    "scope",
)


def _card(name: str, judges: str, licence: Licence, **fields: Any) -> Card:
    """Make a card: CLIP-H with Hugging Face's preprocessing unless the fields differ."""
    usual = {
        "version": "1",
        "parameters": 986.1e6,
        "image_gflop": 325.9,
        "text": TextCost(45.5),
        "work_mb": 12,
        "uncut": 0.05,
        "scale": "exp(logit scale) x cosine",
        "stored_divisor": 100,
        "preprocessing": "bicubic to 224, central square, offset rounded down",
    }
    about = {"name": name, "judges": judges, "weights": licence.weights, "licences": (licence,)}
    return Card(**about | usual | fields)


_PICK_NOTE = "the hub states no licence; the code is said to be MIT"
_HPSV2 = Licence("xswu/HPSv2", "Apache-2.0", True, "model card")
ICTHP_NOTE = "the model card could not be read where this was written; the code is MIT"
_FLOATS = {
    "scale": "cosine",
    "stored_divisor": 1,
    "preprocessing": "bicubic of floats to 224, central square",
}
CARDS = (
    _card(
        "pick_score",
        "preference",
        Licence("yuvalkirstain/PickScore_v1", UNKNOWN, None, _PICK_NOTE),
        scale="about 17 to 24",
    ),
    _card("hpsv2", "preference", _HPSV2, version="2.1", stem="HPS_v2.1_compressed", **_FLOATS),
    _card(
        "hpsv2",
        "preference, older and narrower",
        _HPSV2,
        version="2.0",
        stem="HPS_v2_compressed",
        **_FLOATS,
    ),
    _card(
        "sci_score",
        "laws of nature",
        Licence("Jialuo21/SciScore", "Apache-2.0", True, "model card"),
    ),
    _card(
        "ict",
        "agreement; details cost nothing",
        Licence("8y/ICT", UNKNOWN, None, ICTHP_NOTE),
        scale="cosine",
        stored_divisor=1,
    ),
    _card(
        "openai_clip",
        "agreement; evaluation only",
        CLIP_L_LICENCE,
        parameters=427.6e6,
        image_gflop=156.4,
        text=TextCost(12.4),
        work_mb=10,
        uncut=0.09,
    ),
)


class SharedTowers:
    """Towers by what they were loaded from; rewards that are given the same one load them once."""

    def __init__(self):
        self._loaded: dict[Any, Tower] = {}

    def get(self, key: Any, load: Callable[[], Tower]) -> Tower:
        """Return the tower of a key; `load` it the first time."""
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]


@dataclasses.dataclass(frozen=True)
class Vision:
    """An image tower. name: with the digest of its weights. config: its sizes, of its network."""

    tower: Tower
    name: str
    config: Any

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Encode images, [B, S, S, 3] uint8 or float32 in [0, 1], into [B, E] of length 1."""
        return self.tower.run(_encode_images, prepared)


@dataclasses.dataclass(frozen=True)
class Text:
    """The text tower of a CLIP, with its tokenizer. factor: exp(logit_scale)."""

    tower: Tower
    tokenizer: CaptionTokenizer
    max_tokens: int
    factor: float

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Encode B captions into [B, E] float32 of length 1; equal captions are encoded once."""
        return np.stack(once_each(self._encode, captions))

    def _encode(self, captions: list[str]) -> np.ndarray:
        return self.tower.run(encode_ids, self.tokenizer(captions, self.max_tokens))


class ClipReward(base.CroppedJudge):
    """Score an image by the cosine of its features and those of its caption.

    Args:
      card: of the reward. vision, text: its towers; the text one has `encode(captions)`.
      crop: brings images to the size of the vision tower.
      factor: of the cosine.
    """

    def __init__(
        self,
        card: Card,
        vision: Vision,
        text: Any,
        crop: BicubicCrop | FloatBicubicCrop,
        factor: float,
    ):
        super().__init__(card, crop, vision.name)
        self._vision, self._text, self._factor = vision, text, factor

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Encode prepared images [B, S, S, 3] into features [B, E] float32 of length 1."""
        return self._vision.encode(prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features (see `encode`), each with its caption."""
        base.check_captions(captions, len(features))
        cosines = np.einsum("be,be->b", features, self._text.encode(captions))
        return np.float32(self._factor) * cosines

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return score / divisor, made as the product that earlier records hold."""
        return score * np.float32(1 / self.card.stored_divisor)


def load(
    name: str,
    weights: str | None = None,
    version: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> ClipReward:
    """Load a reward of the family.

    Args:
      name: of one of CARDS.
      weights: hub id, or a folder in the same layout; None is the published one.
      version: None is the first of the name.
      tokenizer: hub id or folder of its tokenizer; None takes `weights` if it has one, else that of
        laion's CLIP-H.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the parameters and the batch; None is the first device.
      towers: finds towers that are loaded already.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the version is unknown, the weights are no CLIP's, or the tokenizer has more
        tokens than they have.
    """
    cards = {card.version: card for card in CARDS if card.name == name}
    if version is not None and version not in cards:
        raise ValueError(f"version must be one of {', '.join(cards)}; got {version!r}.")
    card = cards[version or next(iter(cards))]
    weights = card.weights if weights is None else weights
    # HPSv2 follows OpenAI's own code: it cleans captions and resizes floats. ICT cleans captions.
    floats, repairs = name == "hpsv2", name in ("hpsv2", "ict")
    config = BASE if name == "ict" else None
    towers = towers or SharedTowers()
    placing: Placing = {"dtype": dtype, "mesh": mesh}
    text = load_text(weights, card.stem, towers, tokenizer, repairs, config, **placing)
    vision = load_vision(weights, card.stem, towers, config, **placing)
    size = vision.config.image_size
    crop = FloatBicubicCrop(size) if floats else BicubicCrop(size, "floor")
    return ClipReward(card, vision, text, crop, factor=1.0 if repairs else text.factor)


def load_text(
    weights: str,
    stem: str,
    towers: SharedTowers,
    tokenizer: str | None,
    repairs: bool,
    base: str | None = None,
    **placing: Unpack[Placing],
) -> Text:
    """Load the text tower of a CLIP; see `load`.

    Args:
      repairs: clean captions as OpenAI does.
      base: hub id or folder whose config.json counts where the weights have none.
    """
    repository = hub.open(weights)
    tensors = repository.tensors(stem)
    if tokenizer is None:
        own = any(repository.has(name) for name in TOKENIZER_FILES)
        tokenizer = weights if own else TOKENIZER
    read = openai_tokenizer if repairs else hugging_face_tokenizer
    encode = read(hub.open(tokenizer))
    config = _configs(repository, tensors, base)[1]
    check_vocabulary(vocabulary(encode.tokenizer), config.vocabulary, tokenizer)
    tower = towers.get(
        ("clip text", repository.digest(stem), *placing.values()),
        lambda: Tower(clip_keys.load_text(tensors, config, **placing)),
    )
    return Text(tower, encode, config.max_tokens, clip_keys.logit_scale(tensors))


def load_vision(
    weights: str,
    stem: str,
    towers: SharedTowers,
    base: str | None = None,
    **placing: Unpack[Placing],
) -> Vision:
    """Load the vision tower of a CLIP; see `load_text`."""
    repository = hub.open(weights)
    tensors = repository.tensors(stem)
    config = _configs(repository, tensors, base)[0]
    digest = repository.digest(stem)
    tower = towers.get(
        ("clip vision", digest, *placing.values()),
        lambda: Tower(clip_keys.load_vision(tensors, config, **placing)),
    )
    return Vision(tower, f"clip-{digest[:12]}-{placing.get('dtype')}", config)


def _configs(
    repository: hub.Repository, tensors, base: str | None
) -> tuple[clip.VisionConfig, clip.TextConfig]:
    if clip_keys.is_open(tensors):
        if not repository.has(OPEN_CLIP_CONFIG):
            return clip_keys.configs_of_shapes(tensors)
        return repository.parsed(
            OPEN_CLIP_CONFIG, lambda own: clip_keys.configs_of_open_clip(own, tensors)
        )
    if base is not None and not repository.has("config.json"):
        repository = hub.open(base)
    return repository.parsed("config.json", clip_keys.configs)


def _encode_images(module: nnx.Module, images: jax.Array) -> jax.Array:
    return clip.normed(module(clip.normalize(images)))


def encode_ids(module: nnx.Module, ids: jax.Array) -> jax.Array:
    """Run a text tower; features of length 1."""
    return clip.normed(module(ids))
