"""The networks that the benchmarks run: released, of configs/base.py, and smaller ones."""

from configs import base
from miro_jax.models.rin import RINConfig

RELEASED = RINConfig(
    latent_shape=(32, 32, 4),
    caption_width=2048,
    num_rewards=7,
    patch_size=2,
    token_width=512,
    latent_width=1024,
    num_latent_tokens=256,
    num_blocks=4,
    layers_per_block=4,
    read_write_heads=16,
    process_heads=32,
    condition_heads=16,
    condition_layers=2,
    num_registers=16,
    mlp_multiplier=4,
    mlp_multiple=256,
    table_std=0.02,
    sigma=0.5,
    log_variance_features=128,
    remat=False,
)
# 3.8 M parameters with what the authors' package fixes: 16 heads, hidden widths in steps of 256.
BENCH = {
    "latent_shape": (16, 16, 3),
    "caption_width": 64,
    "token_width": 64,
    "latent_width": 128,
    "num_latent_tokens": 8,
    "num_blocks": 3,
    "layers_per_block": 1,
    "process_heads": 16,
    "num_registers": 2,
    "log_variance_features": 32,
}
TINY = {
    "latent_shape": (8, 8, 4),
    "caption_width": 24,
    "token_width": 64,
    "latent_width": 64,
    "num_latent_tokens": 16,
    "num_blocks": 1,
    "layers_per_block": 1,
    "process_heads": 16,
}
BASE = {"latent_shape": (24, 24, 3), "caption_width": 64, **base.base().model.rin}
SIZES = {"base": BASE, "released": {}, "bench": BENCH, "tiny": TINY}


def config_of(size: str, **changes) -> RINConfig:
    """Return the sizes of a network by name, with changes."""
    return RINConfig(**(vars(RELEASED) | SIZES[size] | changes))
