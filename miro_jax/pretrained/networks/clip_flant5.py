"""CLIP-FlanT5: a T5 that reads a picture as tokens among those of a question, and answers.

    picture   CLIP's vision tower up to the last block but one, class token left out     [B, N, W]
    tokens    Linear(gelu(Linear(picture)))                                              [B, N, D]
    encoder   [embedding(before); tokens; embedding(after)]
    decoder   log P(label_k | start, label_0 .. label_k-1)

Source: Lin et al. 2024 (arXiv 2404.01291), package t2v-metrics; weights zhiqiulin/clip-flant5-*.

Letters: B pairs of picture and question, N image tokens, W width of the vision tower, D width of
the T5, P tokens before the picture, L after it, K labels.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models.layers import Linear
from miro_jax.pretrained.networks import clip, clip_keys, t5
from miro_jax.pretrained.weights import convert
from miro_jax.pretrained.weights.convert import LINEAR, Row, below
from miro_jax.pretrained.weights.tensors import Tensor

Array = jax.Array
START = 0  # the decoder's first token, which is T5's padding


@dataclasses.dataclass(frozen=True)
class ClipFlanT5Config:
    """Sizes of the parts; of the T5's vocabulary only the first `classes` words compete."""

    vision: clip.VisionConfig
    t5: t5.T5Config
    classes: int


def parse_config(
    config: Mapping[str, Any], vision: Mapping[str, Any], classes: int
) -> ClipFlanT5Config:
    """Take the sizes from two files `config.json`.

    Args:
        config: of the model.
        vision: of the CLIP model whose vision tower it has.
        classes: tokens that the tokenizer has; the weights may have rows beyond them, which were
            never trained.

    Raises:
        ValueError: an option that this module does not offer, or too many classes.
    """
    for key, wanted in (
        ("mm_projector_type", "mlp2x_gelu"),
        ("mm_vision_select_feature", "patch"),
    ):
        if (found := config.get(key, wanted)) != wanted:
            raise ValueError(f"config.json must have {key} = {wanted!r}; got {found!r}.")
    sizes = clip_keys.vision_config(vision, projection=False)
    kept = sizes.layers + 1 + config.get("mm_vision_select_layer", -2)  # blocks that are run
    if not 1 <= kept <= sizes.layers:
        raise ValueError(
            f"config.json must have mm_vision_select_layer in [{-sizes.layers}, -1]; "
            f"got {config['mm_vision_select_layer']}."
        )
    language = t5.parse_config(config)
    if classes > language.vocabulary:
        raise ValueError(
            f"the tokenizer must have at most the {language.vocabulary} tokens of the weights; "
            f"got {classes}. It belongs to another model."
        )
    return ClipFlanT5Config(dataclasses.replace(sizes, layers=kept), language, classes)


class Projector(nnx.Module):
    """Vision tokens `[B, N, W]` to the T5's width, by two linear maps."""

    def __init__(self, width: int, out_width: int, *, rngs: nnx.Rngs, dtype):
        options = {"rngs": rngs, "dtype": dtype}
        self.hidden = Linear((width, out_width), ("embed", "mlp"), **options)
        self.out = Linear((out_width, out_width), ("mlp", "embed"), **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, N, W]` to `[B, N, D]`."""
        return self.out(clip.gelu(self.hidden(x)))


class ClipFlanT5(nnx.Module):
    """The three parts of the model; `read` and `answer` use them."""

    def __init__(self, config: ClipFlanT5Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        options = {"rngs": rngs, "dtype": dtype}
        self.vision = clip.VisionTower(config.vision, **options)
        self.projector = Projector(config.vision.width, config.t5.width, **options)
        self.t5 = t5.T5(config.t5, **options)
        self.classes, self.dtype = config.classes, dtype

    def read(self, images: Array) -> Array:
        """Read pictures `[B, S, S, 3]` uint8 into vision tokens `[B, N, W]` in `dtype`."""
        # The projector's product is in `dtype`: rounding here loses nothing.
        return self.vision.tokens(clip.normalize(images))[:, 1:].astype(self.dtype)

    def answer(
        self, tokens: Array, before: Array, after: Array, mask: Array, labels: Array
    ) -> Array:
        """Return how likely an answer is.

        Args:
            tokens: [B, N, W], from `read`.
            before: [B, P] int32, ids before the picture.
            after: [B, L] int32, ids after it. mask: [B, L] bool, False where there is none.
            labels: [B, K] int32, ids of the answer, the end token included.

        Returns:
            [B, K] float32, the log-probability of each label after those before it.
        """
        x = self.projector(tokens).astype(jnp.float32)
        x = jnp.concatenate([self.t5.embed(before), x, self.t5.embed(after)], axis=1)
        shown = jnp.ones((x.shape[0], x.shape[1] - mask.shape[1]), bool)
        mask = jnp.concatenate([shown, mask], axis=1)  # [B, P + N + L]
        said = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        logits = self.t5.decode(said, self.t5.encode(x, mask), mask)  # [B, K, V]
        likely = jax.nn.log_softmax(logits[..., : self.classes])
        return jnp.take_along_axis(likely, labels[..., None], axis=-1)[..., 0]


VISION_KEY = "vision_tower.vision_tower.vision_model"
TABLE: tuple[Row, ...] = (
    *below(VISION_KEY, "vision", clip_keys.VISION_BODY),
    *below("mm_projector.0", "projector/hidden", LINEAR),
    *below("mm_projector.2", "projector/out", LINEAR),
    *below("", "t5", t5.TABLE),
)


def load(
    tensors: Mapping[str, Tensor],
    config: ClipFlanT5Config,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> convert.Network:
    """Load a published file; what stands behind the vision tower's last block used is ignored.

    Raises:
        ValueError: the weights do not fit, see `weights.convert.load`; or the two tables of token
            embeddings differ.
    """
    vision = re.escape(VISION_KEY)
    found = (re.match(rf"{vision}\.encoder\.layers\.(\d+)\.", key) for key in tensors)
    numbers = {block[1] for block in found if block and int(block[1]) >= config.vision.layers}
    unused = [
        rf"{vision}\.post_layernorm\..*",
        rf"{vision}\.encoder\.layers\.({'|'.join(sorted(numbers))})\..*",
        r"(.*\.)?position_ids",
        t5.IGNORED,
    ]
    return convert.load(
        lambda rngs: ClipFlanT5(config, rngs=rngs, dtype=jnp.dtype(dtype)),
        t5.merge_aliases(tensors),
        TABLE,
        ignored="|".join(unused),
        dtype=dtype,
        keep_float32=t5.SMALL,
        mesh=mesh,
    )
