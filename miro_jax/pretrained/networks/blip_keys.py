"""Weights of BLIP in the layout of its own code, as ImageReward publishes them.

The sizes of the text tower stand in `med_config.json`; those of the vision tower are seen from the
weights, apart from two numbers that all published ones share. What the scorer does not use is
ignored: the projections of BLIP's contrastive loss.

Source: names of BLIP's `VisionTransformer` and `BertModel`.
"""

from collections.abc import Mapping
from typing import Any, Unpack

from miro_jax.pretrained.networks.blip import TextConfig, TextTower, VisionConfig, VisionTower
from miro_jax.pretrained.networks.clip_keys import image_sizes, shape_of, stack_sizes
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import (
    SMALL,
    Layout,
    Network,
    Placing,
    below,
    packed,
    table,
)
from miro_jax.pretrained.weights.tensors import Tensor

PREFIX = "blip."  # before the names of both towers
HEAD_WIDTH = 64  # of every published vision tower; weights do not show it
VISION_EPSILON = 1e-6
# A key that a `med_config.json` lacks has the value of BERT-base.
TEXT_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}

VISION_BLOCK = table(
    """
    norm{1,2}      {norm,mlp_norm}
    attn.qkv       .                 packed
    attn.proj      out
    mlp.{fc1,fc2}  {hidden,mlp_out}
    """,
    packed=packed(),
)
VISION = table(
    """
    cls_token         patches/class_token  array
    pos_embed         patches/positions    array
    patch_embed.proj  patches/linear
    blocks.*          blocks/*             block
    norm              out_norm
    """,
    block=VISION_BLOCK,
)
ATTENTION = table("""
    self.{query,key,value}    {q,k,v}
    output.{dense,LayerNorm}  {out,norm}
""")
TEXT_BLOCK = table(
    """
    {attention,crossattention}  {attention,cross}  attention
    intermediate.dense          hidden
    output.{dense,LayerNorm}    {out,norm}
    """,
    attention=ATTENTION,
)
TEXT = table(
    """
    embeddings.word_embeddings.weight      embedding  array
    embeddings.position_embeddings.weight  positions  array
    embeddings.LayerNorm                   norm
    encoder.layer.*                        blocks/*   block
    """,
    block=TEXT_BLOCK,
)


def vision_config(tensors: Mapping[str, Tensor]) -> VisionConfig:
    """Deduce the sizes of the vision tower from its weights; no file states them."""
    prefix = f"{PREFIX}visual_encoder"
    sizes = image_sizes(tensors, f"{prefix}.patch_embed.proj.weight", f"{prefix}.pos_embed")
    return VisionConfig(
        **sizes,
        **stack_sizes(tensors, f"{prefix}.blocks", "mlp.fc1.bias"),
        heads=max(sizes["width"] // HEAD_WIDTH, 1),
        activation="gelu",
        epsilon=VISION_EPSILON,
    )


def text_config(config: Mapping[str, Any], source_width: int) -> TextConfig:
    """Read the sizes of the text tower from a `med_config.json`.

    Args:
      config: of the file; its `encoder_width` is not that of the weights.
      source_width: S, of the vision tower.
    """
    own = hf.with_defaults(config, TEXT_DEFAULTS, "the config of the text tower")
    return TextConfig(
        width=own["hidden_size"],
        layers=own["num_hidden_layers"],
        heads=own["num_attention_heads"],
        mlp_width=own["intermediate_size"],
        activation=own["hidden_act"],
        epsilon=own["layer_norm_eps"],
        vocabulary=own["vocab_size"],
        max_tokens=own["max_position_embeddings"],
        source_width=source_width,
    )


def text_config_of_shapes(tensors: Mapping[str, Tensor], source_width: int) -> TextConfig:
    """Deduce the sizes of the text tower from its weights; heads are 64 wide."""
    prefix = f"{PREFIX}text_encoder"
    vocabulary, width = shape_of(tensors, f"{prefix}.embeddings.word_embeddings.weight", 2)
    positions, _ = shape_of(tensors, f"{prefix}.embeddings.position_embeddings.weight", 2)
    stack = stack_sizes(tensors, f"{prefix}.encoder.layer", "intermediate.dense.bias")
    return TextConfig(
        width=width,
        **stack,
        heads=max(width // HEAD_WIDTH, 1),
        activation=TEXT_DEFAULTS["hidden_act"],
        epsilon=TEXT_DEFAULTS["layer_norm_eps"],
        vocabulary=vocabulary,
        max_tokens=positions,
        source_width=source_width,
    )


def load_towers(
    tensors: Mapping[str, Tensor],
    vision: VisionConfig,
    text: TextConfig,
    **placing: Unpack[Placing],
) -> tuple[Network, Network]:
    """Load the vision and the text tower of a file in the layout of BLIP's own code.

    Args:
      tensors: of the file; all below PREFIX belong to the towers or to heads that are not used.
    """
    own = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    unused = r"|vision_proj\..*|text_proj\..*|.*\.position_ids"
    images = Layout(
        VisionTower, below("visual_encoder", "", VISION), rf"text_encoder\..*{unused}", SMALL
    )
    texts = Layout(
        TextTower, below("text_encoder", "", TEXT), rf"visual_encoder\..*{unused}", SMALL
    )
    return images.load(own, vision, **placing), texts.load(own, text, **placing)
