"""CLIP score by jina-clip-v2: agreement of an image and its caption, which may be long.

    score = exp(logit_scale) <u, v> / (|u| |v|);   stored as score / 100

Captions keep their case, have no instruction before them, and are cut at 1024 tokens. The text
tower is used with its adapter for queries, as the model applies it by itself. Captions are encoded
in groups of similar length; the score of one does not depend on the others.

The published files do not contain the base of the text tower's rotary positions: it stands in the
configuration of another repository. 20000, that of its Hugging Face port, is taken unless
`text_config.hf_model_config_kwargs.rotary_emb_base` has another. The trained logit_scale is read
from the weights.

Source: Koukounas et al. 2024 (arXiv 2412.08802).

Letters: B images, D width of the shared space.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tokenizers

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import clip_keys, eva02, eva02_keys, xlm_roberta, xlm_roberta_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.lora import merge_lora
from miro_jax.pretrained.weights.tensors import Tensor
from miro_jax.pretrained.weights.tokenizer import (
    by_length,
    check_vocabulary,
    cut_ids,
    encode_texts,
    load_tokenizer,
    once_each,
    padded_length,
    vocabulary,
)
from miro_jax.rewards.card import Card, Licence
from miro_jax.rewards.clip_family import ClipReward, Vision, encode_ids
from miro_jax.rewards.resize import BicubicCrop

MAX_TOKENS = 1024
# The values of jina-clip-v2, for a `text_config` without those of its adapters.
LORA = {"lora_adaptations": ["retrieval.query"], "lora_alpha": 4, "lora_rank": 4}
CARD = Card(
    name="clip",
    version="jina-clip-v2",
    judges="agreement, long captions",
    weights="jinaai/jina-clip-v2",
    licences=(Licence("jinaai/jina-clip-v2", "CC-BY-NC-4.0", False, "model card"),),
    parameters=862.7e6,
    image_gflop=950.2,
    text=TextCost(per_token=0.61),
    work_mb=176,
    uncut=0.53,
    scale="exp(logit scale) x cosine",
    stored_divisor=100,
    preprocessing="bicubic to 512, central square",
    synthetic_form="long",
)


@dataclasses.dataclass(frozen=True)
class Text:
    """The text tower with its tokenizer. factor: exp(logit_scale). padding: token."""

    tower: Tower
    tokenizer: tokenizers.Tokenizer
    padding: int
    factor: float

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Encode captions into [B, D] float32 of length 1; equal captions are encoded once."""
        return np.stack(once_each(self._encode, captions))

    def _encode(self, captions: list[str]) -> np.ndarray:
        rows = [cut_ids(ids, MAX_TOKENS) for ids in encode_texts(self.tokenizer, captions)]
        features: dict[int, np.ndarray] = {}
        groups = by_length(rows, lambda n: padded_length(n, MAX_TOKENS), len(rows), self.padding)
        for members, ids, _ in groups:
            features |= zip(members, self.tower.run(encode_ids, ids), strict=True)
        return np.stack([features[index] for index in range(len(rows))])


class JinaClip(ClipReward):
    """Judge how well an image and its caption agree.

    Args:
      weights: hub id, or a folder in the same layout (config.json, tokenizer.json and
        model.safetensors or pytorch_model.bin).
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the parameters and the batch; None is the first device.
    """

    def __init__(
        self,
        weights: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ):
        repository = CARD.repository(weights)
        vision_config, text_config, chosen = repository.parsed("config.json", _parse_config)
        tensors = repository.tensors()
        parts = split_towers(tensors)
        merged = merge_lora(parts["text"], *chosen)
        options = {"dtype": dtype, "mesh": mesh}
        name = f"jina-clip-{repository.digest()[:12]}-{dtype}"
        vision = Tower(eva02_keys.load(parts["vision"], vision_config, **options))
        text = Tower(xlm_roberta_keys.load(merged, text_config, **options))
        factor = clip_keys.logit_scale(tensors)
        tokenizer = load_tokenizer(repository)
        check_vocabulary(vocabulary(tokenizer), text_config.vocabulary, repository)
        super().__init__(
            CARD,
            Vision(vision, name, vision_config),
            Text(text, tokenizer, text_config.padding, factor),
            BicubicCrop(vision_config.image_size, "round"),
            factor,
        )

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return score / 100, made as the quotient that earlier records hold."""
        return score / np.float32(CARD.stored_divisor)


def _parse_config(config: Mapping[str, Any]) -> tuple[eva02.Config, xlm_roberta.Config, tuple]:
    vision, text = config.get("vision_config", {}), config.get("text_config", {})
    sizes = eva02_keys.parse_config(vision), xlm_roberta_keys.parse_config(text)
    return *sizes, adapter(text)


def split_towers(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Give each tower its tensors, named without a prefix."""
    prefixes = {"vision": "vision_model.", "text": "text_model.transformer."}
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in prefixes}
    for key, tensor in tensors.items():
        owner = [part for part, prefix in prefixes.items() if key.startswith(prefix)]
        if owner:
            name = key.removeprefix(prefixes[owner[0]]).removeprefix("roberta.")
            parts[owner[0]][name] = tensor
        elif key != "logit_scale":
            raise ValueError(f"{key} belongs to neither tower. Are these jina-clip's weights?")
    clip_keys.shape_of(tensors, "logit_scale")  # raises where there is none
    return parts


def adapter(text_config: Mapping) -> tuple[float, int]:
    """Return scale and number of the adapter that texts are encoded with."""
    own = hf.with_defaults(text_config.get("hf_model_config_kwargs", {}), LORA, "text_config")
    names, task = own["lora_adaptations"], text_config.get("default_lora_task", "retrieval.query")
    if task not in names:
        raise ValueError(f"default_lora_task must be one of {', '.join(names)}; got {task!r}.")
    return own["lora_alpha"] / own["lora_rank"], names.index(task)
