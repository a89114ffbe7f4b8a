"""Aesthetic score: a linear head on the image feature of CLIP-L, trained on ratings of beauty.

    score = <w, u / |u|> + b, about 1 to 10; stored as score / 10

The published head has five linear maps with nothing between them; they are folded into w and b.

Source: C. Schuhmann, improved-aesthetic-predictor (Apache-2.0),
github.com/christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`.
Images are resized as OpenAI's package does, which begins the crop a pixel off from `transformers`
for a quarter of all sizes.

Letters: B images, E width of the feature.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tensors import Tensor
from miro_jax.rewards import base
from miro_jax.rewards.card import UNKNOWN, Card, Licence
from miro_jax.rewards.clip_family import CLIP_L, CLIP_L_LICENCE, SharedTowers, load_vision
from miro_jax.rewards.resize import BicubicCrop

HEAD = "camenduru/improved-aesthetic-predictor"  # holds the file of the authors' repository
HEAD_FILE = "sac+logos+ava1-l14-linearMSE"
CARD = Card(
    name="aesthetic",
    version="1",
    judges="beauty, image alone",
    weights=CLIP_L,
    used=r"(vision_model|visual)\.",
    licences=(
        CLIP_L_LICENCE,
        Licence(
            f"{HEAD_FILE}.pth",
            UNKNOWN,
            None,
            "its code repository is said to be Apache-2.0, which was not confirmed",
        ),
    ),
    parameters=304.0e6,
    image_gflop=156.4,
    text=TextCost(),
    work_mb=10,
    scale="about 1 to 10",
    stored_divisor=10,
    preprocessing="bicubic to 224, central square",
    needs_caption=False,
    synthetic_form="long",
)


class Aesthetic(base.CroppedJudge):
    """Judge the beauty of an image.

    Args:
      weights: hub id, or a folder with CLIP-L's config.json and model.safetensors.
      head: hub id, or a folder with the head's file (.pth or .safetensors); None takes `weights` if
        that is a folder with the file.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the parameters and the batch; None is the first device.
      towers: finds a vision tower that is loaded already.
    """

    def __init__(
        self,
        weights: str | None = None,
        head: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        towers: SharedTowers | None = None,
    ):
        weights = CARD.weights if weights is None else weights
        towers = towers or SharedTowers()
        self._vision = load_vision(weights, CARD.stem, towers, dtype=dtype, mesh=mesh)
        files = (f"{HEAD_FILE}{end}" for end in (*hub.SAFETENSORS, *hub.PICKLES))
        head = head or hub.open(weights).own_or(HEAD, *files)
        config = self._vision.config
        tensors = hub.open(head).tensors(HEAD_FILE)
        self._head = fold_linear(tensors, "layers", config.projection)
        super().__init__(CARD, BicubicCrop(config.image_size, "round"), self._vision.name)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Encode prepared images [B, S, S, 3] uint8 into features [B, E] float32 of length 1."""
        return self._vision.encode(prepared)

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features (see `encode`); captions do not matter."""
        base.check_captions(captions, len(features))
        weight, bias = self._head
        return (features.astype(np.float64) @ weight + bias).astype(np.float32)


def fold_linear(
    tensors: Mapping[str, Tensor], prefix: str, width: int | None = None
) -> tuple[np.ndarray, float]:
    """Fold linear maps that follow each other into one map with a single output.

        W_n (... (W_1 x + b_1) ...) + b_n = w . x + b

    Args:
      tensors: weights [out, in] and biases [out] at `prefix`.<number>, in the order of numbers.
      width: that x must have.

    Returns:
      w [D] float64, D the width of x, and b.
    """
    names = {key.removesuffix(".weight") for key in tensors if key.startswith(f"{prefix}.")}
    layers = sorted(
        (name for name in names if f"{name}.weight" in tensors),
        key=lambda name: int(name.rsplit(".", 1)[1]),
    )
    if not layers:
        raise ValueError(f"The weights must hold linear maps at {prefix}.*; got none.")
    weight, bias = np.ones((1, 1)), np.zeros(1)
    for name in reversed(layers):  # from the output on, so that the product keeps one row
        w, b = (tensors[f"{name}.{part}"].read().astype(np.float64) for part in ("weight", "bias"))
        if w.ndim != 2 or len(w) != weight.shape[1] or b.shape != (len(w),):
            raise ValueError(f"{name} must have {weight.shape[1]} outputs; got {w.shape}.")
        weight, bias = weight @ w, weight @ b + bias
    if width not in (None, weight.shape[1]):
        raise ValueError(
            f"The head must read features of width {width}; got one for {weight.shape[1]}."
        )
    return weight[0], float(bias[0])
