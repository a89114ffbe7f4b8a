"""What the command lines share: a parser that answers a mistake with one line, and exit statuses.

0: all that was asked for is done. 1: it failed, and the same command may go on. 2: an argument is
wrong, which trying again does not mend. 130: stopped from the keyboard.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence

from miro_jax.data.storage import BAD_PLACE

DONE, FAILED, MISTAKEN, INTERRUPTED = 0, 1, 2, 130
# Of `--mesh`, see `sharding.parse_mesh`.
MESH_HELP = (
    "devices that work together: all; or DATAxMODEL, such as 4x2, where DATA share the pictures of "
)
MESH_HELP += "a batch and MODEL cut each matrix between them; allx2 is all devices, two to a matrix"
STOPPED = "stopped; the same command goes on from here."


class UsageError(Exception):
    """An argument is wrong; the text is for whoever typed it."""


# What is raised where an argument is wrong. Any other OSError is the fault of a disk or a network.
MISTAKES = (UsageError, ValueError, TypeError, *BAD_PLACE)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows examples as they are, and defaults where there are any and the text does not."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, "", [], False) or "(default" in action.help:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and raises instead of exiting."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **arguments)

    def error(self, message: str):
        """Raise what is wrong."""
        raise UsageError(message)

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse arguments, those of the process where none are given.

        Raises:
            UsageError: they cannot be understood; an unknown flag names the nearest known one.
            SystemExit: help was asked for, and shown.
        """
        words = sys.argv[1:] if arguments is None else list(arguments)
        known = ["--", *(text for action in self._actions for text in action.option_strings)]
        try:
            found, unknown = self.parse_known_args(words)
        except UsageError:
            # Where a required flag is missing, a misspelt one may be why.
            flags = [word for word in words if word.startswith("--")]
            unknown = [flag for flag in flags if flag.partition("=")[0] not in known]
            if not unknown:
                raise
        if not unknown:
            return found
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
        raise UsageError(
            f"unknown argument {unknown[0]!r}"
            + (f"; did you mean {near[0]}?" if near else "; see --help.")
        )


def say(text: object) -> None:
    """Print to stdout; nothing happens where nobody reads it any more, as behind `| head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit


def fail(program: str, error: Exception | str, status: int) -> int:
    """Say in one line of stderr what is wrong; return the exit status."""
    print(f"{program}: error:", " ".join(str(error).split()), file=sys.stderr)
    return status


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a device lacks memory; jax has no class of its own for that."""
    return "RESOURCE_EXHAUSTED" in str(error)
