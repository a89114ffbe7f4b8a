"""What programs ask of TPUs, by their compiler alone: no TPU is needed.

    pip install libtpu                                   # the version that goes with your jax
    python benchmarks/tpu_program.py --size=tiny --topology=v5e:2x2             # to try it
    python benchmarks/tpu_program.py --topology=v6e:2x2 --batch 64              # 16 images a chip
    python benchmarks/tpu_program.py sample --topology=v5e:2x2 --chips 1 --batch 64
    python benchmarks/tpu_program.py clip_h t5_xl --topology=v5e:2x2 --chips 1 --batch 256

`step` is the whole training step as `miro_jax.main` shards it, `sample` the sampler with 50 guided
steps, the others are pretrained networks as annotation runs them. So it is known whether they
compile, how long that takes, whether they fit and how near the estimate of `miro-jax plan` is.
Printed are further what chips send each other, and where the cycles go by the compiler's own model
of the chip: it leaves out waiting for other chips, and is no measurement.
"""

import argparse
import collections
import functools
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
from flax import nnx
from jax.experimental import topologies
from jax.sharding import NamedSharding

from benchmarks import images_per_second, scaling, towers, train_step, tried
from benchmarks.sizes import SIZES, config_of
from miro_jax.models import compiling, sharding, slices
from miro_jax.models.flops import sampling_flops, training_flops
from miro_jax.models.rin import RIN
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import euler

GIB = 2**30
STEPS = 50  # of the sampler
# Operations of a cycle: 2 for each cell of the matrix units.
PER_CYCLE = {"TPU v5 lite": 2 * 4 * 128**2, "TPU v6 lite": 2 * 4 * 256**2}


def placed(tree, place: NamedSharding, matrices: str | None = None):
    """Describe arrays that lie so; `matrices`: the dtype of those of more than one axis."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, matrices if matrices and x.ndim > 1 else x.dtype, sharding=place
        ),
        tree,
    )


def lower_step(args, mesh) -> tuple[jax.stages.Lowered, float]:
    """Trace the training step; also the operations of all its images."""
    config = config_of(args.size, remat=args.remat)
    step, state = train_step.make_step(config, mesh, "bfloat16", microbatches=args.microbatches)
    data = train_step.data(config, args.batch, args.tokens)
    flops = args.batch * training_flops(config, args.tokens)
    return step.lower(state, placed(data, sharding.batch_sharding(mesh))), flops


def lower_sampler(args, mesh) -> tuple[jax.stages.Lowered, float]:
    """Trace the sampler, which evaluates both branches of guidance in each step."""
    config = config_of(args.size)
    build = lambda: RIN(config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)  # noqa: E731
    graphdef, weights = nnx.split(nnx.eval_shape(build))
    weights = placed(weights, sharding.replicated(mesh), "bfloat16")
    data = images_per_second.draw(config, args.batch, args.tokens)
    data["scale"] = np.ones(args.batch, np.float32)
    x = placed(data, sharding.batch_sharding(mesh))
    branch = Branch(x["tokens"], x["mask"], x["levels"])
    interval = placed(np.ones(2, np.float32), sharding.replicated(mesh))
    lowered = make_sampler(graphdef, euler, STEPS).lower(
        (weights,), x["noise"], branch, branch, Guidance(x["scale"], interval), guided=True
    )
    return lowered, 2 * args.batch * sampling_flops(config, args.tokens, STEPS)


def lower_tower(name: str, args, mesh) -> tuple[jax.stages.Lowered, float]:
    """Trace a pretrained network as `pretrained.networks.tower` runs it."""
    work = towers.TOWERS[name](argparse.Namespace(tiny=args.size == "tiny", batch=args.batch))
    graphdef, weights = nnx.split(nnx.eval_shape(lambda: work.build(nnx.Rngs(params=0))))
    weights = placed(weights, sharding.replicated(mesh), "bfloat16")

    def call(weights, *arrays):
        rows = functools.partial(work.function, nnx.merge(graphdef, weights))
        return slices.by_slices(rows, *arrays)

    lowered = jax.jit(call, compiler_options=compiling.options()).lower(
        weights, *placed(work.arrays, sharding.batch_sharding(mesh))
    )
    return lowered, 1e9 * work.gflop * len(work.arrays[0])


def cycles(text: str) -> tuple[collections.Counter, collections.Counter]:
    """Return how often a program does operations of a kind, and their cycles by the compiler."""
    bodies, entry, name = {}, None, None
    for line in text.splitlines():
        if match := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            name = match[2]
            bodies[name], entry = [], name if match[1] else entry
        elif name:
            bodies[name].append(line)
    counts, spent = collections.Counter(), collections.Counter()

    def add(body: str, times: int) -> None:
        for line in bodies[body]:
            if match := re.search(r'"estimated_cycles":"(\d+)"', line):
                named = re.search(r'op_name="([^"]*)"', line)
                parts = re.sub(r"[\d']+", "", named[1]).split("/") if named else []
                # One of jax.grad's passes and an operation; names of parameters are of copies.
                kind = " ".join(parts[-2:]) if len(parts) > 1 else "copies"
                counts[kind] += times
                spent[kind] += times * int(match[1])
            if match := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
                # A loop of JAX counts up to the one constant that its condition has.
                bounds = re.findall(r" s32\[\]\S* constant\((\d+)\)", "\n".join(bodies[match[1]]))
                add(match[2], times * max(map(int, bounds)))

    add(entry, 1)
    return counts, spent


def show(name: str, lowered: jax.stages.Lowered, flops: float, chips: list, args) -> None:
    """Compile a program and print what is known of it."""
    begin = time.perf_counter()
    program = lowered.compile()
    print(f"{name}: compiled in {time.perf_counter() - begin:.0f} s")
    text = program.as_text()
    if args.text:
        args.text.write_text(text)
    memory = program.memory_analysis()
    given, work = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    print(
        f"memory of a chip: {(given + work) / GIB:.2f} GiB, {given / GIB:.2f} of them what it is "
        f"given; the program: {memory.generated_code_size_in_bytes / 2**20:.0f} MiB"
    )
    for kind, found in scaling.collectives(text).items():
        sent = sum(scaling.sent(kind, size, count or len(chips)) for size, count in found)
        print(f"{kind:20} {len(found):5} {sent / 1e9:8.3f} GB sent by a chip")
    counts, spent = cycles(text)
    total = sum(spent.values())
    for kind, amount in spent.most_common(args.kinds):
        print(f"{kind[:60]:60} {counts[kind]:6} {amount / 1e6:9.2f} M cycles {amount / total:6.1%}")
    each = flops / len(chips)
    print(f"{total / 1e6:.1f} M cycles for {each / 1e12:.3f} TFLOP of the model a chip")
    if per_cycle := PER_CYCLE.get(chips[0].device_kind):
        print(f"{each / per_cycle / total:.0%} of the peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("step", "sample", *towers.TOWERS)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"{', '.join(names)}")
    parser.add_argument("--topology", default="v6e:2x2", help="chips, as v5e:4x4 or v5p:2x2x2")
    parser.add_argument("--chips", type=int, help="of these, the first so many")
    parser.add_argument("--size", choices=SIZES, default="released", help="of the network")
    parser.add_argument("--batch", type=int, default=64, help="images at once, over all chips")
    parser.add_argument("--microbatches", type=int, default=1, help="that a step's batch is cut to")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption")
    parser.add_argument("--model", type=int, default=1, help="chips that share each matrix")
    parser.add_argument("--remat", default="none", help="see config.model.rin.remat")
    parser.add_argument("--whole", action="store_true", help="no slices, see models/slices.py")
    parser.add_argument("--kinds", type=int, default=15, help="of operations that are printed")
    parser.add_argument("--text", type=Path, help="file for the compiled program")
    tried.add_option(parser)
    args = parser.parse_args()
    if unknown := sorted(set(args.programs) - set(names)):
        parser.error(f"programs are {', '.join(names)}; got {', '.join(unknown)}.")
    tried.patch(args.tried)
    if args.whole:
        slices.ON_CHIP = 0
    import libtpu

    os.environ["TPU_LIBRARY_PATH"] = libtpu.get_library_path()
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no server that describes this machine
    chips = topologies.get_topology_desc(args.topology, "tpu").devices[: args.chips]
    jax.default_backend = lambda: "tpu"  # what is traced is for it
    mesh = sharding.mesh_of(chips, len(chips) // args.model, args.model)
    lower = {"step": lower_step, "sample": lower_sampler}
    for name in args.programs or ["step"]:
        with sharding.use_mesh(mesh):
            lowered, flops = lower.get(name, functools.partial(lower_tower, name))(args, mesh)
        show(name, lowered, flops, chips, args)


if __name__ == "__main__":
    main()
