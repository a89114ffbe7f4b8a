"""Rewards made of a BLIP whose text tower attends to the image, and a head on its first token.

    reward = head(h),   h = the text's first token after it attended to the image

`image_reward` and `cycle_reward` are such; they differ in the head and in where captions are cut.

Letters: B images, N image tokens, S their width, D width of the text.
"""

from collections.abc import Sequence
from typing import Unpack

import jax
import numpy as np

from miro_jax.pretrained.networks import blip, blip_keys, clip
from miro_jax.pretrained.networks.tower import OnDevice, Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.convert import Placing
from miro_jax.pretrained.weights.tokenizer import (
    check_vocabulary,
    cut_ids,
    encode_texts,
    load_tokenizer,
    pad_rows,
    special_id,
    vocabulary,
)
from miro_jax.rewards import base
from miro_jax.rewards.card import Card
from miro_jax.rewards.resize import BicubicCrop

TOKENIZER = "google-bert/bert-base-uncased"
TEXT_CONFIG = "med_config.json"


class BlipReward(base.CroppedJudge):
    """What both rewards share; a subclass has `judge`.

    Args:
      card: of the reward. weights: hub id or folder, None is the card's. tokenizer: hub id or
        folder of BERT's uncased tokenizer; None takes `weights` if that is a folder with one.
      max_tokens: of a caption, where it is cut.
      dtype, mesh: see `convert.Placing`.
    """

    def __init__(
        self,
        card: Card,
        weights: str | None,
        tokenizer: str | None,
        max_tokens: int,
        **placing: Unpack[Placing],
    ):
        repository = card.repository(weights)
        self._tensors = tensors = repository.tensors(card.stem)
        vision = blip_keys.vision_config(tensors)
        text = self._text_config(repository, vision.width)
        networks = blip_keys.load_towers(tensors, vision, text, **placing)
        self._vision, self._text = map(Tower, networks)
        tokenizer = tokenizer or repository.own_or(TOKENIZER, "tokenizer.json", "vocab.txt")
        self._tokenizer = load_tokenizer(hub.open(tokenizer), "bert")
        check_vocabulary(vocabulary(self._tokenizer), text.vocabulary, tokenizer)
        self._padding, self._max_tokens = special_id(self._tokenizer, "[PAD]"), max_tokens
        tower = f"blip-{repository.digest(card.stem)[:12]}-{placing.get('dtype')}"
        super().__init__(card, BicubicCrop(vision.image_size, "round"), tower)

    def _text_config(self, repository: hub.Repository, source_width: int) -> blip.TextConfig:
        return repository.parsed(
            TEXT_CONFIG, lambda config: blip_keys.text_config(config, source_width)
        )

    def encode(self, prepared: np.ndarray) -> OnDevice:
        """Encode prepared images [B, size, size, 3] uint8 into tokens [B, N, S]."""
        return self._vision.run_on_device(_encode_images, prepared)

    def pairs(self, features: OnDevice, captions: Sequence[str]) -> np.ndarray:
        """Return the first tokens [B, D] float64 of captions that attended to features."""
        base.check_captions(captions, len(features))
        longest = self._max_tokens
        rows = [cut_ids(ids, longest) for ids in encode_texts(self._tokenizer, captions)]
        ids, mask = pad_rows(rows, longest, self._padding)
        return self._text.run(_encode_pairs, ids, mask, features).astype(np.float64)


def _encode_images(module: blip.VisionTower, images: jax.Array) -> jax.Array:
    return module(clip.normalize(images))


def _encode_pairs(
    module: blip.TextTower, ids: jax.Array, mask: jax.Array, source: jax.Array
) -> jax.Array:
    return module(ids, mask, source)[:, 0]
