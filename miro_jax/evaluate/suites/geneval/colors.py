"""The colour of a detected object: CLIP L/14 on its cut-out, against ten sentences.

    cut-out   where the mask is false the image becomes #999999; then it is cropped to the box
    image     bicubic to 224, the central square: a long thin object loses its ends
    text      for each colour c of the class X: "a photo of a c X", "a photo of a c-colored X",
              "a photo of a c object"; features of length 1, their mean, of length 1 again
    logits    100 cosine, of red, orange, yellow, green, blue, purple, pink, brown, black, white

OpenAI trained CLIP with "quick" GELU. The benchmark's own environment has it, but open_clip from
2.29 on loads the same weights with the exact one and says so in a warning only; colours then come
from another network. Weights whose config says other than quick GELU are refused here.

Source: Ghosh et al. 2023 (arXiv 2310.11513) and the benchmark's code; Radford et al. 2021.

Letters: N objects, H W image, E width of CLIP's space.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from miro_jax.evaluate.suites.geneval.prompts import COLORS
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import clip_family
from miro_jax.rewards.resize import BicubicCrop

BACKGROUND = 153  # of all channels: #999999
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}",
             "a photo of a {color} object")  # fmt: skip
SCALE = np.float32(100)
ACTIVATION = "quick_gelu"
STEM = "model"


def sentences(name: str) -> list[str]:
    """Return the 30 sentences of a class, colour by colour."""
    return [text.format(color=color, name=name) for color in COLORS for text in TEMPLATES]


def cut_out(image: np.ndarray, mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return an object alone.

    Args:
      image: [H, W, 3] uint8. mask: [H, W] bool.
      box: [4], x0, y0, x1, y1, whole numbers, the maxima exclusive.

    Returns:
      [y1 - y0, x1 - x0, 3] uint8.
    """
    x0, y0, x1, y1 = (int(side) for side in box)
    part, own = image[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    return np.where(own[..., None], part, np.uint8(BACKGROUND))


class Classifier:
    """Gives the logits of the ten colours.

    Args:
      vision, text: towers of CLIP L/14. digest: of its weights.

    Attributes:
      identity: what its logits depend on.
    """

    def __init__(self, vision: clip_family.Vision, text: clip_family.Text, digest: str):
        self._vision, self._text = vision, text
        self._crop = BicubicCrop(vision.config.image_size, "round")  # as torchvision
        self._of_class = functools.cache(self._encode_class)
        self.identity: dict[str, Any] = {
            "name": "openai-clip-l14",
            "weights_sha256": digest,
            "activation": ACTIVATION,
            "input": str(self._crop),
            "precision": "float32",
        }

    def logits(self, cut_outs: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """Return the logits [N, 10] float32 of cut-outs, each of the class of its name."""
        if not cut_outs:
            return np.zeros((0, len(COLORS)), np.float32)
        with jax.default_matmul_precision("highest"):
            features = self._vision.encode(np.stack([self._crop(one) for one in cut_outs]))
        classes = np.stack([self._of_class(name) for name in names])  # [N, 10, E]
        return SCALE * np.einsum("ne,nce->nc", features, classes)

    def _encode_class(self, name: str) -> np.ndarray:
        """Return the features [10, E] of a class's colours, of length 1."""
        with jax.default_matmul_precision("highest"):
            features = self._text.encode(sentences(name))
        mean = features.reshape(len(COLORS), len(TEMPLATES), -1).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def load(weights: str | None = None, tokenizer: str | None = None) -> Classifier:
    """Load CLIP L/14.

    Args:
      weights: hub id or folder; None is OpenAI's. tokenizer: hub id or folder; None is that of the
        weights or a known one.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the weights are no CLIP's, or not of the activation that OpenAI trained with.
    """
    weights = weights or clip_family.CLIP_L
    towers = clip_family.SharedTowers()
    # open_clip's tokenizer cleans its text as OpenAI's does.
    text = clip_family.load_text(weights, STEM, towers, tokenizer, repairs=True, dtype="float32")
    vision = clip_family.load_vision(weights, STEM, towers, dtype="float32")
    module = nnx.merge(text.tower.graphdef, text.tower.state)
    for name, config in (("vision", vision.config), ("text", module.config)):
        if config.activation != ACTIVATION:
            raise ValueError(
                f"colours need OpenAI's CLIP with the activation {ACTIVATION}; the {name} tower of "
                f"{weights} has {config.activation}. Give {clip_family.CLIP_L} with its "
                "config.json."
            )
    return Classifier(vision, text, hub.open(weights).digest(STEM))
