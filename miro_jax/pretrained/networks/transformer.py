"""What several pretrained transformers share: patches of an image, maps of an attention, GELUs.

Letters: B batch, H W image, P patch side, N image tokens with the class token first, D width,
S width of the source, A heads.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models.layers import Linear

Array = jax.Array


def gelu(x: Array) -> Array:
    """x Phi(x), by erf as PyTorch does it (jax.nn.gelu takes erfc)."""
    return x * 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), OpenAI's stand-in for GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"gelu": gelu, "quick_gelu": quick_gelu}


def attention_maps(
    width: int,
    heads: int,
    *,
    source_width: int | None = None,
    head_width: int | None = None,
    biases: str = "qkvo",
    rngs: nnx.Rngs,
    dtype: DTypeLike,
) -> tuple[Linear, Linear, Linear, Linear]:
    """Return the linear maps q, k, v (`[..., D or S]` to `[..., A, head_width]`) and out (back).

    Args:
      width: D. heads: A. source_width: S, of what k and v read; None is D.
      head_width: None is D / A. biases: which of the maps q, k, v, o have one.
    """
    shape = (heads, head_width or width // heads)
    axes = ("heads", "head_dim")

    def into(name: str, inputs: int) -> Linear:
        return Linear(
            (inputs, *shape), ("embed", *axes), use_bias=name in biases, rngs=rngs, dtype=dtype
        )

    source = width if source_width is None else source_width
    q, k, v = into("q", width), into("k", source), into("v", source)
    out = Linear(
        (*shape, width),
        (*axes, "embed"),
        num_in=2,
        use_bias="o" in biases,
        rngs=rngs,
        dtype=dtype,
    )
    return q, k, v, out


class Patches(nnx.Module):
    """Images into tokens: [class ; patches W + b] + positions.

    Args:
      image_size, patch_size: sides in pixels; the last rows and columns that fill no patch are cut.
      width: D. use_bias: whether there is a b.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        use_bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.image_size, self.patch_size = image_size, patch_size
        self.grid = image_size // patch_size
        self.linear = Linear(
            (patch_size, patch_size, 3, width),
            ("patch", "patch", "patch", "embed"),
            num_in=3,
            use_bias=use_bias,
            rngs=rngs,
            dtype=dtype,
        )
        self.class_token = nnx.Param(jnp.zeros((width,)), out_sharding=("embed",))
        self.positions = nnx.Param(
            jnp.zeros((self.grid**2 + 1, width)), out_sharding=("tokens", "embed")
        )

    def __call__(self, images: Array) -> Array:
        """Map normalised images `[B, H, W, 3]` to `[B, N, D]` float32, patches row by row."""
        size, side, grid = self.image_size, self.patch_size, self.grid
        if images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be [B, {size}, {size}, 3]; got {images.shape}.")
        x = images[:, : grid * side, : grid * side]
        x = x.reshape(-1, grid, side, grid, side, 3).swapaxes(2, 3)
        x = self.linear(x.reshape(-1, grid * grid, side, side, 3)).astype(jnp.float32)
        first = self.class_token[...].astype(jnp.float32)[None, None]
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, x.shape[-1])), x], axis=1)
        return x + self.positions[...].astype(jnp.float32)[None]
