"""Published weights of EVA-02: the vision tower of jina-clip-v2.

The names of weights are those of jina-clip-v2 (jinaai/jina-clip-implementation), which follow
EVA-CLIP's. Its repository describes it by code of its own, which is never run: the sizes are read
from its `config.json` here, as that code reads them.
"""

from collections.abc import Mapping
from typing import Any

from miro_jax.pretrained.networks.eva02 import Config, VisionTower
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import SMALL, Layout, table

# A key that a `vision_config` lacks has the value of jina-clip-v2's.
DEFAULTS = {
    "width": 1024,
    "layers": 24,
    "head_width": 64,
    "image_size": 512,
    "patch_size": 14,
    "mlp_ratio": 2.6667,
    "pt_hw_seq_len": 16,
    "intp_freq": True,
}
# Variants of the family that are not here.
REQUIRED = {
    "rope_embeddings": True,
    "naive_swiglu": True,
    "subln": True,
    "qkv_bias": True,
    "post_norm": False,
    "ls_init_value": None,
    "proj_type": None,
}

BLOCK = table("""
    {norm1,norm2}                        {norm,mlp_norm}
    attn.{q,k,v}_proj.weight             {q,k,v}/kernel   kernel
    attn.{q,v}_bias                      {q,v}/bias       vector
    attn.{inner_attn_ln,proj}            {inner_norm,out}
    mlp.{w1,w2,ffn_ln,w3}                {gate,value,mlp_inner_norm,mlp_out}
""")
TABLE = table(
    """
    cls_token         patches/class_token  array
    pos_embed         patches/positions    array
    patch_embed.proj  patches/linear
    blocks.*          blocks/*             block
    norm              out_norm
    """,
    block=BLOCK,
)
ROTARY = r"(.*\.)?rope\..*"  # tables that some files hold; they are computed here
# Of tensors named without a prefix.
load = Layout(VisionTower, TABLE, ROTARY, SMALL).load


def parse_config(config: Mapping[str, Any]) -> Config:
    """Read the sizes from `vision_config` of jina-clip's `config.json`."""
    hf.require_options(config, REQUIRED, "vision_config")
    own = hf.with_defaults(config, DEFAULTS, "vision_config")
    return Config(
        width=own["width"],
        layers=own["layers"],
        heads=own["width"] // own["head_width"],
        mlp_width=int(own["width"] * own["mlp_ratio"]),
        image_size=own["image_size"],
        patch_size=own["patch_size"],
        pretrained_grid=own["pt_hw_seq_len"] if own["intp_freq"] else None,
    )
