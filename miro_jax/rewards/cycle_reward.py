"""CycleReward: a BLIP that was trained on how well an image and its caption make each other.

    reward = w_5 g(... g(w_1 h + b_1) ...) + b_5,   g = exact GELU
    h = the text's first token after it attended to the image

Pairs are preferred whose image, captioned and drawn again (or whose caption, drawn and captioned
again), comes back nearer to itself. `combo` was trained on both, `t2i` on images alone, `i2t` on
captions alone. A caption is cut at 128 tokens.

Source: Bahng, Chan et al. 2025 (arXiv 2506.02095), github.com/hjbahng/cyclereward.

Letters: B images, D width of the text.
"""

from collections.abc import Sequence

import jax
import numpy as np
from scipy.special import erf

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import blip, blip_keys
from miro_jax.pretrained.networks.tower import OnDevice
from miro_jax.pretrained.weights import hub
from miro_jax.rewards.blip_reward import TEXT_CONFIG, BlipReward
from miro_jax.rewards.card import UNKNOWN, Card, Licence

MAX_TOKENS = 128
HEAD = tuple(f"mlp.layers.{number}" for number in (0, 2, 4, 6, 8))  # GELUs stand between


def _card(version: str, name: str, judges: str) -> Card:
    weights = f"carolineec/CycleReward-{name}"
    note = "the model card could not be read where this was written"
    return Card(
        name="cycle_reward",
        version=version,
        judges=judges,
        weights=weights,
        licences=(Licence(weights, UNKNOWN, None, note),),
        parameters=445.3e6,
        image_gflop=123.1,
        text=TextCost(34.1),
        work_mb=9,
        feature_mb=0.4,
        uncut=0.06,
        scale="differences count; no range is published",
        preprocessing="bicubic to 224, central square",
        synthetic_form="long",
    )


CARDS = (
    _card("combo", "Combo", "cycle consistency"),
    _card("t2i", "T2I", "cycle consistency, trained on images"),
    _card("i2t", "I2T", "cycle consistency, trained on captions"),
)


class CycleReward(BlipReward):
    """Judge how well an image and its caption make each other.

    Args:
      weights: hub id or a folder with `model.safetensors`, or with `model.pth`, the authors' file
        under that name; None is the published one. The sizes of its text tower stand in
        `med_config.json` or, without one, in the shapes.
      variant: version of one of CARDS.
      tokenizer: hub id or folder of BERT's uncased tokenizer; None takes `weights` if that is a
        folder with one of them, else BERT's own.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the work; None is the first device.

    Raises:
      ValueError: the variant is unknown.
    """

    def __init__(
        self,
        weights: str | None = None,
        variant: str = CARDS[0].version,
        tokenizer: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ):
        cards = {card.version: card for card in CARDS}
        if variant not in cards:
            raise ValueError(f"variant must be one of {', '.join(cards)}; got {variant!r}.")
        card = cards[variant]
        super().__init__(card, weights, tokenizer, MAX_TOKENS, dtype=dtype, mesh=mesh)
        self._head = [
            [
                self._tensors[f"{key}.{part}"].read().astype(np.float64)
                for part in ("weight", "bias")
            ]
            for key in HEAD
        ]

    def _text_config(self, repository: hub.Repository, source_width: int) -> blip.TextConfig:
        if repository.has(TEXT_CONFIG):
            return super()._text_config(repository, source_width)
        return blip_keys.text_config_of_shapes(self._tensors, source_width)

    def judge(self, features: OnDevice, captions: Sequence[str]) -> np.ndarray:
        """Return the rewards [B] float32 of features (see `encode`), each with its caption."""
        x = self.pairs(features, captions)  # [B, D]
        for number, (weight, bias) in enumerate(self._head):
            x = x @ weight.T + bias
            if number < len(self._head) - 1:
                x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
        return x[:, 0].astype(np.float32)
