"""Compare the encoder of a T5 at a published size with transformers, in float32, random weights.

    python benchmarks/parity_t5.py --size=large --rows=2 --length=128

prints the largest difference relative to the largest value, and the time of each. XL needs about
15 GB of memory. Nothing is downloaded.
"""

import argparse
import time

import jax
import numpy as np
import torch
from transformers import T5Config, T5EncoderModel

from miro_jax.pretrained.networks import t5, t5_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import Tensor

SIZES = {  # width, MLP width, blocks, heads; a head is 64 wide
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--rows", type=int, default=2, help="captions (default: 2)")
    parser.add_argument("--length", type=int, default=128, help="tokens (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    width, mlp_width, blocks, heads = SIZES[flags.size]
    config = T5Config(
        d_model=width,
        d_ff=mlp_width,
        num_layers=blocks,
        num_heads=heads,
        d_kv=64,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(flags.seed)
    theirs = T5EncoderModel(config).eval()  # its start values have the size of trained ones
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    tensors = {
        key: Tensor(tuple(value.shape), np.dtype(np.float32), value.numpy)
        for key, value in theirs.state_dict().items()
        if "embed_tokens" not in key
    }
    sizes = t5_keys.parse_config(config.to_dict() | {"tie_word_embeddings": False})
    rng = np.random.default_rng(flags.seed)
    ids = rng.integers(3, config.vocab_size, (flags.rows, flags.length)).astype(np.int32)
    lengths = np.linspace(flags.length, flags.length // 2, flags.rows).astype(int)
    mask = np.arange(flags.length)[None] < lengths[:, None]

    with jax.default_matmul_precision("highest"):
        tower = Tower(t5_keys.load(tensors, sizes, encoder_only=True))
        found, first, again = timed(lambda: tower.run(t5.T5Encoder.__call__, ids, mask))
    with torch.no_grad():
        inputs = {
            "input_ids": torch.from_numpy(ids).long(),
            "attention_mask": torch.from_numpy(mask).long(),
        }
        expected, _, torch_again = timed(lambda: theirs(**inputs).last_hidden_state.numpy())
    error = np.abs(found - expected)[mask].max() / np.abs(expected[mask]).max()
    millions = sum(p.numel() for p in theirs.parameters()) / 1e6
    print(
        f"t5-{flags.size}: {millions:.1f} M parameters, {flags.rows} x {flags.length} tokens: "
        f"relative difference {error:.1e}; jax {again:.2f} s (first call {first:.1f} s), "
        f"torch {torch_again:.2f} s"
    )


def timed(function):
    """Call twice; return the result and both times in seconds."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, *times


if __name__ == "__main__":
    main()
