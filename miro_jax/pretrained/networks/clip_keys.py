"""Published CLIP weights: sizes from `config.json` or from shapes, and the two layouts of keys.

Hugging Face's layout names q, k and v apart and stores every kernel `[out, in]`. OpenAI's, which
open_clip keeps, packs q, k and v, and stores the projections into the shared space as they are
applied, `x @ P`. Which one a file has is seen from its keys; what belongs to the other tower is
ignored.

Source: names of `transformers.CLIPModel` and of `open_clip.CLIP`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Unpack

from miro_jax.data.json_file import check_fields
from miro_jax.pretrained.networks.clip import (
    MEAN,
    STD,
    TextConfig,
    TextTower,
    VisionConfig,
    VisionTower,
)
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import Layout, Network, Placing, packed, table
from miro_jax.pretrained.weights.tensors import Tensor

Tensors = Mapping[str, Tensor]

EPSILON = 1e-5  # of OpenAI's norms
# Written by mistake in the first releases: it stands for "the largest token".
NO_END_TOKEN = 2

OPEN_CLIP = {
    "model_cfg": {
        "vision_cfg": {"head_width?": int, "image_size?": (int, [int])},
        "text_cfg": {"heads?": int},
        "quick_gelu?": bool,
    },
    "preprocess_cfg?": dict,
}
PREPROCESSING = {"mean": list(MEAN), "std": list(STD), "mode": "RGB"}
PREPROCESSING |= {"interpolation": "bicubic", "resize_mode": "shortest"}

BLOCK = table("""
    layer_norm1             norm
    self_attn.{q,k,v}_proj  {q,k,v}
    self_attn.out_proj      out
    layer_norm2             mlp_norm
    mlp.{fc1,fc2}           {hidden,mlp_out}
""")
VISION_BODY = table(
    """
    embeddings.patch_embedding            patches/linear
    embeddings.class_embedding            patches/class_token  array
    embeddings.position_embedding.weight  patches/positions    array
    pre_layrnorm                          norm
    encoder.layers.*                      blocks/*             block
    post_layernorm                        out_norm
    """,  # their spelling
    block=BLOCK,
)
VISION = table(
    """
    vision_model       .           body
    visual_projection  projection
    """,
    body=VISION_BODY,
)
TEXT = table(
    """
    text_model.embeddings.token_embedding.weight     embedding  array
    text_model.embeddings.position_embedding.weight  positions  array
    text_model.encoder.layers.*                      blocks/*   block
    text_model.final_layer_norm                      out_norm
    text_projection                                  projection
    """,
    block=BLOCK,
)
OPEN_BLOCK = table(
    """
    ln_{1,2}           {norm,mlp_norm}
    attn               .                 packed
    attn.out_proj      out
    mlp.{c_fc,c_proj}  {hidden,mlp_out}
    """,
    packed=packed("in_proj_weight", "in_proj_bias"),
)
OPEN_VISION = table(
    """
    visual.conv1                    patches/linear
    visual.class_embedding          patches/class_token  array
    visual.positional_embedding     patches/positions    array
    visual.ln_pre                   norm
    visual.transformer.resblocks.*  blocks/*             block
    visual.ln_post                  out_norm
    visual.proj                     projection/kernel    straight
    """,
    block=OPEN_BLOCK,
)
OPEN_TEXT = table(
    """
    token_embedding.weight   embedding          array
    positional_embedding     positions          array
    transformer.resblocks.*  blocks/*           block
    ln_final                 out_norm
    text_projection          projection/kernel  straight
    """,
    block=OPEN_BLOCK,
)

OF_VISION = r"vision_model\..*|visual_projection\..*|visual\..*"
OF_TEXT = (
    r"text_model\..*|text_projection(\..*)?|token_embedding\..*|positional_embedding"
    r"|transformer\..*|ln_final\..*|attn_mask"
)
OF_NEITHER = r"logit_scale|(.*\.)?position_ids"


def vision_config(config: Mapping[str, Any], projection: bool = True) -> VisionConfig:
    """Read the sizes of the vision tower.

    Args:
      config: a `config.json`, of the whole model or of its vision tower alone.
      projection: False omits the last norm and the projection.
    """
    if "vision_config" in config or "vision_config_dict" in config:
        whole = hf.read_config("CLIPConfig", config)
        own, width = whole.vision_config, whole.projection_dim
    else:
        own = hf.read_config("CLIPVisionConfig", config)
        width = own.projection_dim
    return VisionConfig(
        **_stack(own),
        image_size=_side(own.image_size),
        patch_size=_side(own.patch_size),
        projection=width if projection else None,
    )


def _side(size: Any) -> Any:
    """Return the side of a square that may be written as [side, side]."""
    return size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size


def configs(config: Mapping[str, Any]) -> tuple[VisionConfig, TextConfig]:
    """Read the sizes of both towers from a `config.json` of the whole model."""
    return vision_config(config), text_config(config)


def _stack(own: Any) -> dict[str, Any]:
    """Return the arguments of a `StackConfig`."""
    return {
        "width": own.hidden_size,
        "layers": own.num_hidden_layers,
        "heads": own.num_attention_heads,
        "mlp_width": own.intermediate_size,
        "activation": own.hidden_act,
        "epsilon": own.layer_norm_eps,
    }


def text_config(config: Mapping[str, Any]) -> TextConfig:
    """Read the sizes of the text tower from a `config.json` of the whole model, or of it alone."""
    if config.get("model_type") == "clip_text_model":
        own = hf.read_config("CLIPTextConfig", config)
        width = own.projection_dim
    else:
        whole = hf.read_config("CLIPConfig", config)
        own, width = whole.text_config, whole.projection_dim
    end = own.eos_token_id
    return TextConfig(
        **_stack(own),
        vocabulary=own.vocab_size,
        max_tokens=own.max_position_embeddings,
        projection=width,
        end_token=None if end == NO_END_TOKEN else end,
    )


def configs_of_shapes(
    tensors: Tensors, activation: str = "gelu", heads: tuple[int, int] | None = None
) -> tuple[VisionConfig, TextConfig]:
    """Deduce the sizes of a file in OpenAI's layout, whose repository has no `config.json`.

    Args:
      tensors: of the file.
      activation: not to be seen from the weights.
      heads: of the vision and of the text tower; neither are they. None takes the family's rule:
        heads of 64, and no more than 16 of them in the vision tower.
    """
    sizes = {"activation": activation, "epsilon": EPSILON}
    blocks = ("transformer.resblocks", "mlp.c_fc.bias")
    width = shape_of(tensors, "visual.conv1.weight", 4)[0]
    vocabulary, text_width = shape_of(tensors, "token_embedding.weight", 2)
    vision_heads, text_heads = heads or (min(width // 64, 16), text_width // 64)
    vision = VisionConfig(
        **image_sizes(tensors, "visual.conv1.weight", "visual.positional_embedding"),
        **stack_sizes(tensors, f"visual.{blocks[0]}", blocks[1]),
        heads=vision_heads,
        projection=shape_of(tensors, "visual.proj", 2)[1],
        **sizes,
    )
    text = TextConfig(
        width=text_width,
        **stack_sizes(tensors, *blocks),
        heads=text_heads,
        vocabulary=vocabulary,
        max_tokens=shape_of(tensors, "positional_embedding", 2)[0],
        projection=shape_of(tensors, "text_projection", 2)[1],
        end_token=None,
        **sizes,
    )
    return vision, text


def configs_of_open_clip(
    config: Mapping[str, Any], tensors: Tensors
) -> tuple[VisionConfig, TextConfig]:
    """Take from an `open_clip_config.json` what shapes do not show, and the sizes from them."""
    check_fields(config, OPEN_CLIP, "its model")
    hf.require_options(config.get("preprocess_cfg", {}), PREPROCESSING, "preprocess_cfg")
    own = config["model_cfg"]
    width = shape_of(tensors, "visual.conv1.weight", 4)[0]
    heads = width // own["vision_cfg"].get("head_width", 64), own["text_cfg"].get("heads", 8)
    activation = "quick_gelu" if own.get("quick_gelu") else "gelu"
    vision, text = configs_of_shapes(tensors, activation, heads)
    size = _side(own["vision_cfg"].get("image_size", vision.image_size))
    return dataclasses.replace(vision, image_size=size), text


def image_sizes(tensors: Tensors, patches: str, positions: str) -> dict[str, int]:
    """Deduce width and sides of a vision tower from the shapes of two weights."""
    width, _, patch, _ = shape_of(tensors, patches, 4)
    *_, num_tokens, _ = shape_of(tensors, positions)
    side = round((num_tokens - 1) ** 0.5) * patch
    return {"width": width, "image_size": side, "patch_size": patch}


def stack_sizes(tensors: Tensors, blocks: str, hidden: str) -> dict[str, int]:
    """Deduce the number of blocks below a key, and the width of their hidden layer."""
    matches = (re.match(rf"{re.escape(blocks)}\.(\d+)\.", key) for key in tensors)
    return {
        "layers": len({match[1] for match in matches if match}),
        "mlp_width": shape_of(tensors, f"{blocks}.0.{hidden}", 1)[0],
    }


def shape_of(tensors: Tensors, key: str, rank: int | None = None) -> tuple[int, ...]:
    """Return the shape of a tensor; ValueError if there is none, or of another rank."""
    if key not in tensors or rank not in (None, len(tensors[key].shape)):
        got = f"{tensors[key].shape}" if key in tensors else "none"
        raise ValueError(
            f"The weights must hold {key}{f' with {rank} axes' if rank else ''}; got {got}. "
            "Are they of another model?"
        )
    return tensors[key].shape


def load_vision(tensors: Tensors, config: VisionConfig, **placing: Unpack[Placing]) -> Network:
    """Load the vision tower of a file in either layout; the text tower is ignored."""
    ignored = f"{OF_NEITHER}|{OF_TEXT}"
    if config.projection is None:
        ignored += (
            r"|vision_model\.post_layernorm\..*|visual_projection\..*|visual\.(ln_post|proj)(\..*)?"
        )
    rows = OPEN_VISION if is_open(tensors) else VISION
    return Layout(VisionTower, rows, ignored).load(tensors, config, **placing)


def load_text(tensors: Tensors, config: TextConfig, **placing: Unpack[Placing]) -> Network:
    """Load the text tower of a file in either layout; the vision tower is ignored."""
    rows = OPEN_TEXT if is_open(tensors) else TEXT
    layout = Layout(TextTower, rows, f"{OF_NEITHER}|{OF_VISION}")
    return layout.load(tensors, config, **placing)


def logit_scale(tensors: Tensors) -> float:
    """Read exp(logit_scale), the factor of the cosine."""
    shape_of(tensors, "logit_scale")
    return math.exp(float(tensors["logit_scale"].read().reshape(())))


def is_open(tensors: Tensors) -> bool:
    """Return whether a file is in OpenAI's layout rather than in Hugging Face's."""
    return "visual.conv1.weight" in tensors or "token_embedding.weight" in tensors
