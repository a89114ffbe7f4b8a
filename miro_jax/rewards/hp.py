"""HP, "high preference": a CLIP-H and a head that judge how an image pleases, caption aside.

    score = sigmoid(w . u + b),   u = vision(image), not of length 1

The published head has five linear maps with nothing between them; they are folded into w and b.
`ict` of `clip_family` is its companion for the agreement with the caption.

Source: Ba et al. 2025 (arXiv 2507.19002), github.com/BarretBa/ICTHP.

Letters: B images, S side of the image in the network, E width of the feature.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from scipy.special import expit

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import clip
from miro_jax.rewards import base
from miro_jax.rewards.aesthetic import fold_linear
from miro_jax.rewards.card import UNKNOWN, Card, Licence
from miro_jax.rewards.clip_family import BASE, ICTHP_NOTE, SharedTowers, load_vision
from miro_jax.rewards.resize import BicubicCrop

HEAD = "hp_scorer/mlp_pytorch_model"
CARD = Card(
    name="hp",
    version="1",
    judges="preference, image alone",
    weights="8y/HP",
    stem="hp_backbone/pytorch_model",
    used=r"(vision_model|visual)\.",
    licences=(Licence("8y/HP", UNKNOWN, None, ICTHP_NOTE),),
    parameters=632.1e6,
    image_gflop=325.9,
    text=TextCost(),
    work_mb=12,
    uncut=0.05,
    scale="0 to 1",
    preprocessing="bicubic to 224, central square, offset rounded down",
    needs_caption=False,
    synthetic_form="long",
)


class HighPreference(base.CroppedJudge):
    """Judge how an image pleases.

    Args:
      weights: hub id, or a folder with `hp_backbone/pytorch_model.bin` and
        `hp_scorer/mlp_pytorch_model.bin`; sizes of its `config.json` or, without one, of CLIP-H.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the parameters and the batch; None is the first device.
      towers: finds a vision tower that is loaded already.
    """

    def __init__(
        self,
        weights: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        towers: SharedTowers | None = None,
    ):
        repository = CARD.repository(weights)
        self._vision = load_vision(
            weights or CARD.weights,
            CARD.stem,
            towers or SharedTowers(),
            base=BASE,
            dtype=dtype,
            mesh=mesh,
        )
        config = self._vision.config
        self._head = fold_linear(repository.tensors(HEAD), "layers", config.projection)
        # Features of another length than those that other rewards share.
        tower = f"{self._vision.name}-raw"
        super().__init__(CARD, BicubicCrop(config.image_size, "floor"), tower)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Encode prepared images [B, S, S, 3] uint8 into features [B, E] float32."""
        return self._vision.tower.run(_encode_images, prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features (see `encode`); captions do not matter."""
        base.check_captions(captions, len(features))
        weight, bias = self._head
        return expit(features.astype(np.float64) @ weight + bias).astype(np.float32)


def _encode_images(module: nnx.Module, images: jax.Array) -> jax.Array:
    return module(clip.normalize(images))
