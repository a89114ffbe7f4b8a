"""Attention of the velocity network: the two blocks that all of RIN is made of.

    process, condition   x <- x + A(x, x);  x <- x + MLP(x)       self-attention
    read, write          x <- x + A(x, source);  x <- x + MLP(x)  cross-attention

Letters: B batch, N query tokens, S source tokens, D width, A heads, H head width.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models import fused_attention
from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import GeluMLP, LayerNorm, LayerScale, Linear, RMSNorm, SwiGLU

Array = jax.Array
_HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # a logit whose weight is 0


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    causal: bool = False,
    kernel: str = "auto",
    trained: bool = False,
) -> Array:
    """Softmax attention with logits in float32.

    Args:
      q: [B, N, A, H]. k, v: [B, S, A, H].
      mask: [B, S] bool, False hides a source token; None shows all. Hidden tokens stand after the
        others, as padding does, of which each row has at least one: cuDNN is given their number.
      causal: hide source tokens that come later than the query token.
      kernel: see `fused_attention`. trained: whether there will be a backward pass.

    Returns:
      [B, N, A, H] in the dtype of q.

    Raises:
      ValueError: k and v are not of the batch, heads and width of q, or differ.
    """
    if k.shape != v.shape or (k.shape[0], *k.shape[2:]) != (q.shape[0], *q.shape[2:]):
        raise ValueError(
            "k and v must be [B, S, A, H] with the B, A and H of q [B, N, A, H]; got q "
            f"{list(q.shape)}, k {list(k.shape)} and v {list(v.shape)}."
        )
    (_, queries, heads, width), sources = q.shape, k.shape[1]
    way = "xla"
    if queries > 1:  # for a single query there are no logits to save
        flags = {"padded": mask is not None, "causal": causal, "trained": trained}
        dtype = jnp.dtype(q.dtype).name
        shape = fused_attention.Shape(queries, sources, heads, width, dtype, **flags)
        way = fused_attention.choose(kernel, shape)
    if way != "xla":
        lengths = None if mask is None else jnp.sum(mask, axis=1, dtype=jnp.int32)
        return fused_attention.run(way, q, k, v, lengths, causal=causal)
    logits = jnp.einsum("bnah,bsah->bans", q, k, preferred_element_type=jnp.float32)
    logits *= 1 / math.sqrt(width)
    if mask is not None:
        logits = jnp.where(mask[:, None, None, :], logits, _HIDDEN)
    if causal:
        seen = jnp.tri(queries, sources, dtype=bool)
        logits = jnp.where(seen[None, None], logits, _HIDDEN)
    return jnp.einsum("bans,bsah->bnah", softmax(logits, q.dtype), v)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(logits: Array, dtype: DTypeLike) -> Array:
    """Softmax over the last axis of logits [..., S] float32, rounded to `dtype`.

    The backward pass keeps what is returned alone, where that of `jax.nn.softmax` also keeps
    exponentials, their sums and weights in float32: 1.3 of the 6.2 GB that a step of the released
    network takes on a CPU, and on a TPU two fifths of what one of its layers keeps in bfloat16.
    """
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


@softmax.defjvp
def _(dtype: DTypeLike, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (logits,), (change,) = primals, tangents
    weights = softmax(logits, dtype)
    w = weights.astype(jnp.float32)
    mean = jnp.sum(w * change, axis=-1, keepdims=True) / jnp.sum(w, axis=-1, keepdims=True)
    return weights, (w * (change - mean)).astype(dtype)  # rounded weights add up to nearly 1


class SelfAttentionBlock(nnx.Module):
    """Pre-norm residual self-attention and feed-forward.

    `style="process"` is RIN's processing layer (RMSNorm, normed q and k, SwiGLU, no qkv bias);
    `style="condition"` is the condition encoder's (LayerNorm, qkv bias, GELU, layer scale 0.1).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        multiplier: int,
        multiple: int,
        style: str,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: str = "auto",
    ):
        self.attention = attention
        process = style == "process"
        head_width = _head_width(width, heads)
        norm = RMSNorm if process else LayerNorm
        self.norm = norm(width)
        self.qkv = Linear(
            (width, 3, heads, head_width),
            ("embed", "pack", "heads", "head_dim"),
            rngs=rngs,
            use_bias=not process,
            dtype=dtype,
        )
        self.q_norm = LayerNorm(head_width, "head_dim") if process else None
        self.k_norm = LayerNorm(head_width, "head_dim") if process else None
        self.out = _out(width, heads, head_width, rngs=rngs, dtype=dtype)
        self.mlp_norm = norm(width)
        if process:
            self.mlp = SwiGLU(width, multiplier, multiple, rngs=rngs, dtype=dtype)
        else:
            self.mlp = GeluMLP(width, multiplier, rngs=rngs, dtype=dtype)
        self.attention_scale = None if process else LayerScale(width)
        self.mlp_scale = None if process else LayerScale(width)

    @traced_once()
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """Map tokens `[B, N, D]`; `mask` [B, N] bool hides tokens as sources."""
        q, k, v = self.qkv.unpack(self.norm(x))  # each [B, N, A, H]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        y = self.out(attend(q, k, v, mask, kernel=self.attention, trained=True))
        x = x + (y if self.attention_scale is None else self.attention_scale(y))
        y = self.mlp(self.mlp_norm(x))
        return x + (y if self.mlp_scale is None else self.mlp_scale(y))


class CrossAttentionBlock(nnx.Module):
    """Pre-norm residual cross-attention (queries normed, sources not) and SwiGLU.

    The attention width is the smaller of the two token widths, as in the release.
    """

    def __init__(
        self,
        width: int,
        source_width: int,
        heads: int,
        multiplier: int,
        multiple: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: str = "auto",
    ):
        self.attention = attention
        head_width = _head_width(min(width, source_width), heads)
        axes = ("embed", "pack", "heads", "head_dim")
        self.norm = RMSNorm(width)
        self.q = Linear(
            (width, heads, head_width),
            (axes[0], *axes[2:]),
            rngs=rngs,
            use_bias=False,
            dtype=dtype,
        )
        self.kv = Linear(
            (source_width, 2, heads, head_width), axes, rngs=rngs, use_bias=False, dtype=dtype
        )
        self.q_norm = LayerNorm(head_width, "head_dim")
        self.k_norm = LayerNorm(head_width, "head_dim")
        self.out = _out(width, heads, head_width, rngs=rngs, dtype=dtype)
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, multiplier, multiple, rngs=rngs, dtype=dtype)

    @traced_once()
    def __call__(self, x: Array, source: Array, mask: Array | None = None) -> Array:
        """Update tokens `[B, N, D]` from `source` [B, S, E]; `mask` [B, S] bool hides sources."""
        q = self.q_norm(self.q(self.norm(x)))  # [B, N, A, H]
        k, v = self.kv.unpack(source)  # each [B, S, A, H]
        x = x + self.out(attend(q, self.k_norm(k), v, mask, kernel=self.attention, trained=True))
        return x + self.mlp(self.mlp_norm(x))


def _out(width: int, heads: int, head_width: int, **options: Any) -> Linear:
    """Return the linear map from heads `[..., A, H]` back to `[..., D]`."""
    axes = ("heads", "head_dim", "embed")
    return Linear((heads, head_width, width), axes, num_in=2, **options)


def _head_width(width: int, heads: int) -> int:
    if width % heads:
        raise ValueError(
            f"An attention width must be a multiple of its heads; got {width} / {heads}."
        )
    return width // heads
