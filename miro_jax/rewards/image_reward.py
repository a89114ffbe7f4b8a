"""ImageReward v1.0: a BLIP that was trained on what people preferred, and a linear head.

    reward = (w . h + b - MEAN) / STD,   h = the text's first token after it attended to the image

Its head of five linear maps has nothing between them, so they are folded into the one of w and b.
A caption is cut at 35 tokens. Rewards are about normal over its training images; stored as
(reward + 2) / 4.

Source: Xu et al. 2023 (arXiv 2304.05977).

Letters: B images.
"""

from collections.abc import Sequence

import jax
import numpy as np

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks.tower import OnDevice
from miro_jax.rewards.aesthetic import fold_linear
from miro_jax.rewards.blip_reward import BlipReward
from miro_jax.rewards.card import Card, Licence

MAX_TOKENS = 35
# Of the rewards of the training set, as published with the weights.
MEAN = 0.16717362830052426
STD = 1.0333394966054072
CARD = Card(
    name="image_reward",
    version="1.0",
    judges="preference",
    weights="THUDM/ImageReward",
    stem="ImageReward",
    licences=(Licence("THUDM/ImageReward", "Apache-2.0", True, "model card"),),
    parameters=445.3e6,
    image_gflop=123.1,
    text=TextCost(14.7),
    work_mb=9,
    feature_mb=0.4,
    uncut=0.06,
    scale="mean 0, std 1 on its training data",
    stored_offset=2,
    stored_divisor=4,
    preprocessing="bicubic to 224, central square",
)


class ImageReward(BlipReward):
    """Judge how well people like an image for a caption.

    Args:
      weights: hub id, or a folder with ImageReward.pt (or .safetensors) and med_config.json.
      tokenizer: hub id or folder of BERT's uncased tokenizer (tokenizer.json or vocab.txt); None
        takes `weights` if that is a folder with one of them, else BERT's own.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the work; None is the first device.
    """

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ):
        super().__init__(CARD, weights, tokenizer, MAX_TOKENS, dtype=dtype, mesh=mesh)
        self._head = fold_linear(self._tensors, "mlp.layers")

    def judge(self, features: OnDevice, captions: Sequence[str]) -> np.ndarray:
        """Return the rewards [B] float32 of features (see `encode`), each with its caption."""
        weight, bias = self._head
        return ((self.pairs(features, captions) @ weight + bias - MEAN) / STD).astype(np.float32)
