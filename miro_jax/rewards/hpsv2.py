"""HPSv2: CLIP-H trained on which of several pictures people preferred for a prompt.

    score = cos(picture, caption); records keep it as it is

Versions 2.1, of MIRO's annotation, and 2.0, of its evaluation, spread their scores differently and
never enter one table.

Source: Wu et al. 2023 (arXiv 2306.09341); weights xswu/HPSv2 (Apache-2.0), in OpenAI's layout.
Pictures are resized as floats and cropped, as MIRO calls it; the package's own `score` pads to a
square instead, which differs for pictures that are not square. Captions are tokenized as open_clip
does. The short synthetic caption is the one that MIRO judges.
"""

import jax

from miro_jax.rewards.clip_score import ClipReward, SharedTowers, load_towers
from miro_jax.rewards.resize import FloatBicubicCrop

WEIGHTS = "xswu/HPSv2"
FILES = {"2.1": "HPS_v2.1_compressed", "2.0": "HPS_v2_compressed"}


def load(
    weights: str | None = None,
    version: str = "2.1",
    tokenizer: str | None = None,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    towers: SharedTowers | None = None,
) -> ClipReward:
    """Load HPSv2.

    Args:
        weights: hub id, or a folder with HPS_v2.1_compressed.pt or HPS_v2_compressed.pt (or the
            same in safetensors).
        version: "2.1" or "2.0".
        tokenizer, dtype, mesh, towers: see `clip_score.load_towers`.

    Raises:
        ValueError: the version is unknown.
    """
    if version not in FILES:
        raise ValueError(f"version must be one of {', '.join(FILES)}; got {version!r}.")
    vision, text = load_towers(
        WEIGHTS if weights is None else weights,
        stem=FILES[version],
        tokenizer=tokenizer,
        repairs=True,
        dtype=dtype,
        mesh=mesh,
        towers=towers,
    )
    crop = FloatBicubicCrop(vision.config.image_size)
    return ClipReward("hpsv2", version, vision, text, crop, factor=1.0, kept=1.0)
