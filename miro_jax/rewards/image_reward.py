"""ImageReward v1.0: a BLIP that was trained on what people preferred, and a linear head.

    reward = (w . h + b - MEAN) / STD,   h = the text's first token after it attended to the image

Its head of five linear maps has nothing between them, so they are folded into the one of w and b.
A caption is cut at 35 tokens. Rewards are about normal over its training images; stored as
(reward + 2) / 4.

Source: Xu et al. 2023 (arXiv 2304.05977).

Letters: B images, N image tokens, S their width, D width of the text.
"""

from collections.abc import Sequence

import jax
import numpy as np

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import blip, blip_keys, clip
from miro_jax.pretrained.networks.tower import OnDevice, Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import (
    check_vocabulary,
    cut_ids,
    encode_texts,
    load_tokenizer,
    pad_ids,
    special_id,
    vocabulary,
)
from miro_jax.rewards import base
from miro_jax.rewards.aesthetic import fold_linear
from miro_jax.rewards.card import Card, Licence
from miro_jax.rewards.resize import BicubicCrop

TOKENIZER = "google-bert/bert-base-uncased"
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


class ImageReward(base.CroppedJudge):
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
        repository = CARD.repository(weights)
        tensors = repository.tensors(CARD.stem)
        vision = blip_keys.vision_config(tensors, "blip.visual_encoder")
        text = repository.parsed(
            "med_config.json", lambda config: blip_keys.text_config(config, vision.width)
        )
        networks = blip_keys.load_towers(tensors, vision, text, dtype=dtype, mesh=mesh)
        self._vision, self._text = map(Tower, networks)
        self._head = fold_linear(tensors, "mlp.layers")
        tokenizer = tokenizer or repository.own_or(TOKENIZER, "tokenizer.json", "vocab.txt")
        self._tokenizer = load_tokenizer(hub.open(tokenizer), "bert")
        check_vocabulary(vocabulary(self._tokenizer), text.vocabulary, tokenizer)
        self._padding = special_id(self._tokenizer, "[PAD]")
        tower = f"blip-{repository.digest(CARD.stem)[:12]}-{dtype}"
        super().__init__(CARD, BicubicCrop(vision.image_size, "round"), tower)

    def encode(self, prepared: np.ndarray) -> OnDevice:
        """Encode prepared images [B, size, size, 3] uint8 into tokens [B, N, S]."""
        return self._vision.run_on_device(_encode_images, prepared)

    def judge(self, features: OnDevice, captions: Sequence[str]) -> np.ndarray:
        """Return the rewards [B] float32 of features (see `encode`), each with its caption."""
        base.check_captions(captions, len(features))
        rows = [cut_ids(ids, MAX_TOKENS) for ids in encode_texts(self._tokenizer, captions)]
        ids, mask = pad_ids(rows, MAX_TOKENS, self._padding)
        pairs = self._text.run(_encode_pairs, ids, mask, features)  # [B, D]
        weight, bias = self._head
        return ((pairs.astype(np.float64) @ weight + bias - MEAN) / STD).astype(np.float32)


def _encode_images(module: blip.VisionTower, images: jax.Array) -> jax.Array:
    return module(clip.normalize(images))


def _encode_pairs(
    module: blip.TextTower, ids: jax.Array, mask: jax.Array, source: jax.Array
) -> jax.Array:
    return module(ids, mask, source)[:, 0]
