"""How a command ends: exit statuses, and one line of stderr for whatever goes wrong.

0: all requested work is complete. 1: it failed, and the same command may resume. 2: an argument is
wrong, which trying again does not mend. 75: another process of the run is gone or missing: all of
them must be started again, and resume. 130, 143, 129: stopped by SIGINT (from the keyboard),
SIGTERM or SIGHUP; a second signal ends at once.
"""

import contextlib
import errno
import gc
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from miro_jax.cli import signals
from miro_jax.data.printable import printable
from miro_jax.data.storage import BAD_PLACE, Damaged, errors_of_stores
from miro_jax.rewards.failure import RewardFailed

T = TypeVar("T")

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
COMPILER = "compiler"  # name of a thread in which XLA compiles
# New objects between two searches for garbage, in place of Python's 700: imports and the tracing of
# a network make a million that stay.
NEW_OBJECTS = 20_000
_BY_SIGNAL = 128  # a greater status is that and the signal's number
_TRACEBACK = "MIRO_JAX_TRACEBACK"  # of the environment
NOT_BEGUN = "stopped; nothing has begun."
STOPPED = "stopped; the same command resumes from here."


class UsageError(Exception):
    """An argument is wrong; the text is for whoever typed it."""


class Unfit(UsageError, ValueError):
    """What is requested does not fit the weights, as is known only once they are loaded."""


class TryAgain(RuntimeError):
    """Another process of this run is gone or missing; the same commands may do better."""


# What is raised where an argument is wrong. Any other OSError is the fault of a disk or a network.
MISTAKES = (UsageError, ValueError, TypeError, *BAD_PLACE)


def command_of(verb: str) -> str:
    """Return how this process was started, for usage and messages.

    Args:
      verb: what `miro-jax VERB` calls it; that is the answer for calls from Python, too.

    Returns:
      "miro-jax VERB", "python -m miro_jax VERB" or "python -m miro_jax.MODULE".
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    if module == "miro_jax":
        return f"python -m miro_jax {verb}"
    return f"python -m {module}" if module.startswith("miro_jax.") else f"miro-jax {verb}"


def always(planned: object) -> bool:
    """Of `run`: whatever was planned, the same command resumes."""
    return True


@signals.raising()
def run(
    verb: str,
    plan: Callable[[], T],
    work: Callable[[T], object],
    mistakes_at_work: tuple[type[Exception], ...] = (),
    out_of_memory: str = "give a smaller batch size.",
    resumes: Callable[[T], bool] = lambda _: False,
) -> int:
    """Run a command in two phases, and report an error of either in one line.

    Args:
      verb: whose messages begin with `command_of` it.
      plan: checks every argument before a device is touched; returns what `work` takes.
      work: does what was requested; a number that it returns is the exit status.
      mistakes_at_work: exceptions of `work`, beside UsageError, that mean a bad argument after all.
      out_of_memory: what to do when a device lacks memory.
      resumes: of what was planned, whether the same command keeps finished work.

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
    except (*MISTAKES, OSError, RuntimeError) as error:
        return fail(verb, error, status_of(error))
    except KeyboardInterrupt as stop:
        return fail(verb, NOT_BEGUN, getattr(stop, "status", INTERRUPTED))
    try:
        with errors_of_stores():
            status = work(planned)
    except (UsageError, *mistakes_at_work) as error:
        return fail(verb, error, MISTAKEN)
    except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError) as error:
        text = ""
        if is_out_of_memory(error):
            text = f"out of memory on a device; {out_of_memory}"
        elif _may_pass(error) and resumes(planned):
            text = f"{str(error).rstrip('.')}. Finished work is kept: the same command resumes."
        status = TRY_AGAIN if isinstance(error, TryAgain) else FAILED
        return fail(verb, error, status, text=text, resumes=resumes(planned))
    except KeyboardInterrupt as stop:
        text = STOPPED if resumes(planned) else "stopped."
        return fail(verb, text, getattr(stop, "status", INTERRUPTED))
    return status if isinstance(status, int) else DONE


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError) and not isinstance(error, Damaged) and not is_full_disk(error)


def leave(main: Callable[[], int]) -> int:
    """Return the exit status of a command; end the process with it where XLA may still compile.

    Python waits for its threads, a compiler's takes a minute, and nothing needs its program. Nor
    does XLA end well where a signal came while it compiled on the main thread, and Python takes
    apart what it still uses. One of several processes says goodbye to the others as Python ends.
    """
    gc.set_threshold(NEW_OBJECTS)
    try:
        status = main()
    except SystemExit as left:
        if not isinstance(left.code, int):
            raise
        status = left.code
    except KeyboardInterrupt:  # while a verb is imported, before `run` answers signals
        note("miro-jax: error: stopped.")
        status = INTERRUPTED
    compiles = any(thread.name == COMPILER for thread in threading.enumerate())
    if compiles or (status > _BY_SIGNAL and not _is_one_of_several()):
        sys.stdout.flush()
        os._exit(status)
    return status


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


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


def fail(
    verb: str,
    error: Exception | object,
    status: int,
    log: Path | None = None,
    text: str = "",
    resumes: bool = False,
) -> int:
    """Print what is wrong as one line of stderr; return the exit status, 1 for a full disk.

    Args:
      verb: see `command_of`. log: where the traceback is. Without one it goes to stderr, above the
        line, where the environment has MIRO_JAX_TRACEBACK=1. text: in place of the error's own.
      resumes: the same command keeps finished work, as that of a run with a log always does.
    """
    if isinstance(error, Exception):
        if log is None and os.environ.get(_TRACEBACK, "0") not in ("", "0"):
            traceback.print_exception(error)
        elif log is None and isinstance(error, RewardFailed):
            error = f"{str(error).rstrip('.')}. {_TRACEBACK}=1 shows the traceback."
    error = text or error
    if isinstance(error, Exception) and is_full_disk(error):
        where = getattr(error, "filename", None)
        error = f"the disk is full: {f'{where} cannot be written' if where else error}".rstrip(".")
        then = "; the same command then resumes from here" if resumes or log else ", and try again"
        error, status = f"{error}. Make room{then}.", FAILED
    elif log is not None:
        error = f"{error} (traceback: {log})"
    elif isinstance(error, OSError) and error.filename and str(error).startswith("[Errno"):
        error = f"{os.fspath(error.filename)!r}: {error.strerror}. Check the path."
    note(f"{command_of(verb)}: error: {error}")
    return status


def status_of(error: Exception) -> int:
    """Return the exit status of what was raised while arguments were checked; as `fail` does."""
    if isinstance(error, TryAgain):
        return TRY_AGAIN
    return MISTAKEN if isinstance(error, MISTAKES) and not is_full_disk(error) else FAILED


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


def hide_failed_writes() -> None:
    """Keep from the terminal what a checkpoint that failed leaves behind: `fail` says it in a line.

    TensorStore's threads go on to call an event loop that is closed by then, a traceback for each
    file, and asyncio complains of errors that nobody fetched and of what it did not begin.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    if not (
        isinstance(failed.exc_value, RuntimeError) and "loop is closed" in str(failed.exc_value)
    ):
        sys.__unraisablehook__(failed)


@contextlib.contextmanager
def failures_logged() -> Iterator[None]:
    """Log the traceback of what fails inside."""
    try:
        yield
    except Exception:
        logging.getLogger("miro_jax").exception("The stage failed")
        raise
