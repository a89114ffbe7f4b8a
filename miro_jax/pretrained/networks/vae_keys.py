"""Published weights of SDXL's autoencoder: the diffusers file, read whole or by half.

The attention's tensors have had two sets of names, and with the older one they may be stored as 1x1
convolutions, `[C, C, 1, 1]`. Both are read.

Source: names of `diffusers.AutoencoderKL`, `diffusion_pytorch_model.safetensors`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from miro_jax.pretrained.networks.vae import Autoencoder, Decoder, Encoder, VAEConfig
from miro_jax.pretrained.weights.convert import (
    CONV,
    NORM,
    Layout,
    Network,
    Row,
    below,
    same,
    transpose,
)
from miro_jax.pretrained.weights.hub import Repository

STEM = "diffusion_pytorch_model"
# Norms, and the 1x1 convolutions at the image latents, which are too few to be worth rounding.
KEEP_FLOAT32 = r".*norm[^/]*/[^/]*|(.*/)?(moments|latents)/[^/]*"


def pointwise(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Turn the kernel of a 1x1 convolution `[out, in, 1, 1]` or `[out, in]` into `[in, out]`."""
    if value.shape[2:] not in ((), (1, 1)):
        return None
    return transpose(value.reshape(value.shape[:2]), shape)


POINTWISE = (("weight", "kernel", pointwise), ("bias", "bias", same))
RESNET = (
    *below("norm1", "norm1", NORM),
    *below("conv1", "conv1", CONV),
    *below("norm2", "norm2", NORM),
    *below("conv2", "conv2", CONV),
    *below("conv_shortcut", "shortcut", POINTWISE),
)
ATTENTION = (
    *below("group_norm", "norm", NORM),
    *below("to_q", "q", POINTWISE),
    *below("to_k", "k", POINTWISE),
    *below("to_v", "v", POINTWISE),
    *below("to_out.0", "out", POINTWISE),
    *below("query", "q", POINTWISE),
    *below("key", "k", POINTWISE),
    *below("value", "v", POINTWISE),
    *below("proj_attn", "out", POINTWISE),
)
ENDS = (  # of either half
    *below("conv_in", "conv_in", CONV),
    *below("mid_block.resnets.0", "middle/resnet1", RESNET),
    *below("mid_block.attentions.0", "middle/attention", ATTENTION),
    *below("mid_block.resnets.1", "middle/resnet2", RESNET),
    *below("conv_norm_out", "norm_out", NORM),
    *below("conv_out", "conv_out", CONV),
)
ENCODER: tuple[Row, ...] = (
    *below("encoder", "", ENDS),
    *below("encoder.down_blocks.*.resnets.*", "levels/*/resnets/*", RESNET),
    *below("encoder.down_blocks.*.downsamplers.0.conv", "levels/*/scaling", CONV),
    *below("quant_conv", "moments", POINTWISE),
)
DECODER: tuple[Row, ...] = (
    *below("post_quant_conv", "latents", POINTWISE),
    *below("decoder", "", ENDS),
    *below("decoder.up_blocks.*.resnets.*", "levels/*/resnets/*", RESNET),
    *below("decoder.up_blocks.*.upsamplers.0.conv", "levels/*/scaling", CONV),
)
PARTS = {
    "encoder": Layout(Encoder, ENCODER, r"(decoder|post_quant_conv)\..*", KEEP_FLOAT32),
    "decoder": Layout(Decoder, DECODER, r"(encoder|quant_conv)\..*", KEEP_FLOAT32),
    "both": Layout(
        Autoencoder,
        (*below("", "encoder", ENCODER), *below("", "decoder", DECODER)),
        keep_float32=KEEP_FLOAT32,
    ),
}


def parse_config(config: Mapping[str, Any]) -> VAEConfig:
    """Take the sizes from a `config.json` of diffusers.

    Raises:
      ValueError: another class, an option that these modules do not offer, or a missing size.
    """
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
    for key, value in wanted.items():
        if (got := config.get(key, value)) != value:
            raise ValueError(
                f"config.json of the autoencoder must have {key} = {value!r}, as SDXL's has; got "
                f"{got!r}. Give the weights of an SDXL autoencoder."
            )
    sizes = {name: config[name] for name in names}
    sizes["block_out_channels"] = tuple(sizes["block_out_channels"])
    return VAEConfig(**sizes)


def load_vae(
    repository: Repository,
    part: str = "both",
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Network:
    """Load the autoencoder or one half of it; the other half is not read.

    Args:
      repository: holds `config.json` and `diffusion_pytorch_model.safetensors`.
      part: "encoder", "decoder" or "both"; the network is an `Encoder`, `Decoder` or `Autoencoder`.
      dtype: of parameters and convolutions, "float32" or "bfloat16"; norms stay float32.
      mesh: devices; each holds the parameters whole. None is the first device.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an unknown part or dtype, or weights that do not fit, see
        `weights.convert.Layout`.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}.")
    config = parse_config(repository.json("config.json"))
    return PARTS[part].load(repository.tensors(STEM), config, dtype=dtype, mesh=mesh)
