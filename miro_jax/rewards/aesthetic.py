"""Aesthetic score: a linear head on CLIP-L's picture feature, trained on ratings of beauty.

    score = <w, u / |u|> + b, about 1 to 10; records keep score / 10

The published head has five linear maps with nothing between them; they are folded into w and b.

Source: C. Schuhmann, improved-aesthetic-predictor (Apache-2.0),
github.com/christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`;
CLIP openai/clip-vit-large-patch14. Pictures are resized as OpenAI's package does, which begins the
crop a pixel off from `transformers` for a quarter of all sizes.

Letters: B pictures, H W picture, E width of the feature.
"""

from collections.abc import Sequence

import jax
import numpy as np

from miro_jax.pretrained.weights import hub
from miro_jax.rewards import base
from miro_jax.rewards.clip_score import SharedTowers, load_vision
from miro_jax.rewards.linear_head import fold
from miro_jax.rewards.resize import BicubicCrop

WEIGHTS = "openai/clip-vit-large-patch14"
HEAD = "camenduru/improved-aesthetic-predictor"  # holds the file of the authors' repository
HEAD_FILE = "sac+logos+ava1-l14-linearMSE"


class Aesthetic(base.Judge):
    """Judge the beauty of a picture.

    Args:
        weights: hub id, or a folder with CLIP-L's config.json and model.safetensors.
        head: hub id, or a folder with the head's file (.pth or .safetensors); None takes `weights`
            where that is a folder with the file.
        dtype: of parameters and matrix products, "float32" or "bfloat16".
        mesh: devices that share the parameters and the batch; None is the first device.
        towers: finds a vision tower that is loaded already.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the head does not fit the features.
    """

    name = "aesthetic"
    version = "1"
    needs_caption = False
    synthetic_form = "long"

    def __init__(
        self,
        weights: str | None = None,
        head: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        towers: SharedTowers | None = None,
    ):
        weights = WEIGHTS if weights is None else weights
        self._vision = load_vision(weights, dtype=dtype, mesh=mesh, towers=towers)
        if head is None:
            head = weights if _has_head(hub.open(weights)) else HEAD
        self._head = fold(hub.open(head).tensors(HEAD_FILE), "layers")
        if len(self._head[0]) != self._vision.config.projection:
            raise ValueError(
                f"The head must read features of width {self._vision.config.projection}; "
                f"got one for {len(self._head[0])}."
            )
        self._crop = BicubicCrop(self._vision.config.image_size, "round")
        self.preprocessing = str(self._crop)
        self.tower = self._vision.name

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop a picture [H, W, 3] uint8 to [S, S, 3] uint8."""
        base.check_image(image)
        return self._crop(image)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Read prepared pictures [B, S, S, 3] uint8 into features [B, E] float32 of length 1."""
        return self._vision.encode(prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features (see `encode`); captions do not matter."""
        base.check_captions(captions, len(features))
        weight, bias = self._head
        return (features.astype(np.float64) @ weight + bias).astype(np.float32)

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return score / 10."""
        return score / np.float32(10)


def _has_head(repository: hub.Repository) -> bool:
    ends = (*hub.SAFETENSORS, *hub.PICKLES)
    return repository.is_local and any(repository.has(f"{HEAD_FILE}{end}") for end in ends)
