"""Signals while annotate and score work: finished batches are kept, the end has the same bytes."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from miro_jax.cli import exit, signals
from tests.annotating import contents
from tests.scoring import make_shapes

ROOT = pathlib.Path(__file__).parent.parent
STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
COMMANDS = {
    "score": ["--rewards=colors,beauty", "--batch-size=4", "--num-threads=1"],
    "annotate": [
        *("--rewards=colors,beauty", "--batch-size=4", "--num-threads=1"),
        *("--image-encoder=pixels:size=16", "--caption-encoder=words:width=8,max_tokens=8"),
    ],
}

# Imports once, then forks: a child signals itself in its second batch and prints what it scored.
STOPPED = """
import json, os, signal, sys
from miro_jax import annotate, score
from miro_jax.annotate import stage
from miro_jax.rewards import base
from miro_jax.score import run as table

for verb, arguments, names in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        os.fsync = lambda descriptor: None
        batches, inner = 0, base.score_prepared

        def watched(*arguments):
            global batches
            batches += 1
            if batches == 2:
                try:
                    for name in names[:1]:
                        os.kill(os.getpid(), getattr(signal, name))
                except KeyboardInterrupt:  # the next one comes while the first is obeyed
                    for name in names[1:]:
                        os.kill(os.getpid(), getattr(signal, name))
                    raise
            return inner(*arguments)

        base.score_prepared = watched
        status = {"annotate": annotate, "score": score}[verb].main(arguments)
        print(json.dumps([status, batches]), flush=True)
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(code):
        print(json.dumps([-os.WTERMSIG(code), 0]), flush=True)
"""


def run_all(runs):
    """Run commands one after the other; return (status, batches) of each, and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, json.dumps(runs)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(runs), done.stderr
    return [tuple(json.loads(line)) for line in lines], done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "images"
    make_shapes(folder, 16)
    return folder


@pytest.mark.parametrize("name", list(STATUS))
def test_a_signal_becomes_a_status_and_a_line(name, capsys):
    number = getattr(signal, name)
    before = [signal.getsignal(one) for one in signals.ENDING]
    kill = functools.partial(os.kill, os.getpid(), number)
    assert exit.run("p", lambda: None, lambda _: kill(), resumes=exit.always) == STATUS[name]
    assert exit.run("p", kill, lambda _: None) == STATUS[name]
    err = capsys.readouterr().err
    assert "resumes from here" in err and "nothing has begun" in err
    assert [signal.getsignal(one) for one in signals.ENDING] == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert exit.run("p", lambda: None, lambda _: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("verb", list(COMMANDS))
def test_every_signal_ends_the_command_in_a_line_and_the_same_command_resumes(
    images, tmp_path, verb
):
    table = images.parent / "captions.csv"

    def run(out, *signals):
        source = [str(images), f"--captions={table}"]
        if verb == "annotate":
            source = [f"--source=folder:{images}?captions={table}"]
        (tmp_path / out).mkdir(exist_ok=True)
        place = tmp_path / out / ("a.csv" if verb == "score" else "set")
        return [verb, [*source, f"--out={place}", *COMMANDS[verb]], signals]

    runs = [run("whole"), *(run(name, name) for name in STATUS)]
    runs += [run("twice", "SIGTERM", "SIGTERM"), *(run(name) for name in (*STATUS, "twice"))]
    ends, err = run_all(runs)
    assert ends[0] == (0, 4)
    assert [status for status, _ in ends[1:5]] == [*STATUS.values(), -15]
    assert err.count("error: stopped; the same command resumes from here.") == 3
    assert "Traceback" not in err
    assert all(status == 0 and batches < 4 for status, batches in ends[5:8])  # work was kept
    assert ends[8][0] == 0
    ignored = (".summary.json",)  # it holds the time that was taken
    wanted = contents(tmp_path / "whole")
    for name in (*STATUS, "twice"):
        made = contents(tmp_path / name)
        assert made.keys() == wanted.keys()
        assert all(made[f] == wanted[f] for f in made if not f.endswith(ignored))
