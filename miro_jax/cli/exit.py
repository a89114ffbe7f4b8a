"""How a command ends: exit statuses, and one line of stderr for whatever goes wrong.

0: all requested work is complete. 1: it failed, and the same command may resume. 2: an argument is
wrong, which trying again does not mend. 130: stopped from the keyboard.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from miro_jax.data.printable import printable
from miro_jax.data.storage import BAD_PLACE, Damaged, errors_of_stores

T = TypeVar("T")

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130
STOPPED = "stopped; the same command resumes from here."


class UsageError(Exception):
    """An argument is wrong; the text is for whoever typed it."""


# What is raised where an argument is wrong. Any other OSError is the fault of a disk or a network.
MISTAKES = (UsageError, ValueError, TypeError, *BAD_PLACE)


def run(
    program: str,
    plan: Callable[[], T],
    work: Callable[[T], None],
    mistakes_at_work: tuple[type[Exception], ...] = (),
    out_of_memory: str = "give a smaller batch size.",
) -> int:
    """Run a command in two phases, and report an error of either in one line.

    Args:
      program: name in messages.
      plan: checks every argument before a device is touched; returns what `work` takes.
      work: does what was requested.
      mistakes_at_work: exceptions of `work` that mean a bad argument after all.
      out_of_memory: what to do when a device lacks memory.

    Returns:
      The exit status.
    """
    if logging.lastResort is not None:  # prints warnings where no handler is set
        logging.lastResort.setFormatter(Formatter("%(message)s"))
    try:
        with errors_of_stores():
            planned = plan()
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except MISTAKES as error:
        return fail(program, error, MISTAKEN)
    except (OSError, RuntimeError) as error:
        return fail(program, error, FAILED)
    except KeyboardInterrupt:
        return fail(program, "stopped; nothing has begun.", INTERRUPTED)
    try:
        with errors_of_stores():
            work(planned)
    except mistakes_at_work as error:
        return fail(program, error, MISTAKEN)
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError) as error:
        text: object = error
        if is_out_of_memory(error):
            text = f"out of memory on a device; {out_of_memory}"
        elif isinstance(error, OSError) and not isinstance(error, Damaged):
            text = f"{str(error).rstrip('.')}. Finished work is kept: the same command resumes."
        return fail(program, text, FAILED)
    except KeyboardInterrupt:
        return fail(program, STOPPED, INTERRUPTED)
    return DONE


def say(text: object) -> None:
    """Print to stdout; does nothing once the reader has gone, as behind `| head`."""
    encoding = sys.stdout.encoding or "utf-8"  # ASCII in some locales
    clean = printable(text, lines=True).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(clean, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def note(text: object) -> None:
    """Print one line to stderr."""
    print(printable(" ".join(str(text).split())), file=sys.stderr, flush=True)


def fail(program: str, error: Exception | object, status: int) -> int:
    """Print what is wrong as one line of stderr; return the exit status."""
    note(f"{program}: error: {error}")
    return status


class Formatter(logging.Formatter):
    """Writes records of which nothing is obeyed by a terminal; further lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return printable(super().format(record), lines=True).replace("\n", "\n  ")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device lacks memory; jax has no class of its own for that."""
    return "RESOURCE_EXHAUSTED" in str(error)
