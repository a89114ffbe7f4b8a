"""Killed at any moment and started again, an evaluation of a folder ends with the same bytes."""

import pathlib
import random
import subprocess
import sys

import pytest

from tests.suites import contents, small_suite, write_geneval

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent

# Imports once, then forks. Each child counts the images that it judges and what it does to the
# disk, and kills itself before the event whose number it was given; 0 is never.
KILLED = """
import os, sys
from miro_jax import __main__ as entry
from miro_jax.evaluate.suites import command, judging, table, work
from miro_jax.score import run
from tests import moments, suites

folder, *works = sys.argv[1:]  # each OUT=MOMENT,MOMENT,...

table.SUITES["small"] = lambda: suites.small_suite(20)
judging._IMAGES_AT_LEAST = 8
words = ["evaluate", folder, "--suite=small", "--rewards=sharpness"]
for out, moment in ((o, int(m)) for o, _, ms in map(lambda w: w.partition("="), works)
                    for m in ms.split(",")):
    child = os.fork()
    if not child:
        ended = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        os.fsync = lambda descriptor: None  # a kill, other than a power cut, loses nothing written
        for name in ("replace", "fsync", "link", "unlink"):
            setattr(os, name, moments.watched(getattr(os, name), moment))
        suites.Bright.judge = moments.watched(suites.Bright.judge, moment)
        status = entry.main([*words, f"--out={out}"])
        print(moments.events if status == 0 else status - 1000, file=ended, flush=True)
        os._exit(0)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        print("killed", flush=True)
"""


def run(folder, *works):
    """Run a process for each moment; return "killed" or the number of events of each."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder, *works],
        **{"capture_output": True, "text": True, "timeout": 300, "cwd": ROOT},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def test_killed_at_random_moments_an_evaluation_ends_byte_identical(tmp_path):
    folder = write_geneval(tmp_path / "images", small_suite(20))
    (count,), err = run(folder, f"{tmp_path / 'whole'}=0")
    count, rng = int(count), random.Random(0)
    assert count > 20, err
    early = [rng.randrange(2, count // 3) for _ in range(3)]
    once = {count - n for n in (0, 3, 8)} | {*rng.sample(range(2, count), 14)}
    works = {"often": [*early, 0]} | {f"at{moment}": [moment, 0] for moment in sorted(once)}
    given = (f"{tmp_path / out}={','.join(map(str, moments))}" for out, moments in works.items())
    ends, err = run(folder, *given)
    assert ends.count("killed") >= 20, (ends, err)
    for out in works:
        assert contents(tmp_path / out) == contents(tmp_path / "whole"), out
        assert not (tmp_path / out / "parts").exists()
