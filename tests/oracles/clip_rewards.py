"""The published scorers made of a CLIP, at any size, on Pillow pictures and captions."""

import numpy as np
import torch
from PIL import Image

from tests.oracles import clip_tokens, resize
from tests.oracles.clip import Oracle

NUM_MERGES = 40
# Widths of heads as the family has them: HPSv2's file does not tell.
CONFIG = {
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 48,
        "vocab_size": 512 + NUM_MERGES + 2,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 80,
        "image_size": 28,
        "patch_size": 7,
        "hidden_act": "gelu",
    },
}
HEAD = "sac+logos+ava1-l14-linearMSE"

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTHS = (1024, 128, 64, 16, 1)
HEAD_PLACES = (0, 2, 4, 6, 7)  # dropout stands between


def hugging_face_score(oracle: Oracle, images, captions, num_merges: int) -> np.ndarray:
    """exp(logit_scale) cos, as PickScore, SciScore and CLIP do it with `transformers`."""
    pixels = [resize.hugging_face(Image.fromarray(image), _size(oracle)) for image in images]
    tokenizer = clip_tokens.hugging_face(num_merges)
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=77, return_tensors="np")
    text = oracle.text_features(tokens["input_ids"], tokens["attention_mask"])
    return oracle.scale() * _cosines(oracle.image_features(_normalized(pixels)), text)


def hpsv2_score(oracle: Oracle, images, captions, num_merges: int) -> np.ndarray:
    """The cosine, with floats resized and captions repaired."""
    pixels = [255 * resize.hpsv2(Image.fromarray(image), _size(oracle)) for image in images]
    text = oracle.text_features(clip_tokens.simple_ids(captions, num_merges))
    return _cosines(oracle.image_features(_normalized(pixels)), text)


def aesthetic_score(oracle: Oracle, images, head: dict[str, np.ndarray]) -> np.ndarray:
    """Five linear layers on the feature of length 1."""
    pixels = [resize.openai(Image.fromarray(image), _size(oracle)) for image in images]
    x = torch.from_numpy(oracle.image_features(_normalized(pixels)))
    return apply_head(x / x.norm(dim=-1, keepdim=True), head)


def ict_score(oracle: Oracle, images, captions, num_merges: int) -> np.ndarray:
    """The cosine, with pictures of transformers and captions repaired."""
    pixels = [resize.hugging_face(Image.fromarray(image), _size(oracle)) for image in images]
    text = oracle.text_features(clip_tokens.simple_ids(captions, num_merges))
    return _cosines(oracle.image_features(_normalized(pixels)), text)


def hp_score(oracle: Oracle, images, head: dict[str, np.ndarray]) -> np.ndarray:
    """Five linear layers on the feature as it is, and a sigmoid."""
    pixels = [resize.hugging_face(Image.fromarray(image), _size(oracle)) for image in images]
    x = torch.from_numpy(oracle.image_features(_normalized(pixels)))
    return torch.sigmoid(torch.from_numpy(apply_head(x, head))).numpy()


def apply_head(x: torch.Tensor, head: dict[str, np.ndarray]) -> np.ndarray:
    """Run five linear layers on `[B, E]`, in double precision."""
    x = x.double()
    for place in HEAD_PLACES:
        weight, bias = (
            torch.from_numpy(head[f"layers.{place}.{part}"]).double() for part in ("weight", "bias")
        )
        x = torch.nn.functional.linear(x, weight, bias)
    return x[:, 0].numpy()


def make_head(width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of an aesthetic head, under the published names."""
    rng, head = np.random.default_rng(seed), {}
    for place, out in zip(HEAD_PLACES, HEAD_WIDTHS, strict=True):
        weight = rng.normal(0, width**-0.5, (out, width))
        head[f"layers.{place}.weight"] = weight.astype(np.float32)
        head[f"layers.{place}.bias"] = rng.normal(0, 0.3, out).astype(np.float32)
        width = out
    return head


def save_pickle(path, arrays: dict[str, np.ndarray], entry: str | None = None) -> None:
    """Write a `.pt` or `.pth` file; `entry` puts the tensors below a key, beside an epoch."""
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    torch.save(tensors if entry is None else {"epoch": 3, entry: tensors}, path)


def _size(oracle: Oracle) -> int:
    return oracle.model.config.vision_config.image_size


def _normalized(pixels: list[np.ndarray]) -> np.ndarray:
    return ((np.stack(pixels) / 255.0 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    return np.sum(first.astype(np.float64) * second, axis=1)
