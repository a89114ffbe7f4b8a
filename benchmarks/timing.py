"""What the benchmarks share: rows of results, timing, taking turns on a device, random weights.

A benchmark prepares (builds, compiles), waits for its turn, measures and prints one line of JSON a
case. Its turn comes at once, unless `benchmarks/gpu.py` runs several of them: then all prepare side
by side, and one after the other measures with the device for itself.
"""

import collections
import contextlib
import json
import math
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TURN = "MIRO_JAX_TURN"  # path of a benchmark's turn, given by gpu.py
CEILING = "MIRO_JAX_CEILING"  # path of a file with the rate of a large matrix product, TFLOP/s
BEGIN = "MIRO_JAX_BEGIN"  # when a process was started, seconds of time.time()
# Of one evaluation of the released network, by caption tokens; a multiply-add counts as two.
GFLOP_PER_FORWARD = {77: 167.6, 256: 180.4}


def emit(case: str, **fields: Any) -> None:
    """Print a row, and append it to results.jsonl in the folder $OUT where there is one."""
    of = {"part": Path(os.environ[TURN]).name} if TURN in os.environ else {}
    line = json.dumps({"case": case} | of | {k: _short(v) for k, v in fields.items()})
    print(line, flush=True)
    if os.environ.get("OUT"):
        with (Path(os.environ["OUT"]) / "results.jsonl").open("a") as file:
            file.write(line + "\n")


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float | np.floating) else value


@contextlib.contextmanager
def case(name: str) -> Iterator[None]:
    """A failure is a row, and not the end of the others."""
    try:
        yield
    except Exception as error:  # of any library
        text = " ".join(f"{type(error).__name__}: {error}".split())
        emit(name, failed=text[:500])
        print(f"{name}: {text[:2000]}", file=sys.stderr, flush=True)


def wait_for_turn() -> None:
    """Say that everything is prepared, and wait until the device is free."""
    if TURN in os.environ:
        turn = Path(os.environ[TURN])
        turn.with_suffix(".ready").touch()
        while not turn.with_suffix(".go").exists():
            time.sleep(0.05)


def ceiling() -> float:
    """Return the rate of a large matrix product, TFLOP/s; NaN where none was measured."""
    path = Path(os.environ.get(CEILING, ""))
    return float(path.read_text()) if path.is_file() else math.nan


def measure(
    call: Callable[[], Any],
    sync: Callable[[Any], Any],
    *,
    seconds: float = 2.0,
    most: int = 60,
    least: int = 3,
    warm: int = 2,
    piped: bool = True,
) -> dict[str, float]:
    """Time calls one by one and, where `piped`, a run of calls without waiting in between.

    Returns:
      median_s of calls that are waited for, and what the kernel did for each: page_faults, and
      system_s of its processor time; piped_s of a call when many are under way.
    """
    for _ in range(warm):
        sync(call())
    before = resource.getrusage(resource.RUSAGE_SELF)
    taken, begin = [], time.perf_counter()
    while len(taken) < least or (time.perf_counter() - begin < seconds and len(taken) < most):
        start = time.perf_counter()
        sync(call())
        taken.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "median_s": statistics.median(taken),
        "runs": len(taken),
        "page_faults": (after.ru_minflt - before.ru_minflt) // len(taken),
        "system_s": (after.ru_stime - before.ru_stime) / len(taken),
    }
    if piped:
        start = time.perf_counter()
        for _ in taken:
            result = call()
        sync(result)
        found["piped_s"] = (time.perf_counter() - start) / len(taken)
    return found


def rates(rows: int, seconds: float, gflop_per_row: float | None) -> dict[str, float]:
    """Return rows a second and, where the work is known, TFLOP/s and the share of the ceiling."""
    found = {"images_per_s": rows / seconds}
    if gflop_per_row:
        found["tflops"] = gflop_per_row * rows / seconds / 1e3
        found["share"] = found["tflops"] / ceiling()
    return found


def draw(name: str, shape: tuple[int, ...], std: float = 0.02) -> np.ndarray:
    """Return float32 start values of a parameter by the end of its path, quickly."""
    last = re.split(r"\W+", name.removesuffix(".value").rstrip("]'"))[-1]
    if last in ("scale", "layer_scale"):
        return np.full(shape, 1.0 if last == "scale" else 0.1, np.float32)
    if last == "bias":
        return np.zeros(shape, np.float32)
    if last in ("frequencies", "phases"):
        std = 6.0
    elif last == "kernel":
        outputs = shape[-1] if len(shape) < 3 or shape[0] < shape[-1] else math.prod(shape[-2:])
        std = min(0.05, math.sqrt(outputs / math.prod(shape)))
    return (np.resize(_pool(), math.prod(shape)) * np.float32(std)).reshape(shape)


def _pool(cache: list = []) -> np.ndarray:  # noqa: B006
    if not cache:
        cache.append(np.random.default_rng(0).standard_normal(1 << 20, np.float32))
    return cache[0]


def kernels_of(trace: str, top: int = 40) -> dict[str, Any]:
    """Summarise a profile of JAX: what the device spent its time on.

    Args:
      trace: folder given to `jax.profiler.trace`.

    Returns:
      busy_ms and span_ms of the device, and [name, ms, count] of its costliest kernels; numbers at
      the ends of names are dropped.
    """
    from jax.profiler import ProfileData

    path = max(Path(trace).rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    spent, count, begins, ends = collections.Counter(), collections.Counter(), [], []
    planes = list(ProfileData.from_file(str(path)).planes)
    devices = [p for p in planes if p.name.startswith("/device:") and any(True for _ in p.lines)]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = re.sub(r"[._]?\d+(?=$|[._])", "", event.name)[:80]
                spent[name] += event.duration_ns / 1e6
                count[name] += 1
                begins.append(event.start_ns)
                ends.append(event.start_ns + event.duration_ns)
    span = (max(ends) - min(begins)) / 1e6 if ends else 0.0
    rows = [[name, round(ms, 3), count[name]] for name, ms in spent.most_common(top)]
    return {"busy_ms": sum(spent.values()), "span_ms": span, "kernels": rows}


def profiled(call: Callable[[], Any], sync: Callable[[Any], Any], times: int) -> dict[str, Any]:
    """Run some calls under JAX's profiler; see `kernels_of`."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                result = call()
            sync(result)
        return kernels_of(folder) | {"calls": times}
