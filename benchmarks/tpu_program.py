"""What a training step asks of TPUs, by their compiler alone: no TPU is needed.

    pip install libtpu                                   # the version that goes with your jax
    python benchmarks/tpu_program.py --size=tiny --topology=v5e:2x2             # to try it
    python benchmarks/tpu_program.py --topology=v6e:2x2 --batch 64              # 16 images a chip

The whole step, sharded over all chips of a topology as `miro_jax.main` shards it, is compiled. So
it is known whether it compiles, how long that takes, whether it fits and how near the estimate of
`miro-jax plan` is. Printed are further what chips send each other, and where the cycles of a step
go by the compiler's own model of the chip: it leaves out waiting for other chips, and is no
measurement.
"""

import argparse
import collections
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from jax.experimental import topologies
from jax.sharding import AxisType

from benchmarks import scaling, train_step, tried
from benchmarks.sizes import SIZES, config_of
from miro_jax.models import sharding
from miro_jax.models.flops import training_flops

GIB = 2**30
# Operations of a cycle: 2 for each cell of the matrix units.
PER_CYCLE = {"TPU v5 lite": 2 * 4 * 128**2, "TPU v6 lite": 2 * 4 * 256**2}


def lower(args: argparse.Namespace, config, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """Trace the step for a mesh of chips that are not there."""
    with sharding.use_mesh(mesh):
        step, state = train_step.make_step(config, mesh, "bfloat16", microbatches=args.microbatches)
        batch = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch_sharding(mesh))
            for name, x in train_step.data(config, args.batch, args.tokens).items()
        }
        return step.lower(state, batch)


def cycles(text: str) -> tuple[collections.Counter, collections.Counter]:
    """Return how many operations of a kind a program has, and their cycles by the compiler."""
    counts, spent = collections.Counter(), collections.Counter()
    for line in text[text.rindex("ENTRY") :].splitlines():
        if match := re.search(r'"estimated_cycles":"(\d+)"', line):
            name = re.search(r'op_name="([^"]*)"', line)
            parts = re.sub(r"[\d']+", "", name[1]).split("/") if name else ["copies"]
            # One of jax.grad's passes and an operation; names of parameters are of their copies.
            kind = " ".join(parts[-2:]) if len(parts) > 1 else "copies"
            counts[kind] += 1
            spent[kind] += int(match[1])
    return counts, spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v6e:2x2", help="chips, as v5e:4x4 or v5p:2x2x2")
    parser.add_argument("--size", choices=SIZES, default="released", help="of the network")
    parser.add_argument("--batch", type=int, default=64, help="images of a step, over all chips")
    parser.add_argument("--microbatches", type=int, default=1, help="that a batch is cut into")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption")
    parser.add_argument("--model", type=int, default=1, help="chips that share each matrix")
    parser.add_argument("--remat", default="none", help="see config.model.rin.remat")
    parser.add_argument("--text", type=Path, help="file for the compiled program")
    tried.add_option(parser)
    args = parser.parse_args()
    tried.patch(args.tried)
    import libtpu

    os.environ["TPU_LIBRARY_PATH"] = libtpu.get_library_path()
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no server that describes this machine
    chips = topologies.get_topology_desc(args.topology, "tpu").devices
    jax.default_backend = lambda: "tpu"  # what is traced is for it
    shape = len(chips) // args.model, args.model
    axes = (AxisType.Auto,) * 2
    mesh = jax.make_mesh(shape, ("data", "model"), devices=chips, axis_types=axes)
    config = config_of(args.size, remat=args.remat)

    begin = time.perf_counter()
    lowered = lower(args, config, mesh)
    traced = time.perf_counter()
    program = lowered.compile()
    print(f"traced in {traced - begin:.0f} s, compiled in {time.perf_counter() - traced:.0f} s")
    text = program.as_text()
    if args.text:
        args.text.write_text(text)
    memory = program.memory_analysis()
    state, work = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    print(
        f"memory of a chip: {(state + work) / GIB:.2f} GiB, {state / GIB:.2f} of them state and "
        f"batch; the program: {memory.generated_code_size_in_bytes / 2**20:.0f} MiB"
    )
    for kind, found in scaling.collectives(text).items():
        sent = sum(scaling.sent(kind, size, count or len(chips)) for size, count in found)
        print(f"{kind:20} {len(found):5} {sent / 1e9:8.3f} GB sent by a chip")
    if args.microbatches > 1:
        return print("cycles are not counted: those of microbatches are in a loop")
    counts, spent = cycles(text)
    total = sum(spent.values())
    for kind, amount in spent.most_common(15):
        print(f"{kind[:60]:60} {counts[kind]:5} {amount / 1e6:8.2f} M cycles {amount / total:6.1%}")
    model = args.batch * training_flops(config, args.tokens) / len(chips)
    print(f"{total / 1e6:.1f} M cycles for {model / 1e12:.3f} TFLOP of the model a chip")
    if each := PER_CYCLE.get(chips[0].device_kind):
        print(f"{model / each / total:.0%} of the peak")


if __name__ == "__main__":
    main()
