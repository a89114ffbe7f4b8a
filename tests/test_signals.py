"""A signal that Python cannot answer yet is announced in a line; a second one ends the process."""

import errno
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from miro_jax import __main__
from miro_jax.cli import exit, signals

ROOT = pathlib.Path(__file__).parent.parent
IDLE = """
import sys, time
from miro_jax.cli import exit

def work(_):
    print("busy", flush=True)
    time.sleep(60)

sys.exit(exit.run("sample", lambda: None, work, resumes=exit.always))
"""
# One call that takes seconds and hands the lock of Python on, as a compilation does.
HASHING = """
import hashlib, sys
from miro_jax.cli import exit

def work(_):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", {rounds})

sys.exit(exit.run("sample", lambda: None, work, resumes=exit.always))
"""
# Python tells nobody of what a callback of the garbage collector raises.
COLLECTING = """
import gc, sys, time
from miro_jax.cli import exit

def slow(phase, info):
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass

def work(_):
    gc.callbacks.append(slow)
    print("busy", flush=True)
    gc.collect()
    gc.callbacks.clear()
    time.sleep(60)

sys.exit(exit.run("sample", lambda: None, work, resumes=exit.always))
"""


@pytest.fixture
def start():
    """Start a program that prints "busy"; returns the process, from then on."""
    running = []

    def begin(code):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.3)  # the call begins
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.over_a_second
def test_a_signal_that_waits_for_a_long_call_is_announced_and_then_obeyed(start, number):
    process = start(HASHING.format(rounds=8_000_000))
    process.send_signal(number)
    assert process.stderr.readline().startswith("stopping when what is under way ends")
    assert process.poll() is None
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number and rest.count("\n") == 1
    assert "stopped; the same command resumes" in rest


@pytest.mark.over_a_second
def test_a_second_signal_ends_a_long_call_at_once_and_an_echo_of_the_first_does_not(start):
    process = start(HASHING.format(rounds=2_000_000_000))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # as make hands it on
    assert "again to end at once" in process.stderr.readline()
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 128 + signal.SIGINT


def test_a_signal_that_is_answered_at_once_is_not_announced(start):
    process = start(IDLE)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and err.count("\n") == 1 and "under way" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(start, number):
    process = start(COLLECTING)
    process.send_signal(number)
    err = process.communicate(timeout=50)[1]
    assert process.returncode == 128 + number and err.count("\n") == 1
    assert "stopped; the same command resumes" in err


# What __del__ raises is lost as well; then one call takes seconds.
DELETING = """
import hashlib, sys, time
from miro_jax.cli import exit

class Slow:
    def __del__(self):
        end = time.monotonic() + {slow}
        while time.monotonic() < end:
            pass

def work(_):
    print("busy", flush=True)
    Slow()
    {then}

sys.exit(exit.run("sample", lambda: None, work, resumes=exit.always))
"""


@pytest.mark.over_a_second
def test_after_a_lost_signal_the_next_one_ends_a_long_call_at_once(start):
    then = 'hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000_000)'
    process = start(DELETING.format(slow=0.6, then=then))
    process.send_signal(signal.SIGTERM)
    assert "again to end at once" in process.stderr.readline()
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_lost_as_the_work_ends_stops_nothing_else(start, number):
    then = "return"
    code = DELETING.format(slow=1, then=then)
    more = 'first = exit.run("sample", lambda: None, work)\ntime.sleep(0.3)\nsys.exit(first)'
    process = start(code.replace(code.splitlines()[-1], more))
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


def test_an_import_ends_before_a_signal_is_obeyed(tmp_path, monkeypatch):
    """Packages in C, as jaxlib, crash where an exception is raised while they are loaded."""
    name = "sends_a_signal_while_it_is_imported"
    lines = "import os, signal, time", "os.kill(os.getpid(), signal.SIGTERM)", "time.sleep(0.2)"
    (tmp_path / f"{name}.py").write_text("\n".join([*lines, "whole = True"]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(signals.Stopped, match="SIGTERM"), signals.raising():
        importlib.import_module(name)
        time.sleep(30)
    assert sys.modules[name].whole


# Imports of a verb take seconds, and `run` begins after them.
IMPORTING = """
import sys, time
from miro_jax.cli import exit

def main():
    print("busy", flush=True)
    time.sleep(60)

sys.exit(exit.leave(main))
"""


def test_an_interrupt_before_a_verb_is_loaded_is_one_line(start):
    process = start(IMPORTING)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "miro-jax: error: stopped.\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["doctor"], "evaluate.speed.look"),
        (["plan", "--config=base", "--chips=l4-1"], "evaluate.budget.show"),
    ],
)
def test_a_command_that_keeps_nothing_says_only_that_it_was_stopped(
    words, work, monkeypatch, capsys
):
    monkeypatch.setattr(f"miro_jax.{work}", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert __main__.main(words) == 143
    assert capsys.readouterr().err == f"miro-jax {words[0]}: error: stopped.\n"


@pytest.mark.parametrize(
    "error, kept, lost",
    [
        (
            OSError(errno.EIO, "Input/output error", "table"),
            "Finished work is kept: the same command resumes.",
            "'table': Input/output error. Check the path.",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "table"),
            "Make room; the same command then resumes from here.",
            "the disk is full: table cannot be written. Make room, and try again.",
        ),
    ],
)
def test_a_command_that_keeps_nothing_does_not_say_that_it_does_where_a_disk_fails(
    capsys, error, kept, lost
):
    def work(_):
        raise error

    assert exit.run("plan", lambda: None, work) == 1
    assert capsys.readouterr().err == f"miro-jax plan: error: {lost}\n"
    assert exit.run("sample", lambda: None, work, resumes=exit.always) == 1
    assert kept in capsys.readouterr().err
