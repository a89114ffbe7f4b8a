"""What a few-step student knows besides time: where its step ends, and how much guidance it has.

A student predicts the average velocity of the guided flow between two times,

    u(x_t, t, r, w) = (x_t - x_r) / (t - r),        x_r = x_t - (t - r) u
    du/dt = (v - u) / (t - r)    along the flow     the MeanFlow identity, u = v at r = t

(Mean Flows, arXiv 2505.13447, Eqs. 3 to 6), so that one evaluation makes a step of any length. Both
inputs enter beside the embedding of time, through embeddings that start at zero: an untrained
student is its teacher without guidance, for every r and w.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models.layers import ScalarEmbedding

Array = jax.Array


class JumpEmbedding(nnx.Module):
    """Embed the length of a step and the guidance scale; zero at the start."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        self.span = ScalarEmbedding(width, rngs=rngs, dtype=dtype)
        self.guidance = ScalarEmbedding(width, rngs=rngs, dtype=dtype)
        for embedding in (self.span, self.guidance):
            embedding.out.kernel[...] = jnp.zeros_like(embedding.out.kernel[...])

    def __call__(self, span: Array, scale: Array) -> Array:
        """Embed t - r `[B]` in [0, 1] and guidance scales `[B]` from 0 up, as `[B, D]`."""
        return self.span(span) + self.guidance(scale / (1.0 + scale))
