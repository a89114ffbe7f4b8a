"""Published weights of Mask2Former with Swin-S: mmdet's two spellings, and Hugging Face's file.

mmdet 3 renamed 180 of the 625 parameters of mmdet 2: what was `attentions.0` of a decoder layer is
`cross_attn`, `attentions.1` is `self_attn`, `ffns.0` is `ffn`. Loaded under the other's names those
would silently stay random, so here every tensor must fill a parameter and every parameter must be
filled. The 24 tensors that are dropped are index tables, which are computed here.

Hugging Face's weights are of another training (Meta's, by Detectron2): not those of GenEval. It
keeps q, k, v of a window apart and has one norm more, which nothing reads; older files have other
names inside of Swin.

Neighbours are merged in the order (row, column, channel) here. mmdet has (channel, row, column),
the original Swin and Hugging Face (column, row, channel).
"""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from miro_jax.pretrained.networks.mask2former import Config, Mask2Former
from miro_jax.pretrained.networks.swin import SwinConfig
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import (
    Layout,
    Network,
    Placing,
    Row,
    Transform,
    packed,
    same,
    table,
    transpose,
)
from miro_jax.pretrained.weights.tensors import Tensor

Tensors = Mapping[str, Tensor]
COCO = Config()  # of GenEval's detector
# Of a `config.json`; other variants are not here.
REQUIRED = {
    "pre_norm": False,
    "enforce_input_projection": False,
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
    "activation_function": "relu",
}
REQUIRED_SWIN = {
    "model_type": "swin",
    "hidden_act": "gelu",
    "patch_size": 4,
    "qkv_bias": True,
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}


def _of_channels_first(axis: np.ndarray) -> np.ndarray:
    """Reorder the last axis from (channel, row, column) to (row, column, channel)."""
    cut = axis.reshape(*axis.shape[:-1], -1, 4)
    return cut.swapaxes(-1, -2).reshape(axis.shape)


def _of_columns_first(axis: np.ndarray) -> np.ndarray:
    """Reorder the last axis from (column, row, channel) to (row, column, channel)."""
    cut = axis.reshape(*axis.shape[:-1], 2, 2, -1)
    return cut.swapaxes(-2, -3).reshape(axis.shape)


def _merging(reorder: Any) -> dict[str, tuple[Row, ...]]:
    """Return the rows of a merging whose four neighbours are stored in another order."""

    def reordered(then: Transform) -> Transform:
        def turn(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
            fits = value.ndim and value.shape[-1] % 4 == 0
            return then(reorder(value), shape) if fits else None

        return turn

    norm = (("weight", "scale", reordered(same)), ("bias", "bias", reordered(same)))
    return {"norm": norm, "linear": (("weight", "kernel", reordered(transpose)),)}


def _mmdet(cross: str, own: str, mlp: str, deformable: str, deformable_mlp: str) -> tuple[Row, ...]:
    """Return the table of one spelling, by the names of what mmdet 3 renamed."""
    attention = (*packed("in_proj_weight", "in_proj_bias"), *table("out_proj out"))
    block = table(
        """
        norm{1,2}                                {norm,mlp_norm}
        attn.w_msa.relative_position_bias_table  offset_bias             array
        attn.w_msa.qkv                           .                       packed
        attn.w_msa.proj                          out
        ffn.layers.{0.0,1}                       {hidden,mlp_out}
        """,
        packed=packed(),
    )
    encoder = table(
        f"""
        {deformable}.{{sampling_offsets,attention_weights}}  attention/{{offsets,weights}}
        {deformable}.{{value_proj,output_proj}}              attention/{{value,out}}
        {deformable_mlp}.layers.{{0.0,1}}                    {{hidden,mlp_out}}
        norms.{{0,1}}                                        {{norm,mlp_norm}}
        """
    )
    decoder = table(
        f"""
        {cross}                   cross                            attention
        {own}                     own                              attention
        {mlp}.layers.{{0.0,1}}    {{hidden,mlp_out}}
        norms.{{0,1,2}}           {{cross_norm,own_norm,mlp_norm}}
        """,
        attention=attention,
    )
    pixels = table(
        """
        input_convs.*.{conv,gn}    projections/*/{linear,norm}
        level_encoding.weight      level_encoding               array
        encoder.layers.*           layers/*                     encoder
        lateral_convs.0.{conv,gn}  lateral/{linear,norm}
        output_convs.0.conv        .
        output_convs.0.gn          norm
        mask_feature               out
        """,
        encoder=encoder,
    )
    return table(
        """
        backbone.patch_embed.{projection,norm}         backbone/{patches,norm}
        backbone.stages.*.blocks.*                     backbone/stages/*/blocks/*       block
        backbone.stages.*.downsample.norm              backbone/stages/*/merging/norm   norm
        backbone.stages.*.downsample.reduction         backbone/stages/*/merging/linear linear
        backbone.norm*                                 backbone/stages/*/out_norm
        panoptic_head.pixel_decoder                    pixels                           pixels
        panoptic_head.transformer_decoder.layers.*     decoder/layers/*                 decoder
        panoptic_head.transformer_decoder.post_norm    decoder/out_norm
        panoptic_head.{query_feat,query_embed}.weight  decoder/{queries,query_positions} array
        panoptic_head.level_embed.weight               decoder/level_encoding           array
        panoptic_head.cls_embed                        decoder/classes
        panoptic_head.mask_embed.{0,2,4}               decoder/mask_maps/{0,1,2}
        """,
        block=block,
        pixels=pixels,
        decoder=decoder,
        **_merging(_of_channels_first),
    )


MMDET_3 = _mmdet("cross_attn.attn", "self_attn.attn", "ffn", "self_attn", "ffn")
MMDET_2 = _mmdet("attentions.0.attn", "attentions.1.attn", "ffns.0", "attentions.0", "ffns.0")
MMDET_INDICES = r"backbone\..*\.attn\.w_msa\.relative_position_index"

_HF_BLOCK = table(
    """
    layernorm_{before,after}                                              {norm,mlp_norm}
    attention.{q,k,v,o}_proj                                              {q,k,v,out}
    attention.relative_position_bias.relative_position_bias_table         offset_bias array
    mlp.{fc1,fc2}                                                         {hidden,mlp_out}
    attention.self.{query,key,value}                                      {q,k,v}
    attention.self.relative_position_bias_table                           offset_bias array
    attention.output.dense                                                out
    {intermediate,output}.dense                                           {hidden,mlp_out}
    """
)
_HF_SWIN = table(
    """
    embeddings.patch_embeddings.projection  patches
    embeddings.norm                         norm
    encoder.layers.*.blocks.*               stages/*/blocks/*        block
    encoder.layers.*.downsample.norm        stages/*/merging/norm    norm
    encoder.layers.*.downsample.reduction   stages/*/merging/linear  linear
    """,
    block=_HF_BLOCK,
    **_merging(_of_columns_first),
)
_HF_ENCODER = table("""
    self_attn.{sampling_offsets,attention_weights}  attention/{offsets,weights}
    self_attn.{value_proj,output_proj}              attention/{value,out}
    {fc1,fc2}                                       {hidden,mlp_out}
    {self_attn_layer_norm,final_layer_norm}         {norm,mlp_norm}
""")
_HF_PIXELS = table(
    """
    input_projections.*.{0,1}  projections/*/{linear,norm}
    level_embed                level_encoding               array
    encoder.layers.*           layers/*                     encoder
    adapter_1.{0,1}            lateral/{linear,norm}
    layer_1.0                  .
    layer_1.1                  norm
    mask_projection            out
    """,
    encoder=_HF_ENCODER,
)
_HF_DECODER = table(
    """
    cross_attn                      cross                            packed
    cross_attn.out_proj             cross/out
    self_attn.{q,k,v,out}_proj      own/{q,k,v,out}
    {fc1,fc2}                       {hidden,mlp_out}
    {cross_attn,self_attn,final}_layer_norm  {cross_norm,own_norm,mlp_norm}
    """,
    packed=packed("in_proj_weight", "in_proj_bias"),
)
HF = table(
    """
    model.pixel_level_module.encoder.swin                       backbone          swin
    model.pixel_level_module.encoder                            backbone          swin
    model.pixel_level_module.encoder.hidden_states_norms        backbone/stages   norms
    model.pixel_level_module.decoder                            pixels            pixels
    model.transformer_module.queries_features.weight            decoder/queries   array
    model.transformer_module.queries_embedder.weight            decoder/query_positions array
    model.transformer_module.level_embed                        decoder/level_encoding array
    model.transformer_module.level_embed.weight                 decoder/level_encoding array
    model.transformer_module.decoder.layers.*                   decoder/layers/*  decoder
    model.transformer_module.decoder.layernorm                  decoder/out_norm
    model.transformer_module.decoder.mask_predictor.mask_embedder.*.0 decoder/mask_maps/*
    class_predictor                                             decoder/classes
    """,
    swin=_HF_SWIN,
    norms=table("stage{1,2,3,4} {0,1,2,3}/out_norm"),
    pixels=_HF_PIXELS,
    decoder=_HF_DECODER,
)
HF_UNUSED = r".*\.relative_position_index|criterion\..*|.*\.encoder\.(swin\.)?layernorm\..*"


def spelling(tensors: Tensors) -> str:
    """Return what wrote the names of a file's tensors: mmdet-2, mmdet-3 or hf.

    A file of mixed names is given one of them; loading it then names those that do not fit.
    """
    if any(key.startswith(("model.pixel_level_module.", "class_predictor.")) for key in tensors):
        return "hf"
    old = (".attentions.", ".ffns.")
    return "mmdet-2" if any(name in key for key in tensors for name in old) else "mmdet-3"


LAYOUTS = {
    "mmdet-2": Layout(Mask2Former, MMDET_2, MMDET_INDICES),
    "mmdet-3": Layout(Mask2Former, MMDET_3, MMDET_INDICES),
    "hf": Layout(Mask2Former, HF, HF_UNUSED),
}


def load(tensors: Tensors, config: Config = COCO, **placing: Unpack[Placing]) -> Network:
    """Load a network from tensors of any of the three spellings (see `spelling`).

    Args:
      tensors: of the file. config: its sizes; by default those of Swin-S on COCO.

    Raises:
      ValueError: see `convert.Layout.load`: a tensor fits nothing, or a parameter is not given.
    """
    return LAYOUTS[spelling(tensors)].load(tensors, config, **placing)


def parse_config(config: Mapping[str, Any]) -> Config:
    """Read the sizes from Hugging Face's `config.json`; other variants are refused."""
    own = hf.read_config("Mask2FormerConfig", config)
    swin = own.backbone_config
    width = dict.fromkeys(("feature_size", "mask_feature_size"), own.hidden_dim)
    hf.require_options(own.to_dict(), REQUIRED | width, "config.json")
    hf.require_options(swin.to_dict(), REQUIRED_SWIN, "backbone_config")
    return Config(
        backbone=SwinConfig(
            swin.embed_dim,
            tuple(swin.depths),
            tuple(swin.num_heads),
            swin.window_size,
            int(swin.mlp_ratio),
        ),
        width=own.hidden_dim,
        heads=own.num_attention_heads,
        encoder_layers=own.encoder_layers,
        encoder_mlp=own.encoder_feedforward_dim,
        decoder_layers=own.decoder_layers - 1,  # theirs counts the prediction before the first
        decoder_mlp=own.dim_feedforward,
        queries=own.num_queries,
        classes=own.num_labels,
    )
