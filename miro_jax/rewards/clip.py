"""CLIP score by jina-clip-v2: agreement of a picture and its caption, which may be long.

    score = exp(logit_scale) <u, v> / (|u| |v|);   records keep score / 100

Captions keep their case, have no instruction before them, and are cut at 1024 tokens. The text
tower is used with its adapter for queries, as the model applies it by itself. Captions are run in
groups of similar length; what one gives does not depend on the others.

What the published files leave open: the base of the text tower's rotary positions stands in the
configuration of another repository; 20000, that of its Hugging Face port, is taken unless
`text_config.hf_model_config_kwargs.rotary_emb_base` says otherwise. The trained logit_scale is read
from the weights.

Source: Koukounas et al. 2024 (arXiv 2412.08802); weights jinaai/jina-clip-v2 (CC-BY-NC-4.0, for
non-commercial use). The long synthetic caption is the one that MIRO judges.

Letters: B pictures, L tokens, D width of the shared space.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from miro_jax.pretrained.networks import clip, eva02, eva02_keys, xlm_roberta, xlm_roberta_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.lora import merge_lora
from miro_jax.pretrained.weights.tensors import Tensor
from miro_jax.pretrained.weights.tokenizer import cut_ids, encode_texts, load_tokenizer, pad_ids
from miro_jax.rewards import base
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "jinaai/jina-clip-v2"
MAX_TOKENS = 1024
SHORTEST = 16  # tokens, the least that captions are padded to; then by powers of two
# A `text_config` that says nothing of its adapters has the values of jina-clip-v2's.
LORA = {"lora_adaptations": ["retrieval.query"], "lora_alpha": 4, "lora_rank": 4}


class JinaClip(base.Judge):
    """Judge how well a picture and its caption agree.

    Args:
        weights: hub id, or a folder in the same layout (config.json, tokenizer.json and
            model.safetensors or pytorch_model.bin).
        dtype: of parameters and matrix products, "float32" or "bfloat16".
        mesh: devices that share the parameters and the batch; None is the first device.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are not jina-clip's, or dtype is unknown.
    """

    name = "clip"
    version = "jina-clip-v2"
    needs_caption = True
    synthetic_form = "long"

    def __init__(
        self,
        weights: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ):
        repository = hub.open(WEIGHTS if weights is None else weights)
        config = repository.json("config.json")
        vision = eva02_keys.parse_config(config.get("vision_config", {}))
        text = xlm_roberta_keys.parse_config(config.get("text_config", {}))
        tensors = repository.tensors()
        parts = split_towers(tensors)
        merged = merge_lora(parts["text"], *adapter(config.get("text_config", {})))
        options = {"dtype": dtype, "mesh": mesh}
        self._vision = Tower(eva02_keys.load(parts["vision"], vision, **options))
        self._text = Tower(xlm_roberta_keys.load(merged, text, **options))
        self._factor = math.exp(float(tensors["logit_scale"].read().reshape(())))
        self._tokenizer = load_tokenizer(repository)
        if (found := self._tokenizer.get_vocab_size()) > text.vocabulary:
            raise ValueError(
                f"{repository}'s tokenizer must have at most the {text.vocabulary} tokens of the "
                f"weights; got {found}."
            )
        self._padding = text.padding
        self._crop = BicubicCrop(vision.image_size, "round")
        self.preprocessing = str(self._crop)
        self.tower = f"jina-clip-{repository.digest()[:12]}-{dtype}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop a picture [H, W, 3] uint8 to [size, size, 3]."""
        base.check_image(image)
        return self._crop(image)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Read prepared pictures [B, size, size, 3] uint8 into [B, D] float32 of length 1."""
        return self._vision.run(_see, prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of pictures (see `encode`), each with its caption."""
        base.check_captions(captions, len(features))
        cosines = np.einsum("bd,bd->b", features, self.encode_captions(captions))
        return np.float32(self._factor) * cosines

    def encode_captions(self, captions: Sequence[str]) -> np.ndarray:
        """Read captions into features [B, D] float32 of length 1; equal ones are read once."""
        distinct = list(dict.fromkeys(captions))
        rows = [cut_ids(ids, MAX_TOKENS) for ids in encode_texts(self._tokenizer, distinct)]
        groups: dict[int, list[int]] = {}
        for index, ids in enumerate(rows):
            length = min(max(SHORTEST, 1 << (len(ids) - 1).bit_length()), MAX_TOKENS)
            groups.setdefault(length, []).append(index)
        found: dict[str, np.ndarray] = {}
        for length, members in groups.items():
            ids, _ = pad_ids([rows[index] for index in members], length, self._padding)
            features = self._text.run(_read, ids)
            found |= zip((distinct[index] for index in members), features, strict=True)
        return np.stack([found[caption] for caption in captions])

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return score / 100."""
        return score / np.float32(100)


def split_towers(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Give each tower its tensors, named without a prefix.

    Raises:
        ValueError: a tensor belongs to no tower.
    """
    prefixes = {"vision": "vision_model.", "text": "text_model.transformer."}
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in prefixes}
    for key, tensor in tensors.items():
        owner = [part for part, prefix in prefixes.items() if key.startswith(prefix)]
        if owner:
            name = key.removeprefix(prefixes[owner[0]]).removeprefix("roberta.")
            parts[owner[0]][name] = tensor
        elif key != "logit_scale":
            raise ValueError(f"{key} belongs to neither tower. Are these jina-clip's weights?")
    if "logit_scale" not in tensors:
        raise ValueError("The weights must hold logit_scale. Are these jina-clip's?")
    return parts


def adapter(text_config: Mapping) -> tuple[float, int]:
    """Return scale and number of the adapter that texts are read with.

    Raises:
        ValueError: the adapter is not among those of the weights.
    """
    own = LORA | dict(text_config.get("hf_model_config_kwargs", {}))
    names, task = own["lora_adaptations"], text_config.get("default_lora_task", "retrieval.query")
    if task not in names:
        raise ValueError(f"default_lora_task must be one of {', '.join(names)}; got {task!r}.")
    return own["lora_alpha"] / own["lora_rank"], names.index(task)


def _see(module: eva02.VisionTower, images: jax.Array) -> jax.Array:
    return clip.normed(module(clip.normalize(images)))


def _read(module: xlm_roberta.TextTower, ids: jax.Array) -> jax.Array:
    return clip.normed(module(ids))
