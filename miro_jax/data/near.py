"""What somebody may have meant: the nearest known name, or the nearest path that is there."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from miro_jax.data.printable import some

_LIKELY = 0.6  # how much alike two words are, 1 is equal


def near_name(name: str, known: Iterable[str], otherwise: str = ".") -> str:
    """Return how a sentence about an unknown name ends: "; did you mean KNOWN?" for the nearest.

    Args:
      otherwise: how it ends where none is near.
    """
    return _end(name, {one: one for one in known}, otherwise)


def near_path(path: str | Path, pattern: str = "", otherwise: str = ".") -> str:
    """Return how a sentence about a missing path ends: "; did you mean PATH?" for one beside it.

    Args:
      pattern: what a path must hold, as "checkpoints" for runs; "" is anything.
      otherwise: how it ends where none is near.
    """
    asked = Path(path).expanduser()
    root, depth = (asked.parent, "*") if asked.parent.is_dir() else (asked.parent.parent, "*/*")
    there = [one for one in sorted(root.glob(depth)) if not pattern or (one / pattern).exists()]
    held = {str(one.relative_to(root)): one for one in there}  # what they share is no likeness
    return _end(str(asked.relative_to(root)), held, otherwise)


def _end(name: str, known: Mapping[str, object], otherwise: str) -> str:
    """Return how a sentence ends by what the nearest key stands for."""
    near = difflib.get_close_matches(name, known, 1, _LIKELY)
    return f"; did you mean {known[near[0]]}?" if near else otherwise


def near_run(folder: str | Path) -> str:
    """Return how a text that names no run ends: the run that was meant, or those below here."""
    runs = runs_here()
    return near_path(folder, "checkpoints", f"; runs here: {some(runs, most=5)}." if runs else ".")


def runs_here() -> list[str]:
    """Return the folders of runs below the working directory, two levels deep."""
    found = [*Path().glob("*/checkpoints"), *Path().glob("*/*/checkpoints")]
    return sorted(str(path.parent) for path in found)
