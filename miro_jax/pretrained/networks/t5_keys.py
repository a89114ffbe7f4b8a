"""Published weights of T5 1.1 and FLAN-T5: the encoder alone, or encoder and decoder.

Source: names of `transformers.T5ForConditionalGeneration`.
"""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from miro_jax.pretrained.networks.t5 import T5, T5Config, T5Encoder
from miro_jax.pretrained.networks.transformer import TANH_GELUS
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import Layout, Network, Placing, table
from miro_jax.pretrained.weights.tensors import Tensor

ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight")
# The common names that transformers takes for a T5's own.
ALSO_NAMED = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
# Names of one activation; the first stands for gelu_new.
GATED_GELUS = ("gated-gelu", *(f"gated-{name}" for name in TANH_GELUS))
# Sizes that are not guessed, though transformers has a default of each.
REQUIRED = (
    "d_model",
    "num_heads",
    "d_kv",
    "d_ff",
    "num_layers",
    "vocab_size",
    "relative_attention_num_buckets",
    "layer_norm_epsilon",
)


ATTENTION = table("{q,k,v,o}  {q,k,v,out}")
MLP = table("{wi_0,wi_1,wo}  {gate,value,out}")
STACK = table(
    """
    block.*.layer.0.SelfAttention  blocks/*/attention  attention
    block.0.layer.0.SelfAttention.relative_attention_bias.weight  table  array
    block.*.layer.0.layer_norm     blocks/*/norm
    final_layer_norm               norm
    """,
    attention=ATTENTION,
)
ENCODER_TABLE = table(
    """
    shared.weight                           embedding                  array
    encoder                                 encoder                    stack
    encoder.block.*.layer.1.layer_norm      encoder/blocks/*/mlp_norm
    encoder.block.*.layer.1.DenseReluDense  encoder/blocks/*/mlp       mlp
    """,
    stack=STACK,
    mlp=MLP,
)
DECODER_TABLE = table(
    """
    decoder                                  decoder                      stack
    decoder.block.*.layer.1.layer_norm       decoder/blocks/*/cross_norm
    decoder.block.*.layer.1.EncDecAttention  decoder/blocks/*/cross       attention
    decoder.block.*.layer.2.layer_norm       decoder/blocks/*/mlp_norm
    decoder.block.*.layer.2.DenseReluDense   decoder/blocks/*/mlp         mlp
    lm_head.weight                           head                         kernel
    """,
    stack=STACK,
    attention=ATTENTION,
    mlp=MLP,
)
TABLE = ENCODER_TABLE + DECODER_TABLE
SMALL = r".*(norm/scale|/table)"  # parameters that stay float32 in a bfloat16 network
ENCODER_IGNORED = r"decoder\..*|lm_head\.weight"
# A table that some files hold and no model uses.
IGNORED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
ENCODER_LAYOUT = Layout(T5Encoder, ENCODER_TABLE, ENCODER_IGNORED, SMALL)
LAYOUT = Layout(T5, TABLE, IGNORED, SMALL)


def merge_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reduce the names of the embedding, up to four in a file, to `shared.weight`."""
    merged = {key: tensor for key, tensor in tensors.items() if key not in ALIASES}
    for key in ALIASES:
        if key not in tensors:
            continue
        first = merged.setdefault("shared.weight", tensors[key])
        if first is not tensors[key] and not np.array_equal(first.read(), tensors[key].read()):
            raise ValueError(f"{key} must be a copy of shared.weight; it holds other numbers.")
    return merged


def parse_config(config: Mapping[str, Any], encoder_only: bool = False) -> T5Config:
    """Read the sizes from a `config.json`.

    Args:
      encoder_only: the decoder is not used: how its output is scaled does not matter.
    """
    given = {ALSO_NAMED.get(key, key) for key in config}
    if missing := [key for key in REQUIRED if key not in given]:
        raise ValueError(f"config.json must have the key {missing[0]!r} of a T5.")
    own = hf.read_config("T5Config", config)
    # transformers 5 writes tie_word_embeddings = True for every T5; this key shows the difference.
    wanted = {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
    tied = config.get("tie_word_embeddings")
    remedy = f"T5 1.1 has these (or tie_word_embeddings = False; got {tied}); the first T5 has not."
    if encoder_only:
        del wanted["scale_decoder_outputs"]
    given = {key: getattr(own, key) for key in wanted}
    # What transformers computes by: it writes these two beside `feed_forward_proj`.
    computed = "gated-" * bool(own.is_gated_act) + str(own.dense_act_fn)
    named = config.get("feed_forward_proj", computed)
    odd = (name for name in (named, computed) if name not in GATED_GELUS)
    given["feed_forward_proj"] = next(odd, "gated-gelu")
    hf.require_options(given, wanted, "config.json", remedy)
    return T5Config(
        width=own.d_model,
        heads=own.num_heads,
        head_width=own.d_kv,
        mlp_width=own.d_ff,
        encoder_blocks=own.num_layers,
        decoder_blocks=own.num_decoder_layers,
        vocabulary=own.vocab_size,
        buckets=own.relative_attention_num_buckets,
        max_distance=own.relative_attention_max_distance,
        epsilon=own.layer_norm_epsilon,
    )


def load(
    tensors: Mapping[str, Tensor],
    config: T5Config,
    encoder_only: bool = False,
    **placing: Unpack[Placing],
) -> Network:
    """Load a `T5`, or its `T5Encoder` alone; what belongs to the decoder is not read then."""
    layout = ENCODER_LAYOUT if encoder_only else LAYOUT
    return layout.load(merge_aliases(tensors), config, **placing)
