"""Killed at any moment and started again, the stage ends with the same bytes."""

import pathlib
import random
import subprocess
import sys

import pytest

from tests.annotating import contents, make_pieces

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent

# Imports once, then forks. Each child counts what it does to the disk and the records it makes, and
# kills itself before the event whose number it was given; 0 is never.
KILLED = """
import os, sys
from miro_jax.data.records import shards
from tests import moments
from tests.annotating import call

pieces, out, chosen = sys.argv[1].split(","), sys.argv[2], map(int, sys.argv[3:])

for moment in chosen:
    child = os.fork()
    if not child:
        os.fsync = lambda descriptor: None  # a kill, other than a power cut, loses nothing written
        for name in ("replace", "fsync", "link", "unlink"):
            setattr(os, name, moments.watched(getattr(os, name), moment))
        shards.encode_record = moments.watched(shards.encode_record, moment)
        call(pieces, out, max_failure_rate=0.5)
        print("finished", moments.events, flush=True)
        os._exit(0)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        print("killed", moment, flush=True)
    if "manifest.json" in os.listdir(out):
        found = set(os.listdir(out))
        assert {"bins.json", "stats.json", "failures.jsonl", "coverage.json"} <= found
"""


def run_killed(pieces, out, moments):
    """Run a process for each moment; return how each ended and after how many events."""
    command = [sys.executable, "-c", KILLED, ",".join(pieces), str(out), *map(str, moments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    return [line.split() for line in done.stdout.splitlines()]


def test_killed_at_random_moments_the_folder_ends_byte_identical(tmp_path):
    pieces = make_pieces(tmp_path / "source", num_pieces=4)
    ((end, count),) = run_killed(pieces, tmp_path / "whole", [0])
    assert end == "finished" and int(count) > 80
    rng = random.Random(0)
    ends = []
    for trial in range(2):  # each on to the end: some kills fall into the last files
        out = tmp_path / f"out{trial}"
        ends += run_killed(pieces, out, [rng.randrange(1, 40) for _ in range(5)] + [0])
        assert ends[-1][0] == "finished"
        assert contents(out) == contents(tmp_path / "whole")
    assert sum(end == "killed" for end, _ in ends) >= 6


def test_workers_killed_five_times_end_like_an_uninterrupted_run():
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", "--kills=5", "--samples=400"],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills over" in done.stdout
