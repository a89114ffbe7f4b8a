"""Compare ImageReward at its published size with transformers, in float32, with random weights.

    python -m benchmarks.parity_blip --rows=2

writes the weights as PyTorch does (1.8 GB in a temporary folder), reads them back without PyTorch
and prints the largest differences relative to the largest values, and times. Needs about 6 GB of
memory. Nothing is downloaded.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from miro_jax.pretrained.networks import blip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.pickles import open_pickle
from miro_jax.rewards.aesthetic import fold_linear
from miro_jax.rewards.image_reward import MEAN, STD
from tests.oracles.blip import Oracle

VISION = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "image_size": 224,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "vocab_size": 30524,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
LENGTH = 35


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2, help="pictures and captions (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    oracle = Oracle(VISION, TEXT, seed=flags.seed)
    rng = np.random.default_rng(flags.seed)
    images = rng.normal(size=(flags.rows, 224, 224, 3)).astype(np.float32)
    ids = rng.integers(1000, 30000, (flags.rows, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None] < np.linspace(LENGTH, 8, flags.rows).astype(int)[:, None]
    tokens, torch_seconds = timed(lambda: oracle.image_hidden(images)[-1])
    hidden = oracle.text_hidden(ids, mask, tokens)[-1]
    rewards = oracle.rewards(images, ids, mask)
    with tempfile.TemporaryDirectory() as folder:
        oracle.write(Path(folder))
        found, listed = timed(lambda: open_pickle(Path(folder) / "ImageReward.pt"))
        vision = blip_keys.vision_config(found)
        text = blip_keys.text_config(TEXT, vision.width)
        networks, loaded = timed(lambda: blip_keys.load_towers(found, vision, text))
        weight, bias = fold_linear(found, "mlp.layers")
    see, look = map(Tower, networks)
    with jax.default_matmul_precision("highest"):
        see.run(_see, images)
        ours, seconds = timed(lambda: see.run(_see, images))
        pairs = look.run(_look, ids, mask, ours)
    scores = (pairs[:, 0] @ weight + bias - MEAN) / STD
    print(
        f"ImageReward, {flags.rows} rows: relative difference of image tokens "
        f"{error(ours, tokens):.1e}, of text tokens {error(pairs[mask], hidden[mask]):.1e}, of "
        f"rewards {error(scores, rewards):.1e}; listed in {listed:.2f} s, loaded in {loaded:.1f} "
        f"s; image tower: jax {seconds:.2f} s, torch {torch_seconds:.2f} s"
    )


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def _see(module, images):
    return module(images)


def _look(module, ids, mask, source):
    return module(ids, mask, source)


if __name__ == "__main__":
    main()
