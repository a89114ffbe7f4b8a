"""Opening files that must be regular ones: never a pipe, a socket or a device.

A reader of a named pipe waits for a writer that may never come, and a device may never end.
"""

import hashlib
import os
import stat
from io import BufferedReader

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """Open a regular file for reading; returns at once, whatever lies there.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read.
      ValueError: it is a folder, a named pipe, a socket or a device.
    """
    try:  # without O_NONBLOCK, opening a named pipe waits for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        mode = os.stat(path).st_mode
        if stat.S_ISSOCK(mode):
            raise ValueError(_irregular(path, mode)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ValueError(_irregular(path, mode))
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike, most_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
      ValueError: it holds more than `most_bytes`, or see `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size  # 0 also where the system does not know it
        data = file.read(min(size or most_bytes, most_bytes) + 1)  # a read reserves what it may get
    if len(data) > most_bytes:
        raise ValueError(f"{path} must hold at most {most_bytes:,} bytes; it holds more.")
    return data


def digest_regular(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a regular file in hexadecimal digits; raises as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: str | os.PathLike) -> None:
    """Raise ValueError for what exists and is no regular file: before others open it to append."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(_irregular(path, mode))


def _irregular(path: str | os.PathLike, mode: int) -> str:
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
    return f"{path} must be a regular file; it is {kind}."
