"""Kill the annotate stage at random moments and see that it ends with the same bytes.

    python -m tests.killing --kills=20 --samples=4000

Imports once, then forks: each round is one to three workers at work on a set of tar shards of the
shapes world, all killed at one moment. The next round may have another number of workers. Leaves
with status 1 and says what differs unless the folder ends like that of an uninterrupted run.
"""

import argparse
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from miro_jax import annotate
from miro_jax.annotate import stage
from miro_jax.data.shapes import world
from tests.annotating import contents

SHARDS = 8
ENGINE = stage  # imported here, and not by each child


def command(source, out, *more):
    """Arguments of the stage."""
    return [
        f"--source=tar:{source}/*.tar",
        f"--out={out}",
        "--rewards=beauty,colors,count",
        "--image-encoder=pixels:size=24",
        "--caption-encoder=words:width=16,max_tokens=16",
        "--batch-size=16",
        "--num-threads=2",
        *more,
    ]


def start(arguments):
    """Fork a child that runs the stage; its number."""
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            status = annotate.main(arguments)
        except BaseException:
            status = 70
        os._exit(status)
    return child


def finish(children):
    """Wait for children; their exit statuses, -9 for a killed one."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def kill_often(folder, kills, samples, seed):
    """Do as the file says; what was seen, as lines, and whether all is well."""
    rng, source = random.Random(seed), folder / "source"
    world.write_shards(source, samples, 24, -(-samples // SHARDS), image_format="jpg")
    begin = time.monotonic()
    if finish([start(command(source, folder / "whole"))]) != [0]:
        return ["the uninterrupted run failed"], False
    seconds = time.monotonic() - begin
    lines = [f"uninterrupted: {seconds:.1f} s"]
    out, killed, sets = folder / "out0", 0, 1
    while killed < kills:
        count = rng.randint(1, 3)
        shares = [(f"--worker-index={i}", f"--num-workers={count}") for i in range(count)]
        children = [start(command(source, out, *share)) for share in shares]
        # Several moments fit into one set; some fall into its last seconds.
        time.sleep(rng.uniform(0.02, 0.5) * seconds)
        for child in children:
            os.kill(child, signal.SIGKILL)
        ended = finish(children)
        killed += any(status == -signal.SIGKILL for status in ended)
        if any(status not in (0, -signal.SIGKILL) for status in ended):
            return [*lines, f"a worker left with {ended}"], False
        published = len(list(out.glob("*.array_record.json")))
        lines.append(f"kill {killed}: {count} workers {ended}, {published} of {SHARDS} published")
        if published == SHARDS and killed < kills:
            if not _ends_well(source, out, folder / "whole"):
                return [*lines, "differs from the uninterrupted run"], False
            out, sets = folder / f"out{sets}", sets + 1
    well = _ends_well(source, out, folder / "whole")
    return [*lines, f"{killed} kills over {sets} sets: {'equal' if well else 'DIFFERENT'}"], well


def _ends_well(source, out, whole):
    """Run on to the end, and compare."""
    return finish([start(command(source, out))]) == [0] and contents(out) == contents(whole)


def main(arguments=None):
    """Run the script; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        lines, well = kill_often(pathlib.Path(folder), flags.kills, flags.samples, flags.seed)
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
