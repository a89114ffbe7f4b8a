"""Published weights of SDXL's autoencoder: the diffusers file, read by half.

The attention's tensors have had two sets of names, and with the older one they may be stored as 1x1
convolutions, `[C, C, 1, 1]`. Both are read.

Source: names of `diffusers.AutoencoderKL`, `diffusion_pytorch_model.safetensors`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Unpack

from miro_jax.pretrained.networks.vae import Decoder, Encoder, VAEConfig
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import Layout, Network, Placing, table
from miro_jax.pretrained.weights.hub import Repository

STEM = "diffusion_pytorch_model"
# Norms, and the 1x1 convolutions at the image latents, which are too few to be worth rounding.
KEEP_FLOAT32 = r".*norm[^/]*/[^/]*|(.*/)?(moments|latents)/[^/]*"


RESNET = table("""
    {norm1,conv1,norm2,conv2}  {norm1,conv1,norm2,conv2}
    conv_shortcut              shortcut
""")
ATTENTION = table("""
    group_norm                   norm
    {to_q,to_k,to_v,to_out.0}    {q,k,v,out}
    {query,key,value,proj_attn}  {q,k,v,out}
""")
ENDS = table(  # of either half
    """
    conv_in                         conv_in
    mid_block.resnets.{0,1}         middle/{resnet1,resnet2}  resnet
    mid_block.attentions.0          middle/attention          attention
    {conv_norm_out,conv_out}        {norm_out,conv_out}
    """,
    resnet=RESNET,
    attention=ATTENTION,
)
ENCODER = table(
    """
    encoder                                   .                   ends
    encoder.down_blocks.*.resnets.*           levels/*/resnets/*  resnet
    encoder.down_blocks.*.downsamplers.0.conv levels/*/scaling
    quant_conv                                moments
    """,
    ends=ENDS,
    resnet=RESNET,
)
DECODER = table(
    """
    post_quant_conv                         latents
    decoder                                 .                   ends
    decoder.up_blocks.*.resnets.*           levels/*/resnets/*  resnet
    decoder.up_blocks.*.upsamplers.0.conv   levels/*/scaling
    """,
    ends=ENDS,
    resnet=RESNET,
)
PARTS = {
    "encoder": Layout(Encoder, ENCODER, r"(decoder|post_quant_conv)\..*", KEEP_FLOAT32),
    "decoder": Layout(Decoder, DECODER, r"(encoder|quant_conv)\..*", KEEP_FLOAT32),
}


def parse_config(config: Mapping[str, Any]) -> VAEConfig:
    """Take the sizes from a `config.json` of diffusers."""
    names = [field.name for field in dataclasses.fields(VAEConfig)]
    if missing := [name for name in names if name not in config]:
        raise ValueError(f"config.json of the autoencoder must give {', '.join(missing)}.")
    levels = len(config["block_out_channels"])
    wanted = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    }
    remedy = "Give the weights of an SDXL autoencoder."
    hf.require_options(config, wanted, "config.json", remedy)
    sizes = {name: config[name] for name in names}
    sizes["block_out_channels"] = tuple(sizes["block_out_channels"])
    return VAEConfig(**sizes)


def load_vae(repository: Repository, part: str, **placing: Unpack[Placing]) -> Network:
    """Load one half of the autoencoder; the other half is not read.

    Args:
      repository: holds `config.json` and `diffusion_pytorch_model.safetensors`.
      part: "encoder" or "decoder"; the network is an `Encoder` or a `Decoder`.
      **placing: see `weights.convert.Layout.load`; norms stay float32.
    """
    config = repository.parsed("config.json", parse_config)
    return PARTS[part].load(repository.tensors(STEM), config, **placing)
