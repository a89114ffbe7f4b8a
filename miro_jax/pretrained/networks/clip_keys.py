"""Published CLIP weights: sizes from `config.json` or from shapes, and the two layouts of keys.

Hugging Face's layout names q, k and v apart and stores every kernel `[out, in]`. OpenAI's, which
open_clip keeps, packs q, k and v, and stores the projections into the shared space as they are
applied, `x @ P`. Which one a file has is seen from its keys; what belongs to the other tower is
ignored.

Source: names of `transformers.CLIPModel` and of `open_clip.CLIP`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax

from miro_jax.pretrained.networks.clip import TextConfig, TextTower, VisionConfig, VisionTower
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import (
    LINEAR,
    NORM,
    Layout,
    Network,
    Row,
    below,
    conv,
    packed,
    same,
    straight,
    transpose,
)
from miro_jax.pretrained.weights.tensors import Tensor

Tensors = Mapping[str, Tensor]

EPSILON = 1e-5  # of OpenAI's norms
# Written by mistake in the first releases: it stands for "the largest token".
NO_END_TOKEN = 2

BLOCK = (
    *below("layer_norm1", "norm", NORM),
    *below("self_attn.q_proj", "q", LINEAR),
    *below("self_attn.k_proj", "k", LINEAR),
    *below("self_attn.v_proj", "v", LINEAR),
    *below("self_attn.out_proj", "out", LINEAR),
    *below("layer_norm2", "mlp_norm", NORM),
    *below("mlp.fc1", "hidden", LINEAR),
    *below("mlp.fc2", "mlp_out", LINEAR),
)
VISION_BODY = (
    ("embeddings.patch_embedding.weight", "patches/linear/kernel", conv),
    ("embeddings.class_embedding", "patches/class_token", same),
    ("embeddings.position_embedding.weight", "patches/positions", same),
    *below("pre_layrnorm", "norm", NORM),  # their spelling
    *below("encoder.layers.*", "blocks/*", BLOCK),
    *below("post_layernorm", "out_norm", NORM),
)
VISION = (
    *below("vision_model", "", VISION_BODY),
    ("visual_projection.weight", "projection/kernel", transpose),
)
TEXT = (
    ("text_model.embeddings.token_embedding.weight", "embedding", same),
    ("text_model.embeddings.position_embedding.weight", "positions", same),
    *below("text_model.encoder.layers.*", "blocks/*", BLOCK),
    *below("text_model.final_layer_norm", "out_norm", NORM),
    ("text_projection.weight", "projection/kernel", transpose),
)
OPEN_BLOCK = (
    *below("ln_1", "norm", NORM),
    *packed("attn.in_proj_weight", "attn.in_proj_bias"),
    *below("attn.out_proj", "out", LINEAR),
    *below("ln_2", "mlp_norm", NORM),
    *below("mlp.c_fc", "hidden", LINEAR),
    *below("mlp.c_proj", "mlp_out", LINEAR),
)
OPEN_VISION = (
    ("visual.conv1.weight", "patches/linear/kernel", conv),
    ("visual.class_embedding", "patches/class_token", same),
    ("visual.positional_embedding", "patches/positions", same),
    *below("visual.ln_pre", "norm", NORM),
    *below("visual.transformer.resblocks.*", "blocks/*", OPEN_BLOCK),
    *below("visual.ln_post", "out_norm", NORM),
    ("visual.proj", "projection/kernel", straight),
)
OPEN_TEXT = (
    ("token_embedding.weight", "embedding", same),
    ("positional_embedding", "positions", same),
    *below("transformer.resblocks.*", "blocks/*", OPEN_BLOCK),
    *below("ln_final", "out_norm", NORM),
    ("text_projection", "projection/kernel", straight),
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
        image_size=own.image_size,
        patch_size=own.patch_size,
        projection=width if projection else None,
    )


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
    """Read the sizes of the text tower from a `config.json` of the whole model."""
    whole = hf.read_config("CLIPConfig", config)
    own = whole.text_config
    end = own.eos_token_id
    return TextConfig(
        **_stack(own),
        vocabulary=own.vocab_size,
        max_tokens=own.max_position_embeddings,
        projection=whole.projection_dim,
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
    width, _, patch, _ = _shape(tensors, "visual.conv1.weight")
    grid = round((_shape(tensors, "visual.positional_embedding")[0] - 1) ** 0.5)
    vocabulary, text_width = _shape(tensors, "token_embedding.weight")
    if heads is None:
        heads = (min(width // 64, 16), text_width // 64)
    sizes = {"activation": activation, "epsilon": EPSILON}
    vision = VisionConfig(
        width=width,
        layers=_count(tensors, "visual.transformer.resblocks"),
        heads=heads[0],
        mlp_width=_shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.bias")[0],
        image_size=grid * patch,
        patch_size=patch,
        projection=_shape(tensors, "visual.proj")[1],
        **sizes,
    )
    text = TextConfig(
        width=text_width,
        layers=_count(tensors, "transformer.resblocks"),
        heads=heads[1],
        mlp_width=_shape(tensors, "transformer.resblocks.0.mlp.c_fc.bias")[0],
        vocabulary=vocabulary,
        max_tokens=_shape(tensors, "positional_embedding")[0],
        projection=_shape(tensors, "text_projection")[1],
        end_token=None,
        **sizes,
    )
    return vision, text


def load_vision(
    tensors: Tensors,
    config: VisionConfig,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Network:
    """Load the vision tower of a file in either layout; the text tower is ignored.

    Raises:
      ValueError: the weights do not fit, see `weights.convert.Layout`.
    """
    table: tuple[Row, ...] = OPEN_VISION if is_open(tensors) else VISION
    ignored = f"{OF_NEITHER}|{OF_TEXT}"
    if config.projection is None:
        ignored += (
            r"|vision_model\.post_layernorm\..*|visual_projection\..*|visual\.(ln_post|proj)(\..*)?"
        )
    return Layout(VisionTower, table, ignored).load(tensors, config, dtype=dtype, mesh=mesh)


def load_text(
    tensors: Tensors,
    config: TextConfig,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Network:
    """Load the text tower of a file in either layout; the vision tower is ignored.

    Raises:
      ValueError: the weights do not fit, see `weights.convert.Layout`.
    """
    table: tuple[Row, ...] = OPEN_TEXT if is_open(tensors) else TEXT
    layout = Layout(TextTower, table, f"{OF_NEITHER}|{OF_VISION}")
    return layout.load(tensors, config, dtype=dtype, mesh=mesh)


def logit_scale(tensors: Tensors) -> float:
    """Read exp(logit_scale), the factor of the cosine."""
    if "logit_scale" not in tensors:
        raise ValueError("The file of a whole CLIP must hold logit_scale; got none.")
    return math.exp(float(tensors["logit_scale"].read().reshape(())))


def is_open(tensors: Tensors) -> bool:
    """Return whether a file is in OpenAI's layout rather than in Hugging Face's."""
    return "visual.conv1.weight" in tensors or "token_embedding.weight" in tensors


def _shape(tensors: Tensors, key: str) -> tuple[int, ...]:
    if key not in tensors:
        raise ValueError(f"A file in OpenAI's CLIP layout must hold {key}; got none.")
    return tensors[key].shape


def _count(tensors: Tensors, stem: str) -> int:
    return len({m[1] for k in tensors if (m := re.match(rf"{re.escape(stem)}\.(\d+)\.", k))})
