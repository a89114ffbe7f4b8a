"""Files that appear whole or not at all.

A file is written under a temporary name beside its own, flushed to the disk and renamed: a reader
sees all of it or nothing, also after a kill or a power cut.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, also after a kill or a power cut."""
    with published(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def published(path: str | os.PathLike) -> Iterator[str]:
    """Give a temporary name to write to; what is there at the end becomes `path`, all of it."""
    temporary = fresh_temporary(path)
    yield temporary
    publish(temporary, path)


def to_json(value: object) -> bytes:
    """Encode a value as the indented, key-sorted JSON of every file that we publish."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8")


def brief(value: object, limit: int = 200) -> str:
    """Write a value as JSON for a message, at most so many characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def fresh_temporary(path: str | os.PathLike) -> str:
    """Delete what killed writers of `path` left behind and name a new temporary file."""
    path = str(path)
    for leftover in glob.glob(glob.escape(path) + ".tmp-*"):
        os.unlink(leftover)
    return f"{path}.tmp-{os.getpid()}"


def publish(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Flush a finished file to the disk and rename it into place."""
    sync(temporary)
    os.replace(temporary, str(path))
    sync(os.path.dirname(os.path.abspath(path)))


def sync(path: str | os.PathLike) -> None:
    """Flush a file, or the names of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
