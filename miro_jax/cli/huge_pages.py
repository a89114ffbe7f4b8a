"""Transparent huge pages, of 2 MB, where Linux gives them on request, as is usual.

XLA for CPUs takes the memory of a step anew each time, hundreds of megabytes, and the kernel makes
ready and clears each page when it is first touched: in pages of 4 KB, a quarter of a training step.
GNU's libc requests huge ones if a variable says so when a process starts.
"""

import contextlib
import os
import sys
from pathlib import Path

VARIABLE, WORD = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # such as "always [madvise] never"
OLDEST = (2, 35)  # libc that knows the word
_OURS, _SCRIPT, _VERB = "miro_jax", "miro-jax", "train"
_WITH_VALUE = ("-X", "-W")  # Python's flags of two words


def request() -> None:
    """Restart this process, with its arguments and the variable, where that gives huge pages.

    Only where Python was started for our training and nothing else: sampling gets slower by them,
    and a program that imports us stays as it is. So does what the variable says,
    `glibc.malloc.hugetlb=0` for small pages too.
    """
    if not _is_command() or is_requested() is not None or not is_available():
        return
    words = ":".join(filter(None, (os.environ.get(VARIABLE), f"{WORD}=1")))
    with contextlib.suppress(OSError):  # of a Python that was replaced: then without
        os.execve(sys.executable, sys.orig_argv, os.environ | {VARIABLE: words})


def is_available() -> bool:
    """Return whether Linux gives huge pages to who requests them, and libc can request them."""
    return mode() == "madvise" and _libc() >= OLDEST


def mode() -> str:
    """Return when Linux gives huge pages: always, madvise (on request), never; "" elsewhere."""
    try:
        return MODES.read_text("ascii").partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def is_requested() -> bool | None:
    """Return whether this process was started to request huge pages; None if nothing is set."""
    said = None
    for setting in os.environ.get(VARIABLE, "").split(":"):
        name, _, value = setting.partition("=")
        with contextlib.suppress(ValueError):
            said = int(value, 0) > 0 if name == WORD else said  # the last one counts
    return said


def _is_command() -> bool:
    """Return whether Python was started to train, by `python -m` or by the console script."""
    if not sys.executable or sys.flags.interactive or "jax" in sys.modules:
        return False
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            module = next(words, "")
            return module == f"{_OURS}.main" or module == _OURS and next(words, "") == _VERB
        if word in _WITH_VALUE:
            next(words, "")
        elif not word.startswith("-") or word in ("-", "-c"):
            return os.path.basename(word) == _SCRIPT and next(words, "") == _VERB
    return False


def _libc() -> tuple[int, ...]:
    """Return the version of GNU's libc; () for others."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (ValueError, OSError, AttributeError):
        return ()
