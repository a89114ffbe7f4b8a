"""How a command ends: exit statuses, and one line of stderr for whatever goes wrong.

0: all requested work is complete. 1: it failed, and the same command may resume. 2: an argument is
wrong, which trying again does not mend. 75: another process of the run is gone or missing: all of
them must be started again, and resume. 130, 143, 129: stopped by SIGINT (from the keyboard),
SIGTERM or SIGHUP; a second signal ends at once.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from miro_jax.cli import signals
from miro_jax.data.printable import printable
from miro_jax.data.storage import BAD_PLACE, Damaged, errors_of_stores

T = TypeVar("T")

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
STOPPED = "stopped; the same command resumes from here."


class UsageError(Exception):
    """An argument is wrong; the text is for whoever typed it."""


class TryAgain(RuntimeError):
    """Another process of this run is gone or missing; the same commands may do better."""


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
    with signals.raising():
        return _run(program, plan, work, mistakes_at_work, out_of_memory)


def _run(
    program: str,
    plan: Callable[[], T],
    work: Callable[[T], None],
    mistakes_at_work: tuple[type[Exception], ...],
    out_of_memory: str,
) -> int:
    try:
        with errors_of_stores():
            planned = plan()
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except (*MISTAKES, OSError, RuntimeError) as error:
        return fail(program, error, status_of(error))
    except KeyboardInterrupt as stop:
        status = getattr(stop, "status", INTERRUPTED)
        return fail(program, "stopped; nothing has begun.", status)
    try:
        with errors_of_stores():
            work(planned)
    except mistakes_at_work as error:
        return fail(program, error, MISTAKEN)
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError) as error:
        text: object = error
        if is_out_of_memory(error):
            text = f"out of memory on a device; {out_of_memory}"
        elif (
            isinstance(error, OSError)
            and not isinstance(error, Damaged)
            and not is_full_disk(error)
        ):
            text = f"{str(error).rstrip('.')}. Finished work is kept: the same command resumes."
        return fail(program, text, TRY_AGAIN if isinstance(error, TryAgain) else FAILED)
    except KeyboardInterrupt as stop:
        return fail(program, STOPPED, getattr(stop, "status", INTERRUPTED))
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


def fail(program: str, error: Exception | object, status: int, log: Path | None = None) -> int:
    """Print what is wrong as one line of stderr; return the exit status, 1 for a full disk.

    Args:
      log: where the traceback is.
    """
    if isinstance(error, Exception) and is_full_disk(error):
        where = getattr(error, "filename", None)
        error = f"the disk is full: {f'{where} cannot be written' if where else error}".rstrip(".")
        error, status = f"{error}. Make room; the same command then resumes from here.", FAILED
    elif log is not None:
        error = f"{error} (traceback: {log})"
    note(f"{program}: error: {error}")
    return status


def status_of(error: Exception) -> int:
    """Return the exit status of what was raised while arguments were checked."""
    if isinstance(error, TryAgain):
        return TRY_AGAIN
    return MISTAKEN if isinstance(error, MISTAKES) else FAILED


class Formatter(logging.Formatter):
    """Writes records of which nothing is obeyed by a terminal; further lines are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return printable(super().format(record), lines=True).replace("\n", "\n  ")


def is_full_disk(error: BaseException) -> bool:
    """Return whether a disk is full; the error may come from a library that has only text."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        text in str(error) for text in ("No space left on device", "File too large")
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device lacks memory; jax has no class of its own for that."""
    return "RESOURCE_EXHAUSTED" in str(error) and not is_full_disk(error)


@contextlib.contextmanager
def failures_logged() -> Iterator[None]:
    """Log the traceback of what fails inside."""
    try:
        yield
    except Exception:
        logging.getLogger("miro_jax").exception("The stage failed")
        raise
