"""T5 1.1 and FLAN-T5: the encoder alone, or encoder and decoder.

    x <- x + O softmax(Q(norm x) K(norm x)^T + bias + mask) V(norm x)      no scaling of the logits
    x <- x + W_o (gelu(W_0 norm x) * W_1 norm x)                           gelu by its tanh formula

Norms divide by the root mean square and have no mean and no bias; no linear map has a bias. The
bias of attention depends on the distance of key and query: a table of buckets, one per stack,
shared by its blocks; attention to the encoder's tokens has none. The decoder's output has its own
table (`head`), apart from the embedding.

Source: Raffel et al. 2020 (arXiv 1910.10683); version 1.1 in Shazeer 2020 (arXiv 2002.05202);
transformers, `models/t5`. The residual stream is float32, matrix products run in `dtype`.

Letters: B batch, N query tokens, S source tokens, D width, A heads, H head width, F MLP width,
V vocabulary.
"""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.compiling import traced_once
from miro_jax.models.layers import Linear, RMSNorm
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks.transformer import Options, Sizes, attention_maps, table

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class T5Config(Sizes):
    """Sizes of a T5."""

    width: int
    heads: int
    head_width: int
    mlp_width: int
    encoder_blocks: int
    decoder_blocks: int
    vocabulary: int
    buckets: int  # of distances
    max_distance: int  # all larger ones share a bucket
    epsilon: float  # of the norms


def bucket_distances(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Number the buckets of distances >= 0: one each below buckets / 2, then by logarithm.

    Args:
      distance: integers. buckets: how many there are. max_distance: from here on all the last.

    Returns:
      Integers in [0, buckets), of the shape of `distance`.
    """
    exact = buckets // 2
    # In float32 like the trained models: a bucket's edge may fall to either side of an integer.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(np.log(max_distance / exact)) * np.float32(buckets - exact)
    large = exact + np.trunc(ratio).astype(np.int64)
    return np.where(distance < exact, distance, np.minimum(large, buckets - 1))


def relative_buckets(queries: int, keys: int, config: T5Config, bidirectional: bool) -> np.ndarray:
    """Number the bucket of every pair of positions: [N, S] integers in [0, config.buckets)."""
    relative = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    if not bidirectional:  # the future is hidden; it shares the bucket of distance 0
        return bucket_distances(np.maximum(-relative, 0), config.buckets, config.max_distance)
    half = config.buckets // 2
    return half * (relative > 0) + bucket_distances(np.abs(relative), half, config.max_distance)


class Attention(nnx.Module):
    """Multi-head attention without scaling; heads x head width may differ from the width."""

    def __init__(self, config: T5Config, **options: Unpack[Options]):
        c = config
        self.q, self.k, self.v, self.out = attention_maps(
            c.width, c.heads, head_width=c.head_width, biases="", **options
        )

    def __call__(self, x: Array, source: Array, bias: Array | None, mask: Array) -> Array:
        """Attend from `x` [B, N, D] to `source` [B, S, D].

        Args:
          bias: [1, A, N, S] float32, added to the logits; None adds nothing.
          mask: bool, broadcast to [B, A, N, S]; False hides a source token.

        Returns:
          [B, N, D] in the matrix products' dtype.
        """
        # Logits, bias, mask and softmax are float32 inside.
        y = jax.nn.dot_product_attention(
            self.q(x), self.k(source), self.v(source), bias=bias, mask=mask, scale=1.0
        )
        return self.out(y)


class GatedMLP(nnx.Module):
    """Feed-forward `W_o (gelu(W_0 x) * W_1 x)`."""

    def __init__(self, config: T5Config, **options: Unpack[Options]):
        shape, axes = (config.width, config.mlp_width), ("embed", "mlp")
        self.gate = Linear(shape, axes, use_bias=False, **options)
        self.value = Linear(shape, axes, use_bias=False, **options)
        self.out = Linear(shape[::-1], axes[::-1], use_bias=False, **options)

    def __call__(self, x: Array) -> Array:
        """Map `[B, N, D]` to `[B, N, D]`."""
        return self.out(jax.nn.gelu(self.gate(x), approximate=True) * self.value(x))


class Block(nnx.Module):
    """Self-attention, in the decoder attention to the encoder's tokens, feed-forward."""

    def __init__(self, config: T5Config, decoder: bool, **options: Unpack[Options]):
        def norm():
            return RMSNorm(config.width, epsilon=config.epsilon)

        self.norm = norm()
        self.attention = Attention(config, **options)
        self.cross_norm = norm() if decoder else None
        self.cross = Attention(config, **options) if decoder else None
        self.mlp_norm = norm()
        self.mlp = GatedMLP(config, **options)

    @traced_once()
    def __call__(
        self,
        x: Array,
        bias: Array,
        mask: Array,
        source: Array | None = None,
        source_mask: Array | None = None,
    ) -> Array:
        """Map `[B, N, D]` float32; the source `[B, S, D]` is the decoder's alone."""
        y = self.norm(x)
        x = x + self.attention(y, y, bias, mask).astype(x.dtype)
        if self.cross is not None:
            x = x + self.cross(self.cross_norm(x), source, None, source_mask).astype(x.dtype)
        x = x + self.mlp(self.mlp_norm(x)).astype(x.dtype)
        return constrain(x, "batch", None, None)


class Stack(nnx.Module):
    """The blocks of the encoder or of the decoder, their bias table and the last norm."""

    def __init__(self, config: T5Config, decoder: bool, **options: Unpack[Options]):
        count = config.decoder_blocks if decoder else config.encoder_blocks
        self.table = table(config.buckets, config.heads, "buckets", "heads")
        self.blocks = nnx.List(Block(config, decoder, **options) for _ in range(count))
        self.norm = RMSNorm(config.width, epsilon=config.epsilon)
        self.config, self.decoder = config, decoder

    def bias(self, length: int) -> Array:
        """Return the bias of self-attention, [1, A, N, N] float32."""
        buckets = relative_buckets(length, length, self.config, bidirectional=not self.decoder)
        return self.table[...].astype(jnp.float32)[buckets].transpose(2, 0, 1)[None]

    def __call__(self, x: Array, mask: Array, *source: Array) -> Array:
        """Map embedded tokens `[B, N, D]` float32 to `[B, N, D]` float32.

        Args:
          mask: of self-attention, bool, broadcast to [B, A, N, N].
          source: the decoder's alone: encoded [B, S, D] and mask, broadcast to [B, A, N, S].
        """
        bias = self.bias(x.shape[1])
        for block in self.blocks:
            x = block(x, bias, mask, *source)
        return self.norm(x)


class T5Encoder(nnx.Module):
    """Token ids to one vector per token."""

    def __init__(self, config: T5Config, **options: Unpack[Options]):
        self.embedding = table(config.vocabulary, config.width, "vocab")
        self.encoder = Stack(config, decoder=False, **options)

    def embed(self, ids: Array) -> Array:
        """Look ids `[B, N]` up: `[B, N, D]` float32."""
        return self.embedding[...][ids].astype(jnp.float32)

    def encode(self, embedded: Array, mask: Array) -> Array:
        """Encode embedded tokens.

        Args:
          embedded: [B, N, D] float32. mask: [B, N] bool, False hides a token from all others.

        Returns:
          [B, N, D] float32; without meaning where the mask is False.
        """
        return self.encoder(embedded, mask[:, None, None, :])

    def __call__(self, ids: Array, mask: Array) -> Array:
        """Encode ids `[B, N]` int32 under a mask `[B, N]` bool: `[B, N, D]` float32."""
        return self.encode(self.embed(ids), mask)


class T5(T5Encoder):
    """Encoder and decoder; the decoder gives logits of the next token."""

    def __init__(self, config: T5Config, **options: Unpack[Options]):
        super().__init__(config, **options)
        self.decoder = Stack(config, decoder=True, **options)
        self.head = table(config.width, config.vocabulary, "embed", "vocab")
        self.dtype = options.get("dtype", jnp.float32)

    def decode(self, ids: Array, encoded: Array, mask: Array) -> Array:
        """Predict the token after each of some tokens.

        Args:
          ids: [B, N] int32, the output so far, from the start token (0) on.
          encoded: [B, S, D] float32, from `encode`. mask: [B, S] bool, as there.

        Returns:
          logits [B, N, V] float32.
        """
        length = ids.shape[1]
        past = jnp.asarray(np.tri(length, dtype=bool))[None, None]
        decoded = self.decoder(self.embed(ids), past, encoded, mask[:, None, None, :])
        x, head = decoded.astype(self.dtype), self.head[...].astype(self.dtype)
        return jnp.einsum("bnd,dv->bnv", x, head, preferred_element_type=jnp.float32)
