"""CLIP-FlanT5: a T5 that reads an image as tokens among those of a question, and answers.

    image     CLIP's vision tower up to the last block but one, without class token      [B, N, W]
    tokens    Linear(gelu(Linear(image)))                                                [B, N, D]
    encoder   [embedding(before); tokens; embedding(after)]
    decoder   log P(label_k | start, label_0 .. label_k-1)

Source: Lin et al. 2024 (arXiv 2404.01291), package t2v-metrics; weights zhiqiulin/clip-flant5-*.

Letters: B pairs of image and question, N image tokens, W width of the vision tower, D width of
the T5, P tokens before the image, L after it, K labels.
"""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models.layers import Linear, gelu
from miro_jax.pretrained.networks import clip, t5
from miro_jax.pretrained.networks.transformer import Options

Array = jax.Array
START = 0  # the decoder's first token, which is T5's padding


@dataclasses.dataclass(frozen=True)
class ClipFlanT5Config:
    """Sizes of the parts; of the T5's vocabulary only the first `classes` words compete."""

    vision: clip.VisionConfig
    t5: t5.T5Config
    classes: int


class Projector(nnx.Module):
    """Vision tokens `[B, N, W]` to the T5's width, by two linear maps."""

    def __init__(self, width: int, out_width: int, **options: Unpack[Options]):
        self.hidden = Linear((width, out_width), ("embed", "mlp"), **options)
        self.out = Linear((out_width, out_width), ("mlp", "embed"), **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, N, W]` to `[B, N, D]`."""
        return self.out(gelu(self.hidden(x)))


class ClipFlanT5(nnx.Module):
    """The three parts of the model; `read` and `answer` use them."""

    def __init__(self, config: ClipFlanT5Config, **options: Unpack[Options]):
        self.vision = clip.VisionTower(config.vision, **options)
        self.projector = Projector(config.vision.width, config.t5.width, **options)
        self.t5 = t5.T5(config.t5, **options)
        self.classes = config.classes
        self.dtype = options.get("dtype", jnp.float32)

    def read(self, images: Array) -> Array:
        """Encode images `[B, S, S, 3]` uint8 as vision tokens `[B, N, W]` in `dtype`."""
        # The projector's product is in `dtype`: rounding here loses nothing.
        return self.vision.tokens(clip.normalize(images))[:, 1:].astype(self.dtype)

    def answer(
        self, tokens: Array, before: Array, after: Array, mask: Array, labels: Array
    ) -> Array:
        """Compute how likely an answer is.

        Args:
          tokens: [B, N, W], from `read`.
          before: [B, P] int32, ids before the image.
          after: [B, L] int32, ids after it. mask: [B, L] bool, False where there is none.
          labels: [B, K] int32, ids of the answer, the end token included.

        Returns:
          [B, K] float32, the log-probability of each label after those before it.
        """
        x = self.projector(tokens).astype(jnp.float32)
        x = jnp.concatenate([self.t5.embed(before), x, self.t5.embed(after)], axis=1)
        shown = jnp.ones((x.shape[0], x.shape[1] - mask.shape[1]), bool)
        mask = jnp.concatenate([shown, mask], axis=1)  # [B, P + N + L]
        inputs = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        logits = self.t5.decode(inputs, self.t5.encode(x, mask), mask)  # [B, K, V]
        likely = jax.nn.log_softmax(logits[..., : self.classes])
        return jnp.take_along_axis(likely, labels[..., None], axis=-1)[..., 0]
