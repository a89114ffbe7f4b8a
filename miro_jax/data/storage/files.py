"""Files that appear whole or not at all.

A file is written under a temporary name beside its own, flushed to the disk and renamed: a reader
sees all of it or nothing, also after a kill or a power cut.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from miro_jax.data.json_file import dump_json, parse_json
from miro_jax.data.printable import some
from miro_jax.data.regular_file import open_regular

SEAL = "seal"  # key of the digest of all else that an object of ours holds
TEMPORARY = ".tmp-"  # in the name of what a killed writer may leave behind, then 32 digits
LEFTOVER = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{32}$")  # at the end of such a name


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file, see `published`; what killed writers of it left is deleted."""
    remove_leftovers(path)
    with published(path) as file:
        file.write(data)


def check_own(files: Iterable[Path], ours: bool) -> None:
    """Raise ValueError where there are files that a command would replace and did not write.

    Args:
      ours: whether what the command writes first is there, and is its own.
    """
    if held := [str(file) for file in files if not ours and os.path.lexists(file)]:
        raise ValueError(
            f"{some(held)} would be replaced, and this command did not write it. Give another "
            "--out."
        )


@contextlib.contextmanager
def published(path: str | os.PathLike, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a new file beside `path` to write to, which becomes `path` at the end, all of it.

    Its name is one's own, and no link is followed there: others may be writing the same file. Not
    durable: a power cut may spoil it.

    Raises:
      OSError: naming `path`; nothing is left then.
    """
    temporary = f"{path}{TEMPORARY}{uuid.uuid4().hex}"
    with naming(path, temporary), open(temporary, "xb") as file:  # its mode is by the umask
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if durable:
                sync(os.path.dirname(os.path.abspath(path)))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # on a full disk it holds the last of the room
            raise


@contextlib.contextmanager
def naming(path: str | os.PathLike, *names: str) -> Iterator[None]:
    """Let an OSError that names no file, or one of these, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or str(error.filename) in names):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_leftovers(path: str | os.PathLike) -> None:
    """Delete what killed writers of a file left: of those that live the system holds a lock."""
    for leftover in glob.glob(glob.escape(str(path)) + f"{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            with open_regular(leftover) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(leftover)


@contextlib.contextmanager
def locked_folder(path: str | os.PathLike, waits: bool = False) -> Iterator[bool]:
    """Lock a folder meanwhile, which shows that nobody else uses it.

    Args:
      waits: for another process that has it.

    Yields:
      Whether it is locked: not on a file system without locks.

    Raises:
      BlockingIOError: another one has it. FileNotFoundError: it is gone.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            is_locked = True
        except BlockingIOError:
            raise
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def to_json(value: object) -> bytes:
    """Encode a value as the indented, key-sorted JSON of every file that we publish.

    Raises:
      ValueError: a number in it is not finite.
    """
    return (dump_json(value, indent=1, sort_keys=True) + "\n").encode("utf-8")


def to_sealed_json(value: dict[str, Any]) -> bytes:
    """Encode an object as `to_json` does, with the digest of all else that it holds."""
    return to_json({**value, SEAL: _digest(to_json(value))})


def parse_ours(data: bytes, name: str, schema: Any = None) -> Any:
    """Parse `to_json` or `to_sealed_json`; a seal is checked and dropped.

    Raises:
      ValueError: it is something else, or was changed after it was written; `name` begins the text.
    """
    value = parse_json(data, name, schema)
    if isinstance(value, dict) and (seal := value.pop(SEAL, None)) is not None:
        # As it was written, which takes a tenth of the time; else the same values in another form.
        written = data.replace(f',\n "{SEAL}": "{seal}"'.encode(), b"", 1)
        if seal != _digest(written) and seal != _digest(to_json(value)):
            raise ValueError(f"{name} was changed after it was written: its seal does not fit.")
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def brief(value: object, limit: int = 200) -> str:
    """Write a value as JSON for a message, at most so many characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "..."


def sync(path: str | os.PathLike) -> None:
    """Flush a file, or the names of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
