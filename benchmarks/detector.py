"""GenEval's detector at full size: ours beside transformers' PyTorch network, in one run.

    python -m benchmarks.detector                  # one image of 256 x 256, 800 x 800 inside
    python -m benchmarks.detector --parts          # seconds of each part of ours, too

Weights are random, of the published sizes; nothing is downloaded. Both networks have the same ones.
The sides take turns, so that other load hits both, on the same processors. Random weights of this
depth make the network chaotic, so the masks of the two differ; beside that stands by how much those
of transformers' alone do when its image changes by a millionth, and how the decoders differ on the
same memories. Prints a line to read and a line of JSON. Needs PyTorch, and about 3 GB of memory.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable

import jax
import numpy as np
import torch

from benchmarks.vae_decode import compare
from miro_jax.evaluate.suites.geneval import detector, pixels
from miro_jax.pretrained.networks import mask2former_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.oracles import mask2former as oracle

GFLOP = 441.8  # of the network at 800 x 800, a multiply-add counts as two


def backbone(module, images):
    """Run Swin alone."""
    return module.backbone(images)[-1]


def pixel_decoder(module, images):
    """Run Swin and the pixel decoder."""
    return module.pixels(module.backbone(images))[1]


def network(module, images):
    """Run all of it."""
    return module(images)


def decoder(module, features, *memories):
    """Run the decoder on what the pixel decoder made."""
    return module.decoder(list(memories), features)


def difference(found, expected: np.ndarray) -> float:
    """Return the largest difference over the largest value."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes, after one that is not timed."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="timed turns (default 3)")
    parser.add_argument("--threads", type=int, help="processors used (default: all there are)")
    parser.add_argument("--parts", action="store_true", help="time the parts of ours, too")
    options = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, processors)  # before JAX starts its threads, one a processor
    torch.set_num_threads(len(processors))
    theirs = oracle.make(0, oracle.FULL_SWIN, num_labels=80)
    tower = Tower(mask2former_keys.load(from_arrays(oracle.arrays(theirs)), mask2former_keys.COCO))
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    prepared = pixels.prepare(image)[None]
    x = ((prepared - np.float32(pixels.MEAN)) / np.float32(pixels.STD)).astype(np.float32)
    other = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    found = detector.Detector(tower, {})
    with torch.inference_mode(), jax.default_matmul_precision("highest"):
        calls = {
            "transformers": lambda: theirs(pixel_values=other),
            "ours": lambda: tower.run(network, x),
        }
        medians, least = compare(calls, options.repeats)
        expected = theirs(pixel_values=other).masks_queries_logits.numpy()
        nearly = other * (1 + 1e-6 * torch.randn(other.shape, generator=torch.Generator()))
        changed = theirs(pixel_values=nearly).masks_queries_logits.numpy()
        _, masks = tower.run(network, x)
        read = theirs.model.pixel_level_module(other)
        memories = [one.numpy().transpose(0, 2, 3, 1) for one in read.decoder_hidden_states]
        features = read.decoder_last_hidden_state.numpy().transpose(0, 2, 3, 1)
        _, decoded = tower.run(decoder, features, *memories)
        row = {
            "benchmark": "detector",
            "threads": len(processors),
            "repeats": options.repeats,
            **{f"{name}_seconds": round(value, 2) for name, value in medians.items()},
            "ratio": round(medians["transformers"] / medians["ours"], 2),
            "ratio_of_least": round(least["transformers"] / least["ours"], 2),
            "ours_gflops": round(GFLOP / least["ours"], 1),
            "difference": difference(masks, expected),
            "difference_of_theirs": difference(changed, expected),
            "difference_of_decoders": difference(decoded, expected),
        }
        if options.parts:
            parts = {
                f.__name__: functools.partial(tower.run, f, x) for f in (backbone, pixel_decoder)
            }
            parts |= {
                "prepare": lambda: pixels.prepare(image),
                "detect": lambda: found.detect([image]),
            }
            row |= {f"{name}_seconds": round(seconds(call), 3) for name, call in parts.items()}
    print(
        f"one image, 800 x 800: ours {row['ours_seconds']} s, transformers "
        f"{row['transformers_seconds']} s, ratio {row['ratio']} (of the quickest turns "
        f"{row['ratio_of_least']}); largest difference of masks {row['difference']:.1e} "
        f"({row['difference_of_theirs']:.1e} of theirs alone for an image changed by 1e-6), "
        f"{row['difference_of_decoders']:.1e} on the same memories"
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
