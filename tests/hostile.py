"""Read bad data of every kind, see `hostile_corpus`, and say what became of it.

    python -m tests.hostile --images 5000

makes the corpus, reads it through the sources and the decoder, and prints what was found as JSON:
samples whose cause is not the expected one (there must be none), outcomes of mutated pictures, the
slowest of them and the peak of memory. The exit status is 1 if anything is not as it must be.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miro_jax.data.sources import images, open_source
from tests.hostile_corpus import bad_pictures, bad_texts, structures, write_corpus
from tests.mutations import mutated

MAX_SECONDS = 1.0
MAX_BYTES = 10**9


def outcome(sample) -> str:
    """The cause why a sample is of no use, or ""."""
    if sample.problem:
        return sample.problem
    try:
        images.load_rgb(sample.read())
    except images.BadImage as error:
        return error.cause
    return ""


def read_corpus(folder: Path) -> tuple[dict[str, str], collections.Counter]:
    """Read the corpus; return the outcome by key, and how often there were damage, duplicates."""
    found, others = {}, collections.Counter()
    for piece in open_source(f"tar:{folder}/hostile.tar").pieces:
        for sample in piece.samples():
            cause = outcome(sample)
            if cause in ("damaged tar", "duplicate key"):
                others[cause] += 1
            else:
                found[sample.key] = cause
    return found, others


def try_mutated(count: int, seed: int = 0) -> dict:
    """Decode mutated pictures; return the outcomes and the slowest."""
    outcomes, slowest, slowest_cpu = collections.Counter(), 0.0, 0.0
    for data in mutated(count, seed):
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        try:
            image = images.load_rgb(data)
            result = "decoded"
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                result = f"decoded to {image.dtype}{image.shape}"
        except images.BadImage as error:
            result = error.cause
        slowest = max(slowest, time.perf_counter() - begin)
        slowest_cpu = max(slowest_cpu, time.thread_time() - begin_cpu)
        outcomes[result] += 1
    return {
        "outcomes": dict(outcomes.most_common()),
        "slowest_seconds": round(slowest, 3),
        "slowest_cpu_seconds": round(slowest_cpu, 3),
    }


def peak_bytes() -> int:
    """The most memory that this program had; `getrusage` would count its parent's before exec."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=5000, help="mutated pictures")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        expected, damage = write_corpus(Path(folder))
        found, others = read_corpus(Path(folder))
    wrong = {
        key: [found.get(key), expected.get(key)]
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    }
    result = {
        "kinds": len(bad_pictures()) + len(bad_texts()) + len(structures("")),
        "samples": len(expected),
        "wrong": wrong,
        "damaged places": [others["damaged tar"], damage],
        "duplicates": [others["duplicate key"], 1],
        "mutated": try_mutated(flags.images, flags.seed),
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(result, indent=1))
    fine = (
        not wrong
        and len(set(result["damaged places"])) == 1
        and len(set(result["duplicates"])) == 1
        and result["mutated"]["slowest_cpu_seconds"] < MAX_SECONDS
        and result["peak_bytes"] < MAX_BYTES
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
