"""One guided step of the network: ours against the authors' package, interleaved in one process.

    python benchmarks/rin_step.py                    # the CPU case of docs/benchmarks.md
    python benchmarks/rin_step.py --rows 1 --repeats 5

Both sides get the same random weights, noise, captions and levels. A guided step is one evaluation
of the network on 2 x rows (asked and negative branch), the condition encoder included, and one
Euler update. Reported: medians, their ratio (above 1: ours is quicker), the largest difference of
the two results, and the share of the matrix product rate measured in the same run.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--rows", type=int, default=4, help="pictures, before guidance doubles them")
parser.add_argument("--tokens", type=int, default=77, help="caption tokens")
parser.add_argument("--steps", type=int, default=1, help="Euler steps of each timed run")
parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side")
parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both sides")
parser.add_argument("--tiny", action="store_true", help="a small network, to try the script")
args = parser.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from miro_jax.models.sampler import Branch, Guidance, make_sampler  # noqa: E402
from miro_jax.models.solvers import euler  # noqa: E402
from tests.networks import difference, make_batch  # noqa: E402
from tests.oracles import pairs  # noqa: E402

GFLOP_PER_ROW = 167.6  # at 77 caption tokens, a multiply-add counted as two


def matmul_rate(size: int = 2048) -> float:
    """Return the GFLOP/s of a large float32 matrix product."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds) / 1e9


def main() -> None:
    config = pairs.TINY if args.tiny else pairs.RELEASED
    pair = pairs.Pair(config, seed=0)
    torch.set_num_threads(args.threads)
    rows = args.rows
    batch = make_batch(config, rows, args.tokens, seed=1)
    empty = np.random.default_rng(2).normal(size=config.caption_width).astype(np.float32)
    tokens = np.zeros_like(batch["caption_tokens"])
    tokens[:, 0] = empty
    mask = np.broadcast_to(np.arange(args.tokens) == 0, (rows, args.tokens))
    ones = np.ones((rows, config.num_rewards), np.float32)
    guidance = Guidance(np.full(rows, 7.0, np.float32), np.array([0.0, 1.0], np.float32))
    inputs = jax.device_put(
        (
            (pair.params, pair.buffers),
            batch["noise"],
            Branch(batch["caption_tokens"], batch["caption_mask"], ones),
            Branch(tokens, mask, 0 * ones),
            guidance,
        )
    )
    sample = make_sampler(pair.graphdef, euler, args.steps)
    compiled = sample.lower(*inputs, guided=True).compile()

    def ours():
        return np.asarray(compiled(*inputs))

    def theirs():
        with torch.inference_mode():
            return pair.oracle.sample(batch, empty, scale=7.0, num_steps=args.steps)

    error = difference(ours(), theirs())
    seconds = {"ours": [], "theirs": []}
    for _ in range(args.repeats):
        for name, call in (("ours", ours), ("theirs", theirs)):
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rate = 2 * rows * args.steps * GFLOP_PER_ROW / medians["ours"]
    ceiling = matmul_rate()
    result = {
        "rows": rows,
        "tokens": args.tokens,
        "steps": args.steps,
        "threads": args.threads,
        "ours_seconds": seconds["ours"],
        "theirs_seconds": seconds["theirs"],
        "ratio": medians["theirs"] / medians["ours"],
        "largest_relative_difference": error,
        "ours_gflop_per_second": rate,
        "matmul_gflop_per_second": ceiling,
        "torch": torch.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(result))
    print(
        f"{args.steps} guided step(s) of {rows}: ours {medians['ours']:.2f} s, "
        f"theirs {medians['theirs']:.2f} s, "
        f"ratio {result['ratio']:.2f}, difference {error:.1e}, "
        f"{rate / ceiling:.0%} of a large matrix product's rate",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
