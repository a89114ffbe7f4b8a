"""Images per second of guided sampling at the released sizes, on whatever device JAX sees.

    python benchmarks/images_per_second.py --batch 1 64                  # ours alone
    python benchmarks/images_per_second.py --batch 1 64 --authors        # and the authors' package
    python benchmarks/images_per_second.py --tiny --batch 2 --steps 3    # to try the script

Latents only: caption encoder and VAE are not part of it. Weights are random. `--authors` needs
PyTorch and the package miro-t2i on the same device; their network then runs under torch.compile
and autocast, as their pipeline does. Reported per batch size: images/s of each side, their ratio,
and ours as a share of the matrix product rate measured in the same run.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models import sharding
from miro_jax.models.rin import RIN, RINConfig
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import euler

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
TINY = {"num_blocks": 1, "layers_per_block": 1, "num_latent_tokens": 16, "latent_width": 64}
TOKENS = 77
GFLOP_PER_FORWARD = 167.6  # of the released sizes


def seconds(call, repeats: int) -> float:
    """Return the shortest of some runs, after one that is not timed."""
    call()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def matmul_tflops(dtype, size: int) -> float:
    """Return the rate of a square matrix product, TFLOP/s."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: (x @ x) * 1e-3)
    return 2 * size**3 / seconds(lambda: product(x).block_until_ready(), 10) / 1e12


def draw(config: RINConfig, batch: int) -> dict[str, np.ndarray]:
    """Noise, captions and levels of a request."""
    rng = np.random.default_rng(0)
    return {
        "noise": rng.normal(size=(batch, *config.latent_shape)).astype(np.float32),
        "tokens": rng.normal(size=(batch, TOKENS, config.caption_width)).astype(np.float32),
        "mask": np.ones((batch, TOKENS), bool),
        "levels": np.ones((batch, config.num_rewards), np.float32),
    }


def ours(config, batch, steps, dtype, repeats) -> float:
    """Return the seconds of one guided trajectory of `batch` pictures."""
    with sharding.use_mesh(sharding.one_device_mesh()):

        @jax.jit
        def init(key):
            return nnx.split(RIN(config, rngs=nnx.Rngs(params=key), dtype=jnp.dtype(dtype)))[1]

        graphdef, _ = nnx.split(
            nnx.eval_shape(lambda: RIN(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype)))
        )
        weights = jax.tree.map(
            lambda x: x.astype(dtype) if x.ndim > 1 else x, init(jax.random.key(0))
        )
        x = draw(config, batch)
        positive = Branch(x["tokens"], x["mask"], x["levels"])
        negative = Branch(x["tokens"], x["mask"], 0 * x["levels"])
        guidance = Guidance(np.full(batch, 7.0, np.float32), np.array([0, 1], np.float32))
        inputs = jax.device_put(((weights,), x["noise"], positive, negative, guidance))
        sample = make_sampler(graphdef, euler, steps)
        return seconds(lambda: sample(*inputs, guided=True).block_until_ready(), repeats)


def theirs(config, batch, steps, dtype, repeats) -> float:
    """Return the seconds of the authors' sampler with a compiled network."""
    import torch

    from tests.oracles.rin import Oracle

    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = [f"reward{i}_score" for i in range(config.num_rewards)]
    oracle = Oracle(config, tuple(names), seed=0)
    oracle.network.to(device)
    oracle.preconditioning.to(device)
    torch.set_float32_matmul_precision("high")
    oracle.network = torch.compile(oracle.network)
    x = draw(config, batch)
    given = {"noise": x["noise"], "caption_tokens": x["tokens"], "caption_mask": x["mask"]}
    given["levels"] = x["levels"]
    empty = np.zeros(config.caption_width, np.float32)

    def call():
        with torch.inference_mode(), torch.device(device):
            oracle.sample(given, empty, 7.0, steps, dtype)

    return seconds(call, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="pictures at once")
    parser.add_argument("--steps", type=int, default=50, help="Euler steps")
    parser.add_argument("--dtype", default="bfloat16", help="of parameters and matrix products")
    parser.add_argument("--repeats", type=int, default=3, help="timed trajectories")
    parser.add_argument("--authors", action="store_true", help="time the authors' package too")
    parser.add_argument("--tiny", action="store_true", help="a small network")
    args = parser.parse_args()
    config = RINConfig(**(vars(RELEASED) | (TINY if args.tiny else {})))
    ceiling = matmul_tflops(args.dtype, 512 if args.tiny else 8192)
    device = jax.devices()[0]
    print(f"{device.device_kind}: {ceiling:.1f} TFLOP/s in a matrix product", file=sys.stderr)
    for batch in args.batch:
        result = {"device": device.device_kind, "batch": batch, "steps": args.steps}
        result["dtype"] = args.dtype
        mine = ours(config, batch, args.steps, args.dtype, args.repeats)
        result["ours_images_per_second"] = batch / mine
        if not args.tiny:
            used = 2 * batch * args.steps * GFLOP_PER_FORWARD / mine / 1e3
            result["share_of_matmul_rate"] = used / ceiling
        if args.authors:
            other = theirs(config, batch, args.steps, args.dtype, args.repeats)
            result["authors_images_per_second"] = batch / other
            result["ratio"] = other / mine
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
