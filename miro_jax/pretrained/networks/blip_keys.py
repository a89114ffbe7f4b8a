"""Weights of BLIP in the layout of its own code, as ImageReward publishes them.

The sizes of the text tower stand in `med_config.json`; those of the vision tower are seen from the
weights, apart from two numbers that all published ones share. What the scorer does not use is
ignored: the projections of BLIP's contrastive loss.

Source: names of BLIP's `VisionTransformer` and `BertModel`.
"""

from collections.abc import Mapping
from typing import Any

import jax

from miro_jax.pretrained.networks.blip import TextConfig, TextTower, VisionConfig, VisionTower
from miro_jax.pretrained.weights.convert import (
    CONV,
    LINEAR,
    NORM,
    Layout,
    Network,
    below,
    packed,
    same,
)
from miro_jax.pretrained.weights.tensors import Tensor

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
SMALL = r".*(scale|bias|class_token|positions)"  # stay float32: they cost little

VISION_BLOCK = (
    *below("norm1", "norm", NORM),
    *packed("attn.qkv.weight", "attn.qkv.bias"),
    *below("attn.proj", "out", LINEAR),
    *below("norm2", "mlp_norm", NORM),
    *below("mlp.fc1", "hidden", LINEAR),
    *below("mlp.fc2", "mlp_out", LINEAR),
)
VISION = (
    ("cls_token", "patches/class_token", same),
    ("pos_embed", "patches/positions", same),
    *below("patch_embed.proj", "patches/linear", CONV),
    *below("blocks.*", "blocks/*", VISION_BLOCK),
    *below("norm", "out_norm", NORM),
)
ATTENTION = (
    *below("self.query", "q", LINEAR),
    *below("self.key", "k", LINEAR),
    *below("self.value", "v", LINEAR),
    *below("output.dense", "out", LINEAR),
    *below("output.LayerNorm", "norm", NORM),
)
TEXT_BLOCK = (
    *below("attention", "attention", ATTENTION),
    *below("crossattention", "cross", ATTENTION),
    *below("intermediate.dense", "hidden", LINEAR),
    *below("output.dense", "out", LINEAR),
    *below("output.LayerNorm", "norm", NORM),
)
TEXT = (
    ("embeddings.word_embeddings.weight", "embedding", same),
    ("embeddings.position_embeddings.weight", "positions", same),
    *below("embeddings.LayerNorm", "norm", NORM),
    *below("encoder.layer.*", "blocks/*", TEXT_BLOCK),
)


def vision_config(tensors: Mapping[str, Tensor], prefix: str) -> VisionConfig:
    """Deduce the sizes of the vision tower, which no file states, from its weights below `prefix`.

    Raises:
      ValueError: a weight that shows a size is missing.
    """
    width, _, patch, _ = _shape(tensors, f"{prefix}.patch_embed.proj.weight", 4)
    *_, num_tokens, _ = _shape(tensors, f"{prefix}.pos_embed", 3)
    grid = round((num_tokens - 1) ** 0.5)
    blocks = {
        k.removeprefix(f"{prefix}.blocks.").split(".")[0]
        for k in tensors
        if k.startswith(f"{prefix}.blocks.")
    }
    return VisionConfig(
        width=width,
        layers=len(blocks),
        heads=max(width // HEAD_WIDTH, 1),
        mlp_width=_shape(tensors, f"{prefix}.blocks.0.mlp.fc1.bias", 1)[0],
        activation="gelu",
        epsilon=VISION_EPSILON,
        image_size=grid * patch,
        patch_size=patch,
    )


def text_config(config: Mapping[str, Any], source_width: int) -> TextConfig:
    """Read the sizes of the text tower from a `med_config.json`.

    Args:
      config: of the file; its `encoder_width` is not that of the weights.
      source_width: S, of the vision tower.
    """
    own = TEXT_DEFAULTS | dict(config)
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


def load_towers(
    tensors: Mapping[str, Tensor],
    vision: VisionConfig,
    text: TextConfig,
    *,
    prefix: str = "blip.",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Network, Network]:
    """Load the vision and the text tower of a file in the layout of BLIP's own code.

    Args:
      tensors: of the file; all below `prefix` belong to the towers or to heads that are not used.
      prefix: before `visual_encoder` and `text_encoder`.

    Raises:
      ValueError: the weights do not fit, see `weights.convert.Layout`.
    """
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    unused = r"vision_proj\..*|text_proj\..*|.*\.position_ids"
    towers = (
        (VisionTower, vision, below("visual_encoder", "", VISION), "text_encoder"),
        (TextTower, text, below("text_encoder", "", TEXT), "visual_encoder"),
    )
    first, second = (
        Layout(make, table, rf"{other}\..*|{unused}", SMALL).load(
            own, config, dtype=dtype, mesh=mesh
        )
        for make, config, table, other in towers
    )
    return first, second


def _shape(tensors: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    if key not in tensors or len(tensors[key].shape) != rank:
        raise ValueError(f"The weights must hold {key} with {rank} axes. Is this ImageReward?")
    return tensors[key].shape
