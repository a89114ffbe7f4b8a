"""Memory in pages of 2 MB where Linux gives them to whoever asks, as most distributions set it.

XLA for CPUs takes the memory of a step anew each time, hundreds of megabytes, and the kernel makes
ready and clears each page when it is first touched: in pages of 4 KB, a quarter of a training step.
GNU's libc asks for large ones if a variable says so when a process starts.
"""

import contextlib
import os
import sys
from pathlib import Path

VARIABLE, WORD = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # such as "always [madvise] never"
OLDEST = (2, 35)  # libc that knows the word


def ask() -> None:
    """Start this process again, with its arguments and the variable, where that gives large pages.

    For commands, as the first thing that they do: it returns at once where JAX is imported. What
    the variable says of large pages stays as it is, `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` too.
    """
    said = os.environ.get(VARIABLE, "")
    if WORD in said or "jax" in sys.modules or mode() != "madvise" or _libc() < OLDEST:
        return
    words = ":".join(filter(None, (said, f"{WORD}=1")))
    with contextlib.suppress(OSError):  # of a Python that was replaced: then without
        os.execve(sys.executable, sys.orig_argv, os.environ | {VARIABLE: words})


def mode() -> str:
    """Return to whom Linux gives large pages: always, madvise (who asks), never; "" elsewhere."""
    try:
        return MODES.read_text("ascii").partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def asked() -> bool:
    """Return whether this process was started to ask for large pages."""
    return f"{WORD}=1" in os.environ.get(VARIABLE, "").split(":")


def _libc() -> tuple[int, ...]:
    """Return the version of GNU's libc; () for others."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (ValueError, OSError, AttributeError):
        return ()
