"""CLIP score by OpenAI's CLIP-L, which MIRO's evaluation reports and its training never sees.

    score = exp(logit_scale) cos(picture, caption); tables show score / 100

Source: Radford et al. 2021 (arXiv 2103.00020); weights openai/clip-vit-large-patch14. Pictures are
resized and captions tokenized as `transformers` does.
"""

import jax

from miro_jax.rewards.clip_score import ClipReward, SharedTowers, load_towers
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "openai/clip-vit-large-patch14"


def load(
    weights: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> ClipReward:
    """Load OpenAI's CLIP-L.

    Args:
        weights: hub id, or a folder with config.json, model.safetensors and the tokenizer.
        tokenizer, dtype, mesh, towers: see `clip_score.load_towers`.
    """
    vision, text = load_towers(
        WEIGHTS if weights is None else weights,
        tokenizer=tokenizer,
        dtype=dtype,
        mesh=mesh,
        towers=towers,
    )
    crop = BicubicCrop(vision.config.image_size, "floor")
    return ClipReward("openai_clip", "1", vision, text, crop, text.factor, kept=1 / 100)
