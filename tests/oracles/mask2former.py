"""Hugging Face's Mask2Former with random weights, and its tensors under mmdet's two spellings."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

SWIN = {
    "image_size": 64,
    "embed_dim": 12,
    "depths": [2, 2, 3, 2],
    "num_heads": [1, 2, 2, 4],
    "window_size": 7,
}
# GroupNorms have 32 groups, so no width may be below.
TINY = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 48,
    "encoder_layers": 2,
    "decoder_layers": 5,
    "num_attention_heads": 4,
    "dim_feedforward": 40,
    "num_queries": 7,
    "num_labels": 5,
}
FULL_SWIN = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}


def make(seed: int, swin: dict[str, Any] | None = None, **sizes: Any):
    """Return the network in evaluation; every parameter is random, none at its start value."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(out_features=stages, drop_path_rate=0.0, **(swin or SWIN))
    config = Mask2FormerConfig(backbone_config=backbone, **(sizes or TINY))
    network = Mask2FormerForUniversalSegmentation(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            one = name.endswith("weight") and parameter.ndim == 1  # of a norm
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if one else noise)
    return network


def on_meta():
    """Return the network of the published sizes without numbers; use it within a meta device."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(out_features=stages, **FULL_SWIN)
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=backbone, num_labels=80)
    )


def arrays(network) -> dict[str, np.ndarray]:
    """Return its tensors."""
    return {key: value.numpy() for key, value in network.state_dict().items()}


def outputs(network, images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the features of the backbone (channels last), class logits and mask logits."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        maps = network.model.pixel_level_module.encoder(x).feature_maps
        found = network(pixel_values=x)
    features = [one.numpy().transpose(0, 2, 3, 1) for one in maps]
    return features, found.class_queries_logits.numpy(), found.masks_queries_logits.numpy()


# Hugging Face's name -> mmdet 3's; what is packed there is cut here and joined below.
RENAMED = [
    (r"model\.pixel_level_module\.encoder\.swin\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.projection"),  # noqa: E501
    (r"model\.pixel_level_module\.encoder\.swin\.embeddings\.norm", "backbone.patch_embed.norm"),
    (r"model\.pixel_level_module\.encoder\.swin\.encoder\.layers", "backbone.stages"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage1", "backbone.norm0"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage2", "backbone.norm1"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage3", "backbone.norm2"),
    (r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage4", "backbone.norm3"),
    (r"attention\.o_proj", "attn.w_msa.proj"),
    (r"attention\.relative_position_bias\.", "attn.w_msa."),
    (r"attention\.([qkv])_proj", r"attn.w_msa.\1"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
    (r"model\.pixel_level_module\.decoder", "panoptic_head.pixel_decoder"),
    (r"input_projections\.(\d)\.0", r"input_convs.\1.conv"),
    (r"input_projections\.(\d)\.1", r"input_convs.\1.gn"),
    (r"pixel_decoder\.level_embed", "pixel_decoder.level_encoding.weight"),
    (r"adapter_1\.0", "lateral_convs.0.conv"),
    (r"adapter_1\.1", "lateral_convs.0.gn"),
    (r"layer_1\.0", "output_convs.0.conv"),
    (r"layer_1\.1", "output_convs.0.gn"),
    (r"mask_projection", "mask_feature"),
    (r"model\.transformer_module\.queries_embedder", "panoptic_head.query_embed"),
    (r"model\.transformer_module\.queries_features", "panoptic_head.query_feat"),
    (r"model\.transformer_module\.level_embed\.weight", "panoptic_head.level_embed.weight"),
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.0\.0", "panoptic_head.mask_embed.0"),  # noqa: E501
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.1\.0", "panoptic_head.mask_embed.2"),  # noqa: E501
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.2\.0", "panoptic_head.mask_embed.4"),  # noqa: E501
    (r"model\.transformer_module\.decoder\.layernorm", "panoptic_head.transformer_decoder.post_norm"),  # noqa: E501
    (r"model\.transformer_module\.decoder\.layers", "panoptic_head.transformer_decoder.layers"),
    (r"(transformer_decoder.*)\.cross_attn\.", r"\1.cross_attn.attn."),
    (r"(transformer_decoder.*)\.self_attn\.", r"\1.self_attn.attn."),
    (r"(transformer_decoder.*)cross_attn_layer_norm", r"\1norms.0"),
    (r"(transformer_decoder.*)self_attn_layer_norm", r"\1norms.1"),
    (r"(transformer_decoder.*)final_layer_norm", r"\1norms.2"),
    (r"(pixel_decoder.*)self_attn_layer_norm", r"\1norms.0"),
    (r"(pixel_decoder.*)final_layer_norm", r"\1norms.1"),
    (r"(panoptic_head.*)\.fc1", r"\1.ffn.layers.0.0"),
    (r"(panoptic_head.*)\.fc2", r"\1.ffn.layers.1"),
    (r"class_predictor", "panoptic_head.cls_embed"),
]  # fmt: skip
OLDER = [
    (r"\.encoder\.swin\.", ".encoder."),
    (r"attention\.q_proj", "attention.self.query"),
    (r"attention\.k_proj", "attention.self.key"),
    (r"attention\.v_proj", "attention.self.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.relative_position_bias\.", "attention.self."),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
]
TO_MMDET_2 = [
    (r"(transformer_decoder\.layers\.\d+)\.cross_attn\.", r"\1.attentions.0."),
    (r"(transformer_decoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.1."),
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"((?:transformer_decoder|pixel_decoder\.encoder)\.layers\.\d+)\.ffn\.", r"\1.ffns.0."),
]


def to_mmdet(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Hugging Face's tensors under mmdet 3's names and in its orders, index tables added."""
    renamed = {}
    for key, value in tensors.items():
        if key.startswith("criterion") or ".swin.layernorm." in key:
            continue
        for expression, name in RENAMED:
            key = re.sub(expression, name, key)
        if ".downsample." in key:  # (column, row, channel) to (channel, row, column)
            parts = np.split(value, 4, axis=-1)
            order = [parts[k] for k in (0, 2, 1, 3)]
            value = np.stack(order, axis=-1).reshape(value.shape)
        renamed[key] = value
    joined = {}
    for key, value in renamed.items():
        match = re.fullmatch(r"(.*)\.([qkv])(?:_proj)?\.(weight|bias)", key)
        if match is None:
            joined[key] = value
            continue
        before, which, kind = match.groups()
        name = f"{before}.qkv.{kind}" if "w_msa" in before else f"{before}.in_proj_{kind}"
        if which == "q":
            same = [re.sub(r"\.q((?:_proj)?\.)", rf".{other}\1", key) for other in "qkv"]
            joined[name] = np.concatenate([renamed[one] for one in same])
    for key in list(joined):
        if key.endswith("bias_table"):
            joined[key.replace("bias_table", "index")] = np.zeros((49, 49), np.int64)
    return joined


def to_older(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Hugging Face's tensors under the names of files of before its version 5."""
    return _respell(tensors, OLDER)


def to_mmdet_2(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return mmdet 3's tensors under mmdet 2's names."""
    return _respell(tensors, TO_MMDET_2)


def _respell(
    tensors: dict[str, np.ndarray], table: Sequence[tuple[str, str]]
) -> dict[str, np.ndarray]:
    """Return tensors under other names; every (expression, name) of the table is applied."""
    renamed = {}
    for key, value in tensors.items():
        for expression, name in table:
            key = re.sub(expression, name, key)
        renamed[key] = value
    return renamed
