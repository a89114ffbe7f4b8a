"""EVA-02: a ViT with rotary positions, gated feed-forward and a second norm inside each branch.

    x = [class ; patches W + b] + positions, blocks, LN(x)[class]
    block   x += LN'(attention(LN x)) Wo;   x += LN'(silu(y W1) * (y W2)) W3,  y = LN x
    rotary  (a, b) -> (a cos - b sin, b cos + a sin) of neighbouring channels (a, b) of q and k,
            angle = place * 10000^(-j / J), j = 0..J-1: first the rows' half of a head, then the
            columns' half;  place = index / grid * pretrained grid

LN' normalises the joined heads and the hidden layer. The class token is not rotated. The keys have
no bias. The stream x is float32; matrix products run in `dtype`.

Source: Fang et al. 2023 (arXiv 2303.11331); the names of weights are those of jina-clip-v2
(jinaai/jina-clip-implementation), which follow EVA-CLIP's.

Letters: B batch, H W picture, P patch side, N tokens with the class token first, D width, A heads,
J angles of an axis.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models.layers import LayerNorm, Linear
from miro_jax.models.sharding import constrain
from miro_jax.pretrained.networks import cpu
from miro_jax.pretrained.weights.convert import (
    CONV,
    LINEAR,
    NORM,
    Network,
    below,
    load,
    same,
    split,
    transpose,
)
from miro_jax.pretrained.weights.tensors import Tensor

Array = jax.Array
TEMPERATURE = 10000.0  # of the angles
EPSILON = 1e-6  # of every norm
SMALL = r".*(scale|bias|class_token|positions)"  # stay float32: they cost little
# What a `vision_config` leaves out has the value of jina-clip-v2's.
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


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      width: D. heads: A. image_size, patch_size: pixels; what is left of a picture is cut off.
      pretrained_grid: patches of a side that places are scaled to; None leaves them.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    image_size: int
    patch_size: int
    pretrained_grid: int | None

    def __post_init__(self):
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                "width must be heads times a multiple of 4 (two axes of pairs); "
                f"got {self.width} for {self.heads} heads."
            )

    @property
    def grid(self) -> int:
        """Patches of a side."""
        return self.image_size // self.patch_size


def parse_config(config: Mapping[str, Any]) -> Config:
    """Read the sizes from `vision_config` of jina-clip's `config.json`.

    Raises:
      ValueError: it asks for a variant that is not here.
    """
    for name, value in REQUIRED.items():
        if config.get(name, value) != value:
            raise ValueError(f"vision_config.{name} must be {value}; got {config[name]}.")
    own = DEFAULTS | dict(config)
    return Config(
        width=own["width"],
        layers=own["layers"],
        heads=own["width"] // own["head_width"],
        mlp_width=int(own["width"] * own["mlp_ratio"]),
        image_size=own["image_size"],
        patch_size=own["patch_size"],
        pretrained_grid=own["pt_hw_seq_len"] if own["intp_freq"] else None,
    )


def rotary_table(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Compute cosine and sine of each token's angles, each [N, head width / 2] float32.

    The class token's angle is 0.
    """
    c = config
    num_angles = c.width // c.heads // 4  # J
    frequencies = TEMPERATURE ** (-np.arange(num_angles) / num_angles)
    place = np.arange(c.grid, dtype=np.float64)
    if c.pretrained_grid is not None:
        place = place / c.grid * c.pretrained_grid
    angles = place[:, None] * frequencies[None]  # [grid, J]
    rows = np.repeat(angles[:, None], c.grid, axis=1)
    columns = np.repeat(angles[None], c.grid, axis=0)
    patches = np.concatenate([rows, columns], axis=-1).reshape(c.grid**2, 2 * num_angles)
    whole = np.concatenate([np.zeros((1, 2 * num_angles)), patches])
    return np.cos(whole).astype(np.float32), np.sin(whole).astype(np.float32)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate neighbouring channels of `[B, N, A, H]` by angles `[N, H / 2]`, in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[None, :, None], sin[None, :, None]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


class Block(nnx.Module):
    """Pre-norm residual attention and gated feed-forward, each with an inner norm."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        c, options = config, {"rngs": rngs, "dtype": dtype}
        heads = (c.heads, c.width // c.heads)
        axes = ("heads", "head_dim")
        self.norm = LayerNorm(c.width, epsilon=EPSILON)
        self.q = Linear((c.width, *heads), ("embed", *axes), **options)
        self.k = Linear((c.width, *heads), ("embed", *axes), use_bias=False, **options)
        self.v = Linear((c.width, *heads), ("embed", *axes), **options)
        self.inner_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.out = Linear((*heads, c.width), (*axes, "embed"), num_in=2, **options)
        self.mlp_norm = LayerNorm(c.width, epsilon=EPSILON)
        self.gate = Linear((c.width, c.mlp_width), ("embed", "mlp"), **options)
        self.value = Linear((c.width, c.mlp_width), ("embed", "mlp"), **options)
        self.mlp_inner_norm = LayerNorm(c.mlp_width, "mlp", epsilon=EPSILON)
        self.mlp_out = Linear((c.mlp_width, c.width), ("mlp", "embed"), **options)

    def __call__(self, x: Array, cos: Array, sin: Array) -> Array:
        """Map tokens `[B, N, D]` float32."""
        y = self.norm(x)
        y = cpu.attend(rotate(self.q(y), cos, sin), rotate(self.k(y), cos, sin), self.v(y))
        joined = self.inner_norm(y.reshape(x.shape))
        x = x + self.out(joined.reshape(y.shape)).astype(x.dtype)
        y = self.mlp_norm(x)
        y = self.mlp_inner_norm(nnx.silu(self.gate(y)) * self.value(y))
        x = x + self.mlp_out(y).astype(x.dtype)
        return constrain(x, "batch", None, None)


class VisionTower(nnx.Module):
    """Pictures into features."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = c = config
        options = {"rngs": rngs, "dtype": dtype}
        sides = (c.patch_size, c.patch_size, 3)
        axes = ("patch", "patch", "patch", "embed")
        self.patch_in = Linear((*sides, c.width), axes, num_in=3, **options)
        self.class_token = nnx.Param(jnp.zeros((c.width,)), out_sharding=("embed",))
        self.positions = nnx.Param(
            jnp.zeros((c.grid**2 + 1, c.width)), out_sharding=("tokens", "embed")
        )
        self.blocks = nnx.List(Block(c, **options) for _ in range(c.layers))
        self.out_norm = LayerNorm(c.width, epsilon=EPSILON)

    def tokens(self, images: Array, num_blocks: int | None = None) -> Array:
        """Read pictures into tokens, without the last norm.

        Args:
          images: [B, H, W, 3] float32, normalised (see `clip.normalize`).
          num_blocks: how many blocks to run; None runs all.

        Returns:
          [B, N, D] float32; the class token is the first, patches follow row by row.
        """
        c = self.config
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(
                f"images must be [B, {c.image_size}, {c.image_size}, 3]; got {images.shape}."
            )
        side, grid = c.patch_size, c.grid
        x = images[:, : grid * side, : grid * side]
        x = x.reshape(-1, grid, side, grid, side, 3).swapaxes(2, 3)
        x = self.patch_in(x.reshape(-1, grid * grid, side, side, 3)).astype(jnp.float32)
        first = self.class_token[...].astype(jnp.float32)[None, None]
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, c.width)), x], axis=1)
        x = x + self.positions[...].astype(jnp.float32)[None]
        cos, sin = map(jnp.asarray, rotary_table(c))
        for block in self.blocks[:num_blocks]:
            x = block(x, cos, sin)
        return x

    def __call__(self, images: Array) -> Array:
        """Read normalised pictures `[B, H, W, 3]` into features `[B, D]` float32, any length."""
        return self.out_norm(self.tokens(images)[:, 0])


BLOCK = (
    *below("norm1", "norm", NORM),
    *((f"attn.{n}_proj.weight", f"{n}/kernel", transpose) for n in "qkv"),
    *((f"attn.{n}_bias", f"{n}/bias", split) for n in "qv"),
    *below("attn.inner_attn_ln", "inner_norm", NORM),
    *below("attn.proj", "out", LINEAR),
    *below("norm2", "mlp_norm", NORM),
    *below("mlp.w1", "gate", LINEAR),
    *below("mlp.w2", "value", LINEAR),
    *below("mlp.ffn_ln", "mlp_inner_norm", NORM),
    *below("mlp.w3", "mlp_out", LINEAR),
)
TABLE = (
    ("cls_token", "class_token", same),
    ("pos_embed", "positions", same),
    *below("patch_embed.proj", "patch_in", CONV),
    *below("blocks.*", "blocks/*", BLOCK),
    *below("norm", "out_norm", NORM),
)
ROTARY = r"(.*\.)?rope\..*"  # tables that some files hold; they are computed here


def load_tower(
    tensors: Mapping[str, Tensor],
    config: Config,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Network:
    """Load the tower from tensors named without a prefix.

    Raises:
      ValueError: the weights do not fit, see `weights.convert.load`.
    """
    build = partial(_build, config, dtype)
    return load(build, tensors, TABLE, ignored=ROTARY, dtype=dtype, keep_float32=SMALL, mesh=mesh)


def _build(config: Config, dtype: str, rngs: nnx.Rngs) -> VisionTower:
    return VisionTower(config, rngs=rngs, dtype=jnp.dtype(dtype))
