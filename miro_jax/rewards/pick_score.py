"""PickScore: CLIP-H trained on which of two pictures people picked for a prompt.

    score = exp(logit_scale) cos(picture, caption); records keep score / 100

Source: Kirstain et al. 2023 (arXiv 2305.01569); weights yuvalkirstain/PickScore_v1. Pictures are
resized and captions tokenized as `transformers` does. The short synthetic caption is the one that
MIRO judges.
"""

import jax

from miro_jax.rewards.clip_score import ClipReward, SharedTowers, load_towers
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "yuvalkirstain/PickScore_v1"


def load(
    weights: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> ClipReward:
    """Load PickScore.

    Args:
        weights: hub id, or a folder with config.json and model.safetensors.
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
    return ClipReward("pick_score", "1", vision, text, crop, text.factor, kept=1 / 100)
