"""How cost grows with devices: bytes that a training step moves between them, reading of records.

    python benchmarks/scaling.py                                 # 1, 2, 4, 8 devices
    python benchmarks/scaling.py --size=released --devices 8     # minutes of compilation
    python benchmarks/scaling.py --devices 8 --model 2           # heads and MLPs over two of them

Weak scaling: each device gets as many images, whatever their number. The step is compiled for fake
devices of a CPU, by XLA's partitioner, the same as for TPUs and GPUs; its collectives are counted
in the compiled program. What a device sends of one over a ring of n: (n - 1) / n of the whole array
for a gather or a scatter, twice that for a reduction that all get. A process reads only its rows of
a batch; `read` times the rows of one of n processes.
"""

import argparse
import collections
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (\(?[^=]*?)\s({'|'.join(_COLLECTIVES)})(?:-start)?\(")
TOKENS, BATCH = 16, 8


def collectives(text: str) -> dict[str, list[tuple[int, int]]]:
    """Return the collectives of a compiled program: kind -> (bytes of the result, devices)."""
    found = collections.defaultdict(list)
    for line in text.splitlines():
        if match := _LINE.search(line):
            size = sum(
                _BYTES[kind] * math.prod(map(int, filter(None, shape.split(","))))
                for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            )
            found[match[2]].append((size, _group(line)))
    return found


def _group(line: str) -> int:
    """How many devices take part in a collective: {{0,1},{2,3}} or [2,4]<=[8]; 0 is all."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    match = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(match[1].split(",")) if match else 0


def sent(kind: str, size: int, group: int) -> float:
    """Bytes that a device sends over a ring for one collective with a result of `size` bytes."""
    part = (group - 1) / group
    factor = {"all-reduce": 2 * part, "reduce-scatter": group - 1, "collective-permute": 1}
    return size * factor.get(kind, part)


def compile_step(flags: argparse.Namespace) -> None:
    """Compile the step for the devices of this process; print a row."""
    import jax  # after XLA_FLAGS are set

    from benchmarks import timing
    from benchmarks.sizes import config_of
    from benchmarks.train_step import STEP, Ours
    from miro_jax.models import sharding

    count = jax.device_count()
    mesh = sharding.make_mesh(count // flags.model, flags.model)
    options = {"what": STEP, "products": "", "dtype": flags.dtype, "attention": "xla"}
    options |= {"microbatches": 1, "tokens": TOKENS}
    batch = flags.batch * mesh.shape["data"]
    step = Ours(config_of(flags.size), argparse.Namespace(**options, batch=batch), mesh)
    text = step.compiled.as_text()
    kinds = collectives(text)
    parameters = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(step.abstract.params))
    of_kind = {
        kind: sum(sent(kind, size, group or count) for size, group in found)
        for kind, found in kinds.items()
    }
    memory = step.compiled.memory_analysis()
    row = {kind.replace("-", "_"): value / 1e6 for kind, value in of_kind.items()}
    timing.emit(
        f"{flags.size} on {mesh.shape['data']} x {mesh.shape['model']}",
        images=batch,
        sent_mb=sum(of_kind.values()) / 1e6,
        of_parameters=sum(of_kind.values()) / parameters,
        collectives=sum(map(len, kinds.values())),
        parameters_mb=parameters / 1e6,
        state_mb=memory.argument_size_in_bytes / 1e6,
        loops=text.count(" while("),
        **row,
    )


def time_reading(devices: list[int], records: int, seconds: float) -> None:
    """Time the rows that one of n processes reads, for batches that grow with n; print rows."""
    from benchmarks import loader, timing

    with tempfile.TemporaryDirectory() as name:
        levels = loader.make_set(Path(name), records)
        for count in devices:
            changes = {"batch_size": loader.BATCH * count, "rows": range(loader.BATCH)}
            data = loader.open_set(Path(name), levels, 2, **changes)
            timing.emit(f"read by one of {count}", **loader.read(data, seconds))
            data.close()


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="bench", help="of benchmarks/sizes.py")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--model", type=int, default=1, help="devices along heads and MLPs")
    parser.add_argument("--batch", type=int, default=BATCH, help="images of a device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--records", type=int, default=1024, help="0: do not read")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.here:
        compile_step(flags)
        return
    for count in flags.devices:
        # Code for the CPU itself is of no interest.
        xla = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
        environment = os.environ | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}
        words = [f"--{k}={getattr(flags, k)}" for k in ("size", "model", "batch", "dtype")]
        subprocess.run([sys.executable, __file__, "--here", *words], env=environment, check=True)
    if flags.records:
        time_reading(flags.devices, flags.records, flags.seconds)


if __name__ == "__main__":
    main()
