"""All figures of docs/benchmarks.md that need a GPU, in one call of a few minutes.

    python benchmarks/gpu.py --budget 340           # rows to $OUT/results.jsonl, a table at the end
    python benchmarks/gpu.py --tiny                 # every part on a CPU, at small sizes
    python benchmarks/gpu.py --only train sample    # parts whose names begin so

Every part is a process that prepares itself (imports, compilation) beside the others, and then
waits: the device is measured by one at a time, in the order of `PARTS`. Parts that are not ready in
time are stopped while others measure, and go on after them. A part that fails is a row.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import timing

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
QUICK = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
CUBLAS = "--xla_gpu_enable_triton_gemm=false"
GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL"
NARROW = ["--residual=compute"]
CUT = ["--products=cut"]
# name -> (script, arguments, XLA_FLAGS); in the order in which they measure
PARTS = {
    "ceiling": ("gpu.py", ["--ceiling"], ""),
    "train_narrow": ("train_step.py", [*NARROW, "--repeat", "--profile"], ""),
    "train_cublas": ("train_step.py", NARROW, CUBLAS),
    "sample_narrow": ("images_per_second.py", [*NARROW, "--profile", "--batch", "64", "1"], ""),
    "sample_cublas": ("images_per_second.py", [*NARROW, "--batch", "64", "1"], CUBLAS),
    "authors_train": ("train_step.py", ["--only-authors"], ""),
    "authors_sample": ("images_per_second.py", ["--only-authors", "--batch", "64", "1"], ""),
    "towers_clip": ("towers.py", ["--profile", "--only", "clip_h", "clip_l"], ""),
    "theirs_clip": ("towers.py", ["--only-theirs", "--only", "clip_h", "clip_l"], ""),
    "train": ("train_step.py", [], ""),
    "sample": ("images_per_second.py", ["--batch", "64", "1"], ""),
    "towers_rest": ("towers.py", ["--only", "blip_l", "t5_xl"], ""),
    "towers_vae": ("towers.py", ["--only", "vae_encode", "vae_decode"], ""),
    "theirs_towers": (
        "towers.py",
        ["--only-theirs", "--only", "blip_l", "t5_xl", "vae_encode", "vae_decode"],
        "",
    ),
    "train_quick": ("train_step.py", NARROW, QUICK),
    "sample_quick": ("images_per_second.py", [*NARROW, "--batch", "64"], QUICK),
    "sample_graphs": (
        "images_per_second.py",
        [*NARROW, "--batch", "1"],
        f"--xla_gpu_enable_command_buffer={GRAPHS}",
    ),
    "train_barrier": ("train_step.py", [*NARROW, "--tried", "barrier"], ""),
    "train_scan": ("train_step.py", [*NARROW, "--tried", "scan"], ""),
    "towers_stream": ("towers.py", ["--only", "clip_h", "--tried", "stream"], ""),
    "attention": ("attention.py", [], ""),
    "train_cut": ("train_step.py", CUT, ""),
    "train_xla": ("train_step.py", [*CUT, "--attention=xla"], ""),
    "sample_xla": ("images_per_second.py", [*CUT, "--attention=xla", "--batch", "64"], ""),
}
# One after the other, when all of the above are done.
ALONE = {
    "compile": ("compile_time.py", ["--size", "base"], ""),
    "compile_quick": ("compile_time.py", ["--size", "base"], QUICK),
    "authors_train_fp16": ("train_step.py", ["--only-authors", "--dtype=float16"], ""),
}
TINY = {
    "train_step.py": "--size=tiny --batch=2 --tokens=8 --seconds=0.05 --dtype=float32".split(),
    "images_per_second.py": "--size=tiny --steps=2 --tokens=8 --seconds=0.05".split()
    + ["--dtype=float32"],
    "towers.py": ["--tiny", "--seconds=0.05"],
    "attention.py": ["--tiny", "--seconds=0.02"],
    "compile_time.py": ["--size", "tiny"],
    "gpu.py": ["--tiny"],
}


class Part:
    """A benchmark in a process of its own."""

    def __init__(self, name: str, folder: Path, args: argparse.Namespace):
        script, arguments, flags = (PARTS | ALONE)[name]
        if args.tiny:
            arguments = [*arguments, *TINY[script]]
            if "--only-authors" in arguments:
                arguments = [a for a in arguments if not a.startswith("--dtype")] + ["--eager"]
                arguments += ["--dtype=float32"]
        self.name, self.turn, self.stopped = name, folder / name, False
        environment = (
            os.environ
            | ENVIRONMENT
            | {
                timing.TURN: str(self.turn),
                timing.CEILING: str(folder / "ceiling"),
                "XLA_FLAGS": flags,
                "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
                "TRITON_CACHE_DIR": str(folder / "triton"),
            }
        )
        if args.tiny or name.startswith(("authors", "theirs")):
            environment["JAX_PLATFORMS"] = "cpu"
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(args.out / "log.txt").open("a"),
            cwd=HERE.parent,
            start_new_session=True,
        )

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    @property
    def ready(self) -> bool:
        return self.turn.with_suffix(".ready").exists()

    def send(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def pause(self, stop: bool) -> None:
        if stop != self.stopped and not self.over:
            self.send(signal.SIGSTOP if stop else signal.SIGCONT)
            self.stopped = stop

    def measure(self, seconds: float) -> None:
        """Give the part its turn; end it when it is over time."""
        prepared, begin = time.monotonic() - self.begin, time.monotonic()
        self.turn.with_suffix(".go").touch()
        try:
            self.process.wait(max(seconds, 1))
            status = self.process.returncode
        except subprocess.TimeoutExpired:
            status = "over time"
        self.end()
        took = time.monotonic() - begin
        timing.emit(f"part/{self.name}", status=status, prepared_s=prepared, measured_s=took)

    def end(self) -> None:
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        self.process.wait()


def run(args: argparse.Namespace) -> None:
    end = time.monotonic() + args.budget
    prepared_by = time.monotonic() + args.prepare
    folder = Path(tempfile.mkdtemp())
    names = [n for n in PARTS if not args.only or n.startswith(tuple(args.only))]
    parts: list[Part] = []
    waiting = list(names)
    while waiting or parts:
        while waiting and sum(not p.ready and not p.over for p in parts) < args.processes:
            parts.append(Part(waiting.pop(0), folder, args))
        for part in [p for p in parts if p.over and not p.ready]:
            timing.emit(f"part/{part.name}", status=part.process.returncode, prepared_s=None)
            parts.remove(part)
        late = time.monotonic() > prepared_by
        ready = [p for p in parts if p.ready]
        if ready and (late or (not waiting and len(ready) == len(parts))):
            for part in parts:
                part.pause(part not in ready)
            ready[0].measure(end - time.monotonic() - 8)
            parts.remove(ready[0])
            for part in parts:
                part.pause(False)
        if time.monotonic() > end - 10:
            break
        time.sleep(0.1)
    for name in [n for n in ALONE if not args.only or n.startswith(tuple(args.only))]:
        left = end - time.monotonic()
        if left > (1 if args.tiny else 45):
            part = Part(name, folder, args)
            part.measure(left - 8)
    for part in parts:
        timing.emit(f"part/{part.name}", status="not ready in time")
        part.end()
    shutil.rmtree(folder, ignore_errors=True)


def measure_ceiling(tiny: bool) -> None:
    """Measure a large matrix product by JAX, and write its rate where the parts read it."""
    import jax
    import jax.numpy as jnp

    size = 512 if tiny else 8192
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16) for i in (0, 1))
    product = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
    timing.wait_for_turn()
    found = timing.measure(lambda: product(a, b), jax.block_until_ready, seconds=0.5, most=100)
    rate = 2 * size**3 / found["piped_s"] / 1e12
    if os.environ.get(timing.CEILING):
        Path(os.environ[timing.CEILING]).write_text(repr(rate))
    device = jax.devices()[0]
    kind = device.device_kind
    timing.emit("ceiling", tflops=rate, device=kind, bf16_size=size)


def versions() -> dict[str, str]:
    found = {}
    for name in (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "torch",
        "transformers",
        "diffusers",
        "miro-t2i",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def table(path: Path) -> None:
    """Print the rows and the ratios of ours over theirs."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rates = {}
    for row in rows:
        if "failed" in row:
            print(f"FAILED {row['case']}: {row['failed'][:300]}")
        elif row["case"].startswith("part/") and row.get("status") != 0:
            print(f"PART {row['case']}: {row['status']}")
        elif "images_per_s" in row:
            rates[row["case"], row.get("part")] = row["images_per_s"]
            print(
                f"{row['case']:40} {row.get('part', ''):16} {row['images_per_s']:9.2f} images/s"
                f" {row.get('share', float('nan')):6.3f} {row.get('memory_gb') or 0:6.1f} GB"
                f" compile {row.get('compile_s') or 0:5.0f} s"
            )
        elif not row["case"].startswith("part/"):
            fields = {k: v for k, v in row.items() if k not in ("case", "kernels")}
            print(f"{row['case']:46} {json.dumps(fields)[:150]}")
    for (case, part), rate in rates.items():
        kind, side, *_, last = case.split("/")
        for (other, _), theirs in rates.items():
            same = other.split("/")[0] == kind and other.split("/")[-1] == last
            if side == "ours" and same and other.split("/")[1] != "ours":
                print(f"ratio {rate / theirs:6.2f}  {case} ({part})  over  {other}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=340, help="seconds of everything")
    parser.add_argument("--prepare", type=float, default=170, help="seconds before parts measure")
    parser.add_argument("--processes", type=int, default=6, help="that prepare at once")
    parser.add_argument("--only", nargs="+", help="parts whose names begin so")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU")
    parser.add_argument("--ceiling", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ceiling:
        measure_ceiling(args.tiny)
        return
    args.out = Path(os.environ.setdefault("OUT", tempfile.mkdtemp()))
    timing.emit("versions", python=sys.version.split()[0], cpus=os.cpu_count(), **versions())
    try:
        run(args)
    finally:
        table(args.out / "results.jsonl")


if __name__ == "__main__":
    main()
