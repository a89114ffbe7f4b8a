"""What a training step moves through a GPU's memory, by a compiler alone: no GPU is needed.

    pip install jax-cuda13-pjrt jax-cuda13-plugin nvidia-cuda-nvcc nvidia-nvvm   # as new as jax is
    python benchmarks/gpu_program.py --blocks 2 --layers 1          # 2 to 4 minutes of two cores
    python benchmarks/gpu_program.py --update                       # of the whole network; a minute

XLA compiles for a description of an H200. Printed are the kernels beside the matrix products by
kind: how many, the bytes that they read and write, and the time that takes at the bandwidth. Where
a kind is far above what the mathematics needs, look at its kernels in --text. Attention is stood in
for by three elementwise operations: cuDNN's kernels cannot be compiled without a GPU. --update is
the rest of a step: clipping, optimizer, average and the norms of the log.
"""

import argparse
import collections
import contextlib
import math
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks import train_step, tried
from benchmarks.sizes import config_of
from miro_jax.models import attention, compiling, sharding
from miro_jax.models.rin import RIN
from miro_jax.train.state import Init
from miro_jax.train.step import apply_gradient, make_loss

BANDWIDTH = 4.3e12  # bytes/s of a copy, as measured on an H200
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
FREE = ("parameter", "get-tuple-element", "constant", "bitcast", "tuple", "custom-call")
SHAPE = re.compile(r"\b(pred|s8|u8|bf16|f16|f32|s32|u32)\[([\d,]*)\]")
LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*)")


def stand_in(q, k, v, mask=None, **_):
    """Read q, k and v as attention lies in memory, and write its result so."""
    q, k, v = (compiling.row_major(x) for x in (q, k, v))
    return compiling.row_major(q * jnp.sum(k * v, axis=1, keepdims=True))


def compile_part(args: argparse.Namespace) -> str:
    """Return the compiled program of the loss's gradient, or of the update by it."""
    with contextlib.suppress(Exception):  # some versions find it by themselves
        __import__("jax_plugins.xla_cuda13", fromlist=["initialize"]).initialize()
    devices = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1")
    place = SingleDeviceSharding(devices.devices[0])
    jax.default_backend = lambda: "gpu"  # what is traced is for it
    attention.attend = stand_in
    sizes = {} if args.update else {"num_blocks": args.blocks, "layers_per_block": args.layers}
    config = config_of("released", residual=args.residual, **sizes)
    build = lambda rngs: RIN(config, rngs=rngs, dtype=jnp.bfloat16)  # noqa: E731
    with sharding.use_mesh(sharding.one_device_mesh()):
        optimizer = train_step.make_optimizer(train_step.OPTIM, train_step.STEPS)
        init = Init(build, optimizer)
    empty = np.zeros((1, config.caption_width), np.float16)
    loss = make_loss(init.graphdef, train_step.RECIPE, lambda x: 0.1 * x, empty)
    batch = train_step.data(config, args.batch, args.tokens)
    state, batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (init.shapes, batch)
    )

    def gradient(params, buffers, batch):
        return jax.grad(loss, has_aux=True)(params, buffers, batch, jax.random.key(0))

    def update(state, grads):
        schedule = train_step.schedule_of(train_step.OPTIM, train_step.STEPS)
        return apply_gradient(state, grads, optimizer, schedule, train_step.RECIPE.ema_decay)

    options = compiling.options() | {"xla_gpu_autotune_level": 0}
    if args.update:
        jitted = jax.jit(update, donate_argnums=0, compiler_options=options)
        count = sum(x.size for x in jax.tree.leaves(state.params))
        print(f"{count:,} parameters")
        return jitted.lower(state, state.params).compile().as_text()
    lowered = jax.jit(gradient, compiler_options=options).lower(state.params, state.buffers, batch)
    return lowered.compile().as_text()


def size_of(shapes: str) -> int:
    """Return the bytes of all arrays that a text names."""
    found = SHAPE.findall(shapes)
    return sum(
        WIDTHS[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in found
    )


def traffic(program: str) -> tuple[collections.Counter, collections.Counter]:
    """Return how many kernels of a kind there are, and the bytes that they read and write."""
    shapes, counts, moved = {}, collections.Counter(), collections.Counter()
    for line in program[program.rindex("ENTRY") :].splitlines():
        if match := LINE.match(line):
            name, shape, kind, rest = match.groups()
            shapes[name] = shape
            if kind not in FREE:
                reads = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
                label = re.sub(r"[._]\d+$", "", name)
                counts[label] += 1
                moved[label] += size_of(shape) + sum(size_of(shapes.get(r, "")) for r in reads)
    return counts, moved


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption")
    parser.add_argument("--residual", default="compute", help="float32 or compute")
    parser.add_argument("--blocks", type=int, default=2, help="of the network, for the gradient")
    parser.add_argument("--layers", type=int, default=1, help="of a block")
    parser.add_argument("--update", action="store_true", help="what follows the gradient")
    parser.add_argument("--text", type=Path, help="file for the compiled program")
    tried.add_option(parser)
    args = parser.parse_args()
    tried.patch(args.tried)
    begin = time.time()
    program = compile_part(args)
    if args.text:
        args.text.write_text(program)
    counts, moved = traffic(program)
    for kind, amount in [*moved.most_common(15), ("all", sum(moved.values()))]:
        count = counts[kind] if kind in counts else sum(counts.values())
        ms = amount / BANDWIDTH * 1e3
        print(f"{kind:34} {count:5} {amount / 1e9:8.2f} GB {ms:7.2f} ms")
    print(f"compiled in {time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
