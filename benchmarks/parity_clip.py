"""Compare a CLIP of a published size with transformers, in float32, random weights.

    python benchmarks/parity_clip.py --size=huge --rows=2

prints, for each tower, the largest difference of the features relative to the largest value, and
the time of each. Huge needs about 9 GB of memory. Nothing is downloaded.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from miro_jax.pretrained.networks import clip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import Tensor

HUGE = {
    "projection_dim": 1024,
    "vision_config": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    },
}
LARGE = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 224,
        "patch_size": 14,
    },
    "text_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}
SIZES = {"huge": HUGE, "large": LARGE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="huge")
    parser.add_argument("--rows", type=int, default=2, help="pictures and captions (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    config = SIZES[flags.size]
    theirs = random_clip(config, flags.seed)
    tensors = opened(theirs)
    rng = np.random.default_rng(flags.seed)
    images = rng.normal(size=(flags.rows, 224, 224, 3)).astype(np.float32)
    ids = rng.integers(3, 49400, (flags.rows, 77)).astype(np.int32)
    ids[np.arange(flags.rows), rng.integers(5, 77, flags.rows)] = 49407
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    cases = (
        (
            "vision",
            lambda: clip_keys.load_vision(tensors, clip_keys.vision_config(config)),
            images,
            lambda: theirs.get_image_features(pixels),
        ),
        (
            "text",
            lambda: clip_keys.load_text(tensors, clip_keys.text_config(config)),
            ids,
            lambda: theirs.get_text_features(torch.from_numpy(ids).long()),
        ),
    )
    for name, load, inputs, features in cases:
        with jax.default_matmul_precision("highest"):
            tower = Tower(load())
            found, first, again = timed(lambda tower=tower, x=inputs: tower.run(call, x))
        del tower
        with torch.no_grad():
            expected, _, torch_again = timed(lambda f=features: f().pooler_output.numpy())
        error = np.abs(found - expected).max() / np.abs(expected).max()
        print(
            f"clip-{flags.size} {name}, {flags.rows} rows: relative difference {error:.1e}; "
            f"jax {again:.2f} s (first call {first:.1f} s), torch {torch_again:.2f} s",
            flush=True,
        )


def call(module, x):
    """Read pictures or ids into features."""
    return module(x)


def random_clip(config: dict, seed: int) -> CLIPModel:
    """Make a CLIP whose start values have the size of trained ones, and no vector at 0 or 1."""
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def opened(model: CLIPModel) -> dict[str, Tensor]:
    """Present the weights as tensors of a file, without a copy."""
    return {
        key: Tensor(tuple(value.shape), np.dtype(np.float32), value.numpy)
        for key, value in model.state_dict().items()
    }


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
