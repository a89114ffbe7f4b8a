"""Images per second of a training step: ours, and the authors' in PyTorch, on the same device.

    python benchmarks/train_step.py --authors                       # on a GPU: batch 64, bfloat16
    python benchmarks/train_step.py --size=bench --dtype=float32 --tokens=16 --authors   # on a CPU
    python benchmarks/train_step.py --size=tiny --batch 2 --authors --seconds=0.1        # to try it

One optimizer update as the paper trains: two evaluations of the network (the first without a
gradient), backward, clip, LAMB, EMA. Weights and data are random. Ours leaves out the reading of
records, theirs Lightning's loop and logging. Work of an image: four forwards. With
--what=forward_backward the gradient alone, without clip, LAMB and EMA.
"""

import argparse
import copy
import itertools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing, tried
from benchmarks.sizes import SIZES, config_of
from miro_jax.models import compiling, layers, sharding
from miro_jax.models.rin import RIN
from miro_jax.train.optim import make_optimizer, schedule_of
from miro_jax.train.settings import Optim, Recipe
from miro_jax.train.state import Init, abstract_state
from miro_jax.train.step import make_gradient, make_loss, make_train_step

RECIPE = Recipe(0.0, 1.0, 0.9, 0.0, 0.0, 0.9999)
OPTIM = Optim(name="lamb", learning_rate=1e-3, warmup_steps=5_000)
STEPS = 500_000
STEP, GRADIENT = "step", "forward_backward"  # what is measured


def data(config, rows: int, tokens: int) -> dict[str, np.ndarray]:
    """A batch as records hold it: float16, captions of different lengths."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(tokens // 4, tokens + 1, rows)
    return {
        "image_mean": rng.normal(0, 5, (rows, *config.latent_shape)).astype(np.float16),
        "image_std": np.full((rows, *config.latent_shape), 0.1, np.float16),
        "caption_tokens": rng.normal(0, 0.3, (rows, tokens, config.caption_width)).astype("f2"),
        "caption_mask": np.arange(tokens)[None] < lengths[:, None],
        "levels": rng.uniform(size=(rows, config.num_rewards)).astype(np.float32),
        "weight": np.ones(rows, np.float32),
    }


def make_step(
    config, mesh, dtype: str, attention: str = "auto", microbatches: int = 1, what: str = STEP
):
    """Return our jitted step for a mesh, whose devices need not be there, and its state's shapes.

    What is called takes (state, batch); of a step it returns (state, metrics), of GRADIENT (the
    gradient, metrics).

    Called, and the step traced, inside `use_mesh`.
    """
    build = lambda rngs: RIN(  # noqa: E731
        config, rngs=rngs, dtype=jnp.dtype(dtype), attention=attention
    )
    optimizer = make_optimizer(OPTIM, STEPS)
    init = Init(build, optimizer)
    abstract, shardings = abstract_state(init, mesh)
    empty = np.zeros((1, config.caption_width), np.float16)
    loss = make_loss(init.graphdef, RECIPE, lambda x: 0.1 * x, empty)
    if what == GRADIENT:
        gradient = make_gradient(loss, 0, microbatches)
        out = (shardings.params, sharding.replicated(mesh))
        options = compiling.options()
        return jax.jit(gradient, out_shardings=out, compiler_options=options), abstract
    schedule = schedule_of(OPTIM, STEPS)
    jitted = jax.jit(
        make_train_step(loss, optimizer, schedule, RECIPE, 0, microbatches),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
        compiler_options=compiling.options(),
    )
    return jitted, abstract


class Ours:
    """Our step, compiled for a mesh (None: of one device); `measure` runs it."""

    def __init__(self, config, args, mesh=None):
        self.args, self.mesh = args, mesh or sharding.one_device_mesh()
        if args.products:
            layers.cuts_kernels = lambda: args.products == "cut"
        with sharding.use_mesh(self.mesh):
            step, self.abstract = make_step(
                config, self.mesh, args.dtype, args.attention, args.microbatches, args.what
            )
            layout = sharding.batch_sharding(self.mesh)
            self.batch = jax.device_put(data(config, args.batch, args.tokens), layout)
            begin = time.perf_counter()
            lowered = step.lower(self.abstract, self.batch)
            self.lower_s = time.perf_counter() - begin
            begin = time.perf_counter()
            self.compiled = lowered.compile()
            self.compile_s = time.perf_counter() - begin

    def start(self):
        """Put start values on the device: the same ones at every call."""

        def leaf(path, x):
            name = jax.tree_util.keystr(path)
            fixed = name.startswith((".opt_state", ".step"))
            value = np.zeros(x.shape, x.dtype) if fixed else timing.draw(name, x.shape)
            return jax.device_put(value.astype(x.dtype), x.sharding)

        self.state = jax.tree_util.tree_map_with_path(leaf, self.abstract)

    def call(self):
        made, metrics = self.compiled(self.state, self.batch)
        if self.args.what == STEP:
            self.state = made
        return metrics

    def first_steps(self) -> list[dict[str, float]]:
        """Loss and norms of three calls from the start."""
        self.start()
        rows = [jax.device_get(self.call()) for _ in range(3)]
        keys = ("loss", "grad_norm", "param_norm")
        return [{key: float(row[key]) for key in keys if key in row} for row in rows]

    def measure(self) -> dict:
        a = self.args
        sync = jax.block_until_ready
        with sharding.use_mesh(self.mesh):
            first = self.first_steps()
            same = self.first_steps() == first if a.repeat else None
            found = timing.measure(self.call, sync, seconds=a.seconds)
            memory = self.compiled.memory_analysis()
            size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            extra = timing.profiled(self.call, sync, 2) if a.profile else {}
        return (
            found
            | extra
            | {
                "compile_s": self.compile_s,
                "lower_s": self.lower_s,
                "memory_gb": size / 2**30,
                "first_losses": [float(f"{row['loss']:.9g}") for row in first],
                "repeats_bit_for_bit": same,
            }
        )


class Theirs:
    """The authors' step: autocast, two passes, their guard against NaN, clip, LAMB, EMA.

    Of GRADIENT the passes alone.
    """

    def __init__(self, config, args):
        import torch
        from miro.models.loss import FlowMatchingLoss
        from miro.models.preprocessing import PrecomputedSDLatentPreconditioning
        from miro.models.scheduler import LinearScheduler

        from tests.oracles.rin import Oracle

        torch.set_num_threads(args.threads)
        self.torch, self.args, self.config = torch, args, config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        names = tuple(f"reward{i}_score" for i in range(config.num_rewards))
        oracle = Oracle(config, names, seed=0)
        self.network = oracle.network.to(self.device).train()
        self.preconditioning = oracle.preconditioning.to(self.device).train()
        self.optimizer = oracle.lamb(1e-3, 0.01)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.loss = FlowMatchingLoss(
            LinearScheduler(), None, self_cond_rate=0.9, do_gradnorm_reweighting=True
        )
        self.prepare_data = PrecomputedSDLatentPreconditioning(
            input_key_mean="mean", input_key_std="std", vae_sample=True
        )
        for name in ("scale", "bias"):  # as many channels as there are
            buffer = getattr(self.prepare_data, name).data.flatten()[:1]
            shape = (1, config.latent_shape[-1], 1, 1)
            setattr(self.prepare_data, name, buffer.expand(shape).clone().to(self.device))
        x = data(config, args.batch, args.tokens)
        put = lambda a: torch.tensor(a, device=self.device)  # noqa: E731
        self.raw = {
            "mean": put(x["image_mean"].transpose(0, 3, 1, 2).copy()),
            "std": put(x["image_std"].transpose(0, 3, 1, 2).copy()),
            "text_tokens_embeddings": put(x["caption_tokens"]),
            "text_tokens_mask": put(x["caption_mask"]),
        }
        for i, name in enumerate(names):
            self.raw[f"{name}_coherence"] = put(x["levels"][:, i])
        self.scaler = torch.amp.GradScaler(self.device, enabled=args.dtype == "float16")
        if args.compile_theirs:
            self.network.compile(fullgraph=True, dynamic=False, backend=args.backend)
        begin = time.perf_counter()
        self.sync(self.call())
        self.compile_s = time.perf_counter() - begin
        for _ in range(20):  # in float16 the scale falls until steps are taken
            before = self.scaler.get_scale()
            self.call()
            if self.scaler.get_scale() >= before:
                break
        if self.device == "cuda":
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def sync(self, _=None):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def call(self):
        torch, args = self.torch, self.args
        dtype = getattr(torch, args.dtype)
        with torch.no_grad():
            batch = dict(self.raw)
            self.prepare_data(batch)
        with torch.autocast(self.device, dtype, enabled=dtype != torch.float32):
            loss, _ = self.loss(self.preconditioning, self.network, None, batch, global_step=0)
            loss = loss.mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if args.what == STEP:
            self.update()
        return loss

    def update(self):
        torch, args = self.torch, self.args
        self.scaler.unscale_(self.optimizer)
        modules = (self.network, self.preconditioning)
        parameters = list(itertools.chain(*(m.parameters() for m in modules)))
        for parameter in parameters if args.guard else ():
            if parameter.grad is not None:
                if torch.isnan(parameter.grad).any() or torch.isinf(parameter.grad).any():
                    self.bad = True
                torch.nan_to_num(parameter.grad, nan=0, posinf=0, neginf=0, out=parameter.grad)
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for held, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                if new.requires_grad:
                    held.mul_(0.9999).add_(new, alpha=1e-4)

    def measure(self) -> dict:
        found = timing.measure(self.call, self.sync, seconds=self.args.seconds, most=40)
        peak = self.torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None
        return found | {"compile_s": self.compile_s, "memory_gb": peak}


def first_step(config, args) -> dict[str, float]:
    """Make one step of ours; return the seconds since the process was started, and of parts."""
    begin = float(os.environ.get(timing.BEGIN, time.time()))
    side = Ours(config, args)
    with sharding.use_mesh(side.mesh):
        side.start()
        jax.block_until_ready(side.call())
    seconds = {"first_step_s": time.time() - begin}
    return seconds | {"lower_s": side.lower_s, "compile_s": side.compile_s}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=(STEP, GRADIENT), default=STEP, help="is measured")
    parser.add_argument("--size", choices=SIZES, default="released", help="of the network")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption")
    parser.add_argument("--dtype", default="bfloat16", help="of matrix products")
    parser.add_argument("--attention", default="auto", help="kernel of ours: auto, xla, cudnn")
    parser.add_argument("--residual", default="float32", help="of ours: float32 or compute")
    parser.add_argument("--products", choices=("cut", "whole"), help="of packed kernels of ours")
    parser.add_argument("--remat", action="store_true", help="recompute blocks of ours")
    parser.add_argument("--microbatches", type=int, default=1, help="of a step of ours")
    parser.add_argument("--authors", action="store_true", help="time the authors' package too")
    parser.add_argument("--only-authors", action="store_true", help="and not ours")
    parser.add_argument("--eager", action="store_true", help="theirs without torch.compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--no-guard", action="store_true", help="theirs without the NaN guard")
    parser.add_argument("--repeat", action="store_true", help="do two runs agree bit for bit?")
    parser.add_argument(
        "--profile", action="store_true", help="print the costliest kernels of ours"
    )
    parser.add_argument("--first-step", action="store_true", help="time one step of ours, no more")
    parser.add_argument("--seconds", type=float, default=2.5, help="timed, of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch on a CPU")
    tried.add_option(parser)
    args = parser.parse_args()
    tried.patch(args.tried)
    args.compile_theirs, args.guard = not args.eager, not args.no_guard
    return args


def main() -> None:
    args = parse()
    config = config_of(args.size, residual=args.residual, remat=args.remat)
    if args.first_step:
        timing.emit(f"first step/{args.size}", **first_step(config, args))
        return
    gflop = 4 * timing.GFLOP_PER_FORWARD[args.tokens] if args.size == "released" else None
    facts = {
        k: getattr(args, k) for k in ("what", "size", "batch", "microbatches", "tokens", "dtype")
    }
    sides = {}
    mine = [args.attention, args.residual, args.products or "default"]
    part = "train" if args.what == STEP else args.what
    mine = f"{part}/ours/" + "-".join([*mine, *["remat"] * args.remat])
    mine += f"/b{args.batch}"
    kind = "eager" if args.eager else "compiled"
    their = f"{part}/authors/{args.dtype}-{kind}{'' if args.guard else '-unguarded'}/b{args.batch}"
    if not args.only_authors:
        with timing.case(mine):
            sides[mine] = Ours(config, args)
    if args.authors or args.only_authors:
        with timing.case(their):
            sides[their] = Theirs(config, args)
    timing.wait_for_turn()
    for name, side in sides.items():
        with timing.case(name):
            found = side.measure()
            rates = timing.rates(args.batch, found["piped_s"], gflop)
            timing.emit(name, **rates, **found, **facts)


if __name__ == "__main__":
    main()
