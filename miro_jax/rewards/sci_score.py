"""SciScore: CLIP-H trained to prefer pictures that obey the laws of nature a caption implies.

    score = exp(logit_scale) cos(picture, caption); records keep score / 100

Source: Li et al. 2025, "Science-T2I" (arXiv 2504.13129); weights Jialuo21/SciScore (Apache-2.0).
Pictures are resized and captions tokenized as `transformers` does. The short synthetic caption is
the one that MIRO judges.
"""

import jax

from miro_jax.rewards.clip_score import ClipReward, SharedTowers, load_towers
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "Jialuo21/SciScore"


def load(
    weights: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> ClipReward:
    """Load SciScore.

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
    return ClipReward("sci_score", "1", vision, text, crop, text.factor, kept=1 / 100)
