"""Velocity networks by name. `build` is the one place that turns a config into a network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from miro_jax.models.rin import RIN, RINConfig


def build(
    model: Any,
    latent_shape: tuple[int, int, int],
    caption_width: int,
    num_rewards: int,
    *,
    rngs: nnx.Rngs,
) -> RIN:
    """Build the network of `config.model`.

    Args:
      model: `config.model`, a ConfigDict: `dtype` (of matrix products) and `rin` (the sizes).
      latent_shape: (H, W, C) of what the image encoder makes.
      caption_width: width of one caption token.
      num_rewards: R; 0 builds the baseline without rewards.
      rngs: nnx.Rngs with a `params` stream.

    Returns:
      An `RIN`. Must be called inside `sharding.use_mesh`.
    """
    return RIN(
        rin_config(model, latent_shape, caption_width, num_rewards),
        rngs=rngs,
        dtype=jnp.dtype(model.dtype),
    )


def rin_config(
    model: Any, latent_shape: tuple[int, int, int], caption_width: int, num_rewards: int
) -> RINConfig:
    """Join `config.model.rin` with the sizes that encoders and rewards give."""
    return RINConfig(
        latent_shape=latent_shape,
        caption_width=caption_width,
        num_rewards=num_rewards,
        **model.rin,
    )


__all__ = ["RIN", "RINConfig", "build", "rin_config"]
