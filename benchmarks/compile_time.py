"""Seconds until the first training step is done, without and with a cache of compiled programs.

    python benchmarks/compile_time.py --size base released      # on a GPU
    python benchmarks/compile_time.py --size tiny               # to try it
    python benchmarks/compile_time.py --size --run base         # the command, with its records made

Each case is a process of its own, from the start of Python on: imports, tracing, compilation, start
values and one step. With `--size` records are not read. With `--run` the whole command is timed, up
to the first line of its metrics: one thing after the other; with the step compiled from the start
on; and as the command decides.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import timing
from benchmarks.sizes import SIZES

OPTIONS = {
    "base": ["--batch=32", "--tokens=16", "--dtype=float32"],
    "tiny": ["--batch=2", "--tokens=8", "--dtype=float32"],
    "bench": ["--batch=64", "--tokens=16", "--dtype=float32"],
    "released": ["--batch=64", "--tokens=77", "--dtype=bfloat16"],
}
# What a run did before its step was compiled ahead.
IN_TURN = """
import sys
from miro_jax import main as entry
from miro_jax.train import ahead

class InTurn:
    seconds = 0.0

    def __init__(self, function, *shapes):
        self.call = function

    def is_ready(self, seconds):
        return True

    def __call__(self, *arguments):
        return self.call(*arguments)

ahead.Ahead = InTurn
sys.exit(entry.main(sys.argv[1:]))
"""
EARLY = """
import sys
from miro_jax import main as entry
from miro_jax.train import ahead

ahead.is_early = lambda config: True
sys.exit(entry.main(sys.argv[1:]))
"""
COMMAND = ["-m", "miro_jax.main"]
STARTS = {"in turn": ["-c", IN_TURN], "early": ["-c", EARLY], "as it is": COMMAND}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="*", choices=SIZES, default=["base"], help="networks")
    parser.add_argument("--run", nargs="*", default=[], help="configs, such as base:tiny")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of a case")
    args = parser.parse_args()
    timing.wait_for_turn()
    for size in args.size:
        time_step(size, args.timeout)
    for config in args.run:
        time_run(config, args.timeout)


def surroundings(cache: str) -> dict[str, str]:
    """Return the environment of a case, which keeps its programs in a folder."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for name in (timing.TURN, "OUT"):
        environment.pop(name, None)
    return environment


def time_step(size: str, timeout: float) -> None:
    """Time one step of a network with random data."""
    script = str(Path(__file__).parent / "train_step.py")
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("cold", "warm"):
            label = f"compile/{size}/{kind}"
            with timing.case(label):
                command = [sys.executable, script, f"--size={size}", "--first-step"]
                done = subprocess.run(
                    [*command, *OPTIONS[size]],
                    env=surroundings(cache) | {timing.BEGIN: repr(time.time())},
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=timeout,
                    check=True,
                )
                row = json.loads(done.stdout.strip().splitlines()[-1])
                timing.emit(label, **{k: v for k, v in row.items() if k.endswith("_s")})


def time_run(config: str, timeout: float) -> None:
    """Time the command up to its first step, over records that are there."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        options = [f"--config={config}", f"--config.data.records={records}"]
        options += ["--config.train.log_every_steps=1", "--config.train.checkpoint_every_seconds=0"]
        with timing.case(f"first step/{config}/records"):
            make = [f"--workdir={folder}/annotated", "--stage=annotate"]
            in_root = {"cwd": timing.ROOT, "stderr": subprocess.DEVNULL, "timeout": timeout}
            command = [sys.executable, *COMMAND, *options, *make]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **in_root)
        for start, words in STARTS.items():
            cache = f"{folder}/cache of {start}"
            for kind in ("cold", "warm"):
                label, workdir = f"first step/{config}/{start}/{kind}", f"{folder}/{start}-{kind}"
                with timing.case(label):
                    command = [sys.executable, *words, *options, f"--workdir={workdir}"]
                    timing.emit(label, **first_line(command, Path(workdir), cache, timeout))


def first_line(command: list[str], workdir: Path, cache: str, timeout: float) -> dict[str, float]:
    """Run a command up to the first line of its metrics; return its seconds, and of what."""
    begin, metrics = time.monotonic(), workdir / "metrics.jsonl"
    run = subprocess.Popen(
        command, cwd=timing.ROOT, env=surroundings(cache), stderr=subprocess.DEVNULL
    )
    try:
        while not (text := metrics.read_text() if metrics.is_file() else "").endswith("\n"):
            if run.poll() is not None or time.monotonic() - begin > timeout:
                raise RuntimeError(f"no step was made; {workdir} has the log, status {run.poll()}")
            time.sleep(0.05)
        seconds = time.monotonic() - begin
    finally:
        run.kill()
        used = os.wait4(run.pid, 0)[2]
    row = json.loads(text.splitlines()[0])
    found = {"first_step_s": seconds, "processor_s": used.ru_utime + used.ru_stime}
    return found | {f"{k}_s": row[f"{k}_seconds"] for k in ("compilation", "compiler")}


if __name__ == "__main__":
    main()
