"""Floating-point operations of the velocity network, and what devices are able to.

Counted are matrix products and attention; a multiply-add is two. A training image costs four
forwards: one without a gradient, for self-conditioning, one with, and the backward pass, which is
worth two. The condition is encoded once for both forwards, so it costs three.

Letters: N image tokens, M latent tokens, L caption tokens, D latent width, E token width.
"""

from miro_jax.models.rin import RINConfig

# TFLOP/s of dense bfloat16 products by `device_kind`, from the vendors' data sheets, of what JAX
# calls a device: a TPU7x chip is two, a chip of v4 or v5p one of two cores.
PEAK_TFLOPS = {
    "NVIDIA A100": 312.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H200": 989.0,
    "NVIDIA B200": 2250.0,
    "NVIDIA L4": 121.0,
    "NVIDIA L40": 181.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 4090": 165.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "TPU7": 2307.0 / 2,
}


def peak_tflops(device_kind: str) -> float | None:
    """Return the peak of a device by the longest name that its own begins with; None: unknown."""
    known = [name for name in PEAK_TFLOPS if device_kind.startswith(name)]
    return PEAK_TFLOPS[max(known, key=len)] if known else None


def training_flops(config: RINConfig, caption_tokens: int) -> float:
    """Return the operations of a training step for one image."""
    again = forward_flops(config, caption_tokens) - condition_flops(config, caption_tokens)
    return 3 * forward_flops(config, caption_tokens) + config.self_condition * again


def sampling_flops(config: RINConfig, caption_tokens: int, evaluations: int) -> float:
    """Return the operations of one branch of an image: its condition is encoded once."""
    condition = condition_flops(config, caption_tokens)
    return evaluations * (forward_flops(config, caption_tokens) - condition) + condition


def condition_flops(config: RINConfig, caption_tokens: int) -> float:
    """Return the operations of encoding the condition of one image."""
    wide, length = config.latent_width, caption_tokens
    count = config.num_rewards + config.num_registers + length
    layer = _self_attention(count, wide) + count * 2 * 2 * config.mlp_multiplier * wide**2
    inputs = 2 * length * config.caption_width * wide + config.num_rewards * _scalar(wide)
    return float(config.condition_layers * layer + inputs)


def _self_attention(count: int, width: int) -> int:
    return 2 * count * 4 * width**2 + 4 * count**2 * width


def _scalar(width: int) -> int:  # the embedding of time, or of a level
    return 2 * (width // 4 * width + width**2)


def forward_flops(config: RINConfig, caption_tokens: int) -> float:
    """Return the operations of one evaluation for one image, the condition's encoder included."""
    c, length = config, caption_tokens
    height, width, channels = c.latent_shape
    patch = c.patch_size**2 * channels
    tokens = height * width // c.patch_size**2
    latents, wide, narrow = c.num_latent_tokens, c.latent_width, c.token_width
    condition = c.num_rewards + c.num_registers + length

    def gated(width: int) -> int:  # a token's SwiGLU
        hidden = -(-int(c.mlp_multiplier * width * 2 / 3) // c.mlp_multiple) * c.mlp_multiple
        return 2 * 3 * width * hidden

    def cross(queries: int, width: int, sources: int, source_width: int) -> int:
        inner = min(width, source_width)
        maps = 2 * queries * 2 * width * inner + 2 * sources * source_width * 2 * inner
        return maps + 4 * queries * sources * inner + queries * gated(width)

    dense = 2 * 2 * c.mlp_multiplier * wide**2  # a token's GELU feed-forward
    block = cross(latents, wide, condition + 1, wide) + cross(latents, wide, tokens, narrow)
    block += c.layers_per_block * (_self_attention(latents, wide) + latents * gated(wide))
    block += cross(tokens, narrow, latents, wide)
    ends = 2 * 2 * tokens * patch * narrow + _scalar(wide)
    ends += latents * dense * c.self_condition + 2 * wide * c.skip_gate
    return c.num_blocks * block + ends + condition_flops(c, length)
