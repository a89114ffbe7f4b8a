"""Images per second of guided sampling, on whatever device JAX sees.

    python benchmarks/images_per_second.py --batch 1 64                  # ours alone
    python benchmarks/images_per_second.py --batch 1 64 --authors        # and the authors' package
    python benchmarks/images_per_second.py --size=tiny --batch 2 --steps 3    # to try the script

Latents only: caption encoder and VAE are not part of it. Weights are random. `--authors` needs
PyTorch and the package miro-t2i; their network then runs under torch.compile and autocast, as their
pipeline does. Work of an image: two forwards a step.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import timing
from benchmarks.sizes import SIZES, config_of
from miro_jax.models import layers, sharding
from miro_jax.models.rin import RIN
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import euler


def draw(config, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Noise, captions and levels of a request."""
    rng = np.random.default_rng(0)
    return {
        "noise": rng.normal(size=(batch, *config.latent_shape)).astype(np.float32),
        "tokens": rng.normal(size=(batch, tokens, config.caption_width)).astype(np.float32),
        "mask": np.ones((batch, tokens), bool),
        "levels": np.ones((batch, config.num_rewards), np.float32),
    }


class Ours:
    """Our sampler of one batch size: made, it is compiled."""

    def __init__(self, config, batch, args):
        self.args, self.mesh = args, sharding.one_device_mesh()
        if args.products:
            layers.cuts_kernels = lambda: args.products == "cut"
        dtype = jnp.dtype(args.dtype)
        with sharding.use_mesh(self.mesh):
            graphdef, abstract = nnx.split(
                nnx.eval_shape(
                    lambda: RIN(config, rngs=nnx.Rngs(0), dtype=dtype, attention=args.attention)
                )
            )

            def leaf(path, x):
                value = timing.draw(jax.tree_util.keystr(path), x.shape)
                # Matrices in the dtype of their products, as the pipeline keeps a release's.
                value = value.astype(dtype if x.ndim > 1 else x.dtype)
                return jax.device_put(value, sharding.replicated(self.mesh))

            weights = jax.tree_util.tree_map_with_path(leaf, abstract)
            x = draw(config, batch, args.tokens)
            positive = Branch(x["tokens"], x["mask"], x["levels"])
            negative = Branch(x["tokens"], x["mask"], 0 * x["levels"])
            guidance = Guidance(np.full(batch, 7.0, np.float32), np.array([0, 1], np.float32))
            rest = jax.device_put((x["noise"], positive, negative, guidance))
            self.inputs = (weights,), *rest
            sample = make_sampler(graphdef, euler, args.steps)
            begin = time.perf_counter()
            lowered = sample.lower(*self.inputs, guided=True)
            self.lower_s = time.perf_counter() - begin
            begin = time.perf_counter()
            self.compiled = lowered.compile()
            self.compile_s = time.perf_counter() - begin

    def call(self):
        return self.compiled(*self.inputs)

    def measure(self) -> dict:
        with sharding.use_mesh(self.mesh):
            images = np.asarray(self.call())
            same = bool((np.asarray(self.call()) == images).all())
            found = timing.measure(
                self.call,
                jax.block_until_ready,
                seconds=self.args.seconds,
                warm=0,
                least=2,
                piped=False,
            )
            sync = jax.block_until_ready
            extra = timing.profiled(self.call, sync, 1) if self.args.profile else {}
        found |= extra | {"compile_s": self.compile_s, "lower_s": self.lower_s}
        return found | {"finite": bool(np.isfinite(images).all()), "repeats_bit_for_bit": same}


class Theirs:
    """The authors' sampler of one batch size: made, it is compiled."""

    def __init__(self, config, batch, args):
        import torch

        from tests.oracles.rin import Oracle

        torch.set_num_threads(args.threads)
        self.torch, self.args = torch, args
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        names = tuple(f"reward{i}_score" for i in range(config.num_rewards))
        self.oracle = Oracle(config, names, seed=0)
        self.oracle.network.to(self.device)
        self.oracle.preconditioning.to(self.device)
        torch.set_float32_matmul_precision("high")
        if not args.eager:
            self.oracle.network.compile(fullgraph=True, dynamic=False, backend=args.backend)
        x = draw(config, batch, args.tokens)
        self.given = {"noise": x["noise"], "caption_tokens": x["tokens"], "levels": x["levels"]}
        self.given["caption_mask"] = x["mask"]
        self.empty = np.zeros(config.caption_width, np.float32)
        begin = time.perf_counter()
        self.call(2)  # the shapes of all steps
        self.compile_s = time.perf_counter() - begin
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def call(self, steps: int | None = None):
        torch, args = self.torch, self.args
        with torch.inference_mode(), torch.device(self.device):
            return self.oracle.sample(self.given, self.empty, 7.0, steps or args.steps, args.dtype)

    def measure(self) -> dict:
        seconds = self.args.seconds
        found = timing.measure(
            self.call, lambda images: images, seconds=seconds, most=8, warm=1, least=2, piped=False
        )
        return found | {"compile_s": self.compile_s}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="released", help="of the network")
    parser.add_argument(
        "--tiny", action="store_const", dest="size", const="tiny", help="a small one"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="images at once")
    parser.add_argument("--steps", type=int, default=50, help="Euler steps")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption")
    parser.add_argument("--dtype", default="bfloat16", help="of parameters and matrix products")
    parser.add_argument("--attention", default="auto", help="kernel of ours: auto, xla, cudnn")
    parser.add_argument("--residual", default="float32", help="of ours: float32 or compute")
    parser.add_argument("--products", choices=("cut", "whole"), help="of packed kernels of ours")
    parser.add_argument("--authors", action="store_true", help="time the authors' package too")
    parser.add_argument("--only-authors", action="store_true", help="and not ours")
    parser.add_argument("--eager", action="store_true", help="theirs without torch.compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument(
        "--profile", action="store_true", help="print the costliest kernels of ours"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="timed, of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch on a CPU")
    args = parser.parse_args()
    config = config_of(args.size, residual=args.residual)
    gflop = None
    if args.size == "released":
        gflop = 2 * args.steps * timing.GFLOP_PER_FORWARD[args.tokens]
    sides = {}
    mine = f"{args.attention}-{args.residual}-{args.products or 'default'}"
    for batch in args.batch:
        for kind, label, wanted in (
            (Ours, f"sample/ours/{mine}/b{batch}", not args.only_authors),
            (
                Theirs,
                f"sample/authors/{'eager' if args.eager else 'compiled'}/b{batch}",
                args.authors or args.only_authors,
            ),
        ):
            if wanted:
                with timing.case(label):
                    sides[label] = batch, kind(config, batch, args)
    timing.wait_for_turn()
    for name, (batch, side) in sides.items():
        with timing.case(name):
            found = side.measure()
            rates = timing.rates(batch, found["median_s"], gflop)
            facts = {k: getattr(args, k) for k in ("size", "steps", "tokens", "dtype")}
            timing.emit(name, **rates, **found, batch=batch, **facts)


if __name__ == "__main__":
    main()
