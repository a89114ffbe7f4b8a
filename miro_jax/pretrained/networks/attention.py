"""Softmax attention of the pretrained towers; on CPUs picture by picture.

    out = softmax(q k^T / sqrt(H)) v, logits and softmax in float32

Accelerators take the whole batch at once. On a CPU the logits of a batch do not fit into the
caches: at 257 tokens, 16 heads and 16 pictures one row of the batch after the other takes a quarter
of the time.

Letters: B batch, N query tokens, S source tokens, A heads, H head width.
"""

from functools import partial

import jax

from miro_jax.pretrained.networks.slices import batch_is_split

Array = jax.Array
# Logits of a batch in float32; smaller ones stay in the caches anyway.
CACHE_BYTES = 2**23


def attend(q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
    """Let each query token look at the source tokens.

    Args:
      q: [B, N, A, H]. k, v: [B, S, A, H].
      causal: hide source tokens that come later than the query token.

    Returns:
      [B, N, A, H] in the dtype of q.
    """
    whole = partial(jax.nn.dot_product_attention, is_causal=causal)
    batch, queries, heads, _ = q.shape
    small = 4 * batch * heads * queries * k.shape[1] <= CACHE_BYTES
    if small or batch == 1 or batch_is_split():
        return whole(q, k, v)

    def one_by_one(q, k, v):
        return jax.lax.map(lambda row: whole(*row), (q, k, v))

    return jax.lax.platform_dependent(q, k, v, cpu=one_by_one, default=whole)
