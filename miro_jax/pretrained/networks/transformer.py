"""What several pretrained transformers share: patches of an image, maps of an attention, GELUs.

Letters: B batch, H W image, P patch side, N image tokens with the class token first, D width,
S width of the source, A heads.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Required, TypedDict, Unpack, get_origin

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models.layers import Linear, gelu

Array = jax.Array
MAY_BE_0 = ("padding", "end_token", "num_rewards", "added_rewards")
# Of any size, of blocks, and of numbers that are no sizes: more is damage.
MOST, MOST_BLOCKS, MOST_FLOAT = 2**24, 1000, 1e9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Base of the sizes of a network: checked, so that a damaged file is refused at once."""

    def __post_init__(self):
        check_sizes(self)


def check_sizes(config: Any) -> None:
    """Raise ValueError unless the numbers of a dataclass of sizes can be those of a network."""
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), field.type
        if kind is float and not (type(value) in (int, float) and 0 < value < MOST_FLOAT):
            raise ValueError(f"{field.name} must be a number in (0, {MOST_FLOAT}); got {value!r}.")
        if kind in (int, int | None) or get_origin(kind) is tuple:
            values = value if isinstance(value, tuple) and value else (value,)
            least = 0 if field.name in MAY_BE_0 else 1
            most = MOST_BLOCKS if field.name.endswith(("layers", "blocks")) else MOST
            known = kind == int | None and value is None
            if not known and not all(type(v) is int and least <= v <= most for v in values):
                raise ValueError(
                    f"{field.name} must be a whole number in [{least}, {most}]; got {value!r}."
                )


class Options(TypedDict, total=False):
    """Of every module: `rngs` of its start values, `dtype` of its matrix products (float32)."""

    rngs: Required[nnx.Rngs]
    dtype: DTypeLike


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), OpenAI's stand-in for GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


# By the names of transformers; of either GELU, erf or tanh, it has several.
TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_python": gelu,
    **dict.fromkeys(TANH_GELUS, jax.nn.gelu),
}


def table(rows: int, width: int, axis: str | None, across: str = "embed") -> nnx.Param:
    """Make a table `[rows, width]` of zeros, to be filled, of two logical axes."""
    return nnx.Param(jnp.zeros((rows, width)), out_sharding=(axis, across))


def mlp_maps(width: int, mlp_width: int, **options: Unpack[Options]) -> tuple[Linear, Linear]:
    """Return the linear maps of a feed-forward, D to F and back."""
    return (
        Linear((width, mlp_width), ("embed", "mlp"), **options),
        Linear((mlp_width, width), ("mlp", "embed"), **options),
    )


def attention_maps(
    width: int,
    heads: int,
    source_width: int | None = None,
    head_width: int | None = None,
    biases: str = "qkvo",
    **options: Unpack[Options],
) -> tuple[Linear, Linear, Linear, Linear]:
    """Return the linear maps q, k, v (`[..., D or S]` to `[..., A, head_width]`) and out (back).

    Args:
      width: D. heads: A. source_width: S, of what k and v read; None is D.
      head_width: None is D / A. biases: which of the maps q, k, v, o have one.
    """
    shape, axes = (heads, head_width or width // heads), ("heads", "head_dim")
    source = width if source_width is None else source_width
    q, k, v = (
        Linear((inputs, *shape), ("embed", *axes), use_bias=name in biases, **options)
        for name, inputs in (("q", width), ("k", source), ("v", source))
    )
    out = Linear((*shape, width), (*axes, "embed"), num_in=2, use_bias="o" in biases, **options)
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
        **options: Unpack[Options],
    ):
        self.image_size, self.patch_size = image_size, patch_size
        self.grid = image_size // patch_size
        shape, axes = (patch_size, patch_size, 3, width), ("patch", "patch", "patch", "embed")
        self.linear = Linear(shape, axes, num_in=3, use_bias=use_bias, **options)
        self.class_token = nnx.Param(jnp.zeros((width,)), out_sharding=("embed",))
        self.positions = table(self.grid**2 + 1, width, "tokens")

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
