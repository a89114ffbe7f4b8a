"""Seconds until the first training step is done, without and with a cache of compiled programs.

    python benchmarks/compile_time.py --size base released      # on a GPU
    python benchmarks/compile_time.py --size tiny               # to try it

Each case is a process of its own, from the start of Python on: imports, tracing, compilation, start
values and one step. Records are not read.
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["base"], help="networks")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of a case")
    args = parser.parse_args()
    timing.wait_for_turn()
    script = str(Path(__file__).parent / "train_step.py")
    for size in args.size:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
            environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            for name in (timing.TURN, "OUT"):
                environment.pop(name, None)
            for kind in ("cold", "warm"):
                label = f"compile/{size}/{kind}"
                with timing.case(label):
                    command = [sys.executable, script, f"--size={size}", "--first-step"]
                    done = subprocess.run(
                        [*command, *OPTIONS[size]],
                        env=environment | {timing.BEGIN: repr(time.time())},
                        stdout=subprocess.PIPE,
                        text=True,
                        timeout=args.timeout,
                        check=True,
                    )
                    row = json.loads(done.stdout.strip().splitlines()[-1])
                    timing.emit(label, **{k: v for k, v in row.items() if k.endswith("_s")})


if __name__ == "__main__":
    main()
