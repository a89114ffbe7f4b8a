"""ImageReward v1.0: a BLIP that was trained on what people preferred, and a linear head.

    reward = (w . h + b - MEAN) / STD,   h = the text's first token after it has seen the picture

Its head of five linear maps has nothing between them, so they are folded into the one of w and b.
A caption is cut at 35 tokens. Rewards are about normal over the pictures it was trained on; records
keep (reward + 2) / 4.

Source: Xu et al. 2023 (arXiv 2304.05977); weights THUDM/ImageReward (Apache-2.0). The short
synthetic caption is the one that MIRO judges.

Letters: B pictures, N image tokens, S their width, D width of the text.
"""

from collections.abc import Sequence

import jax
import numpy as np

from miro_jax.pretrained.networks import blip, blip_keys, clip
from miro_jax.pretrained.networks.tower import Kept, Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import cut_ids, encode_texts, pad_ids, special_id
from miro_jax.pretrained.weights.wordpiece import load_wordpiece
from miro_jax.rewards import base
from miro_jax.rewards.linear_head import fold
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "THUDM/ImageReward"
TOKENIZER = "google-bert/bert-base-uncased"
FILE = "ImageReward"
MAX_TOKENS = 35
# Of the rewards of the training set, as published with the weights.
MEAN = 0.16717362830052426
STD = 1.0333394966054072


class ImageReward(base.Judge):
    """Judge how well people like a picture for a caption.

    Args:
        weights: hub id, or a folder with ImageReward.pt (or .safetensors) and med_config.json.
        tokenizer: hub id or folder of BERT's uncased tokenizer (tokenizer.json or vocab.txt); None
            takes `weights` where that is a folder with one of them, else BERT's own.
        dtype: of parameters and matrix products, "float32" or "bfloat16".
        mesh: devices that share the work; None is the first device.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are not ImageReward's, or dtype is unknown.
    """

    name = "image_reward"
    version = "1.0"
    needs_caption = True
    synthetic_form = "short"

    def __init__(
        self,
        weights: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ):
        repository = hub.open(WEIGHTS if weights is None else weights)
        tensors = repository.tensors(FILE)
        vision = blip_keys.vision_config(tensors, "blip.visual_encoder")
        text = blip_keys.text_config(repository.json("med_config.json"), vision.width)
        networks = blip_keys.load_towers(tensors, vision, text, dtype=dtype, mesh=mesh)
        self._vision, self._text = map(Tower, networks)
        self._head = fold(tensors, "mlp.layers")
        if tokenizer is None:
            own = any(repository.has(name) for name in ("tokenizer.json", "vocab.txt"))
            tokenizer = repository.source if repository.is_local and own else TOKENIZER
        self._tokenizer = load_wordpiece(hub.open(tokenizer))
        self._padding = special_id(self._tokenizer, "[PAD]")
        self._crop = BicubicCrop(vision.image_size, "round")
        self.preprocessing = str(self._crop)
        self.tower = f"blip-{repository.digest(FILE)[:12]}-{dtype}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop a picture [H, W, 3] uint8 to [size, size, 3]."""
        base.check_image(image)
        return self._crop(image)

    def encode(self, prepared: np.ndarray) -> Kept:
        """Read prepared pictures [B, size, size, 3] uint8 into tokens [B, N, S]."""
        return self._vision.keep(_see, prepared)

    def judge(self, features: Kept, captions: Sequence[str]) -> np.ndarray:
        """Return the rewards [B] float32 of pictures (see `encode`), each with its caption."""
        base.check_captions(captions, len(features))
        rows = [cut_ids(ids, MAX_TOKENS) for ids in encode_texts(self._tokenizer, captions)]
        ids, mask = pad_ids(rows, MAX_TOKENS, self._padding)
        pairs = self._text.run(_look, ids, mask, features)  # [B, D]
        weight, bias = self._head
        return ((pairs.astype(np.float64) @ weight + bias - MEAN) / STD).astype(np.float32)

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return (reward + 2) / 4."""
        return (score + 2) / 4


def _see(module: blip.VisionTower, images: jax.Array) -> jax.Array:
    return module(clip.normalize(images))


def _look(module: blip.TextTower, ids: jax.Array, mask: jax.Array, source: jax.Array) -> jax.Array:
    return module(ids, mask, source)[:, 0]
