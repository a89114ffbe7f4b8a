"""What the rewards made of a CLIP share: a score from the cosine of a picture and its caption.

    score = factor <u, v> / (|u| |v|),   u = vision(picture), v = text(caption)

The factor is exp(logit_scale) of the weights, or 1. Pictures are normalised on the device, features
are normed there, and the last product is made in float32.

Letters: B pictures, H W picture, E width of the shared space.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from miro_jax.pretrained.networks import clip, clip_keys, clip_text
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import base
from miro_jax.rewards.resize import BicubicCrop, FloatBicubicCrop

# Where the repository of the weights has no tokenizer; all CLIPs have the same vocabulary.
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


class SharedTowers:
    """Towers by what they were loaded from; rewards that are given the same one load them once."""

    def __init__(self):
        self._known: dict[Any, Tower] = {}

    def get(self, key: Any, load: Callable[[], Tower]) -> Tower:
        """Return the tower of a key; `load` it the first time."""
        if key not in self._known:
            self._known[key] = load()
        return self._known[key]


@dataclasses.dataclass(frozen=True)
class Vision:
    """A vision tower at work. name: with the digest of its weights. config: its sizes."""

    tower: Tower
    name: str
    config: clip.VisionConfig

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Read pictures, [B, S, S, 3] uint8 or float32 in [0, 1], into [B, E] of length 1."""
        return self.tower.run(_see, prepared)


@dataclasses.dataclass(frozen=True)
class Text:
    """A text tower at work, with its tokenizer. factor: exp(logit_scale)."""

    tower: Tower
    tokenizer: clip_text.CaptionTokenizer
    max_tokens: int
    factor: float

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Read B captions into [B, E] float32 of length 1; equal ones are read once."""
        distinct = list(dict.fromkeys(captions))
        features = self.tower.run(_read, self.tokenizer(distinct, self.max_tokens))
        places = {text: row for row, text in enumerate(distinct)}
        return features[[places[text] for text in captions]]


class ClipReward(base.Judge):
    """Score a picture by the cosine of its features and those of its caption.

    Args:
        name, version: of the reward.
        vision, text: its towers.
        crop: brings pictures to the size of the vision tower.
        factor: of the cosine.
        kept: of the score, in records.
    """

    needs_caption = True
    synthetic_form = "short"

    def __init__(
        self,
        name: str,
        version: str,
        vision: Vision,
        text: Text,
        crop: BicubicCrop | FloatBicubicCrop,
        factor: float,
        kept: float,
    ):
        self.name, self.version = name, version
        self.tower, self.preprocessing = vision.name, str(crop)
        self._vision, self._text, self._crop = vision, text, crop
        self._factor, self._kept = factor, kept

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop a picture [H, W, 3] uint8 to [S, S, 3]."""
        base.check_image(image)
        return self._crop(image)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Read prepared pictures [B, S, S, 3] into features [B, E] float32 of length 1."""
        return self._vision.encode(prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features (see `encode`), each with its caption."""
        base.check_captions(captions, len(features))
        cosines = np.einsum("be,be->b", features, self._text.encode(captions))
        return np.float32(self._factor) * cosines

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score on the scale that records keep."""
        return score * np.float32(self._kept)


def load_towers(
    weights: str,
    *,
    stem: str = "model",
    tokenizer: str | None = None,
    repairs: bool = False,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> tuple[Vision, Text]:
    """Load both towers of a CLIP.

    Args:
        weights: hub id, or a folder in the same layout.
        stem: name of the weight file without its ending.
        tokenizer: hub id or folder of its tokenizer; None takes `weights` where it has one, else
            that of laion's CLIP-H.
        repairs: whether captions are cleaned in OpenAI's way, see `networks.clip_text`.
        dtype: of parameters and matrix products, "float32" or "bfloat16".
        mesh: devices that share the parameters and the batch; None is the first device.
        towers: finds towers that are loaded already.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are no CLIP's, or the tokenizer has more tokens than they have.
    """
    repository = hub.open(weights)
    tensors = repository.tensors(stem)
    if tokenizer is None:
        own = any(repository.has(name) for name in TOKENIZER_FILES)
        tokenizer = weights if own else TOKENIZER
    read = clip_text.openai_tokenizer if repairs else clip_text.hugging_face_tokenizer
    found = read(hub.open(tokenizer))
    config = _sizes(repository, tensors)[1]
    if found.vocabulary > config.vocabulary:
        raise ValueError(
            f"tokenizer must have at most the {config.vocabulary} tokens of {weights}; "
            f"got {found.vocabulary} of {tokenizer}."
        )
    key = ("clip text", repository.digest(stem), dtype, mesh)
    tower = (towers or SharedTowers()).get(
        key, lambda: Tower(clip_keys.load_text(tensors, config, dtype=dtype, mesh=mesh))
    )
    text = Text(tower, found, config.max_tokens, clip_keys.logit_scale(tensors))
    return load_vision(weights, stem=stem, dtype=dtype, mesh=mesh, towers=towers), text


def load_vision(
    weights: str,
    *,
    stem: str = "model",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> Vision:
    """Load the vision tower of a CLIP; see `load_towers`."""
    repository = hub.open(weights)
    tensors = repository.tensors(stem)
    config = _sizes(repository, tensors)[0]
    digest = repository.digest(stem)
    tower = (towers or SharedTowers()).get(
        ("clip vision", digest, dtype, mesh),
        lambda: Tower(clip_keys.load_vision(tensors, config, dtype=dtype, mesh=mesh)),
    )
    return Vision(tower, f"clip-{digest[:12]}-{dtype}", config)


def _sizes(repository: hub.Repository, tensors) -> tuple[clip.VisionConfig, clip.TextConfig]:
    if clip_keys.is_open(tensors):
        return clip_keys.configs_of_shapes(tensors)
    config = repository.json("config.json")
    return clip_keys.vision_config(config), clip_keys.text_config(config)


def _see(module: clip.VisionTower, images: jax.Array) -> jax.Array:
    return clip.normed(module(clip.normalize(images)))


def _read(module: clip.TextTower, ids: jax.Array) -> jax.Array:
    return clip.normed(module(ids))
