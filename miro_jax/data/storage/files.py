"""Files that appear whole or not at all.

A file is written under a temporary name beside its own, flushed to the disk and renamed: a reader
sees all of it or nothing, also after a kill or a power cut.
"""

import contextlib
import glob
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

from miro_jax.data.json_file import dump_json, parse_json

SEAL = "seal"  # key of the digest of all else that an object of ours holds
TEMPORARY = ".tmp-"  # in the name of what a killed writer may leave behind, then 32 digits


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file of which this is the only writer, see `published`."""
    remove_leftovers(path)
    with published(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def published(path: str | os.PathLike, durable: bool = True) -> Iterator[str]:
    """Give a temporary name to write to; what is there at the end becomes `path`, all of it.

    The name is one's own: others may be writing the same file. Not durable: a power cut may spoil
    it.

    Raises:
      OSError: naming `path`.
    """
    temporary = f"{path}{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(os.path.dirname(os.path.abspath(path)))
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # on a full disk it holds the last of the room
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_leftovers(path: str | os.PathLike) -> None:
    """Delete what killed writers of a file left; not where others may be writing it."""
    for leftover in glob.glob(glob.escape(str(path)) + f"{TEMPORARY}*"):
        os.unlink(leftover)


def to_json(value: object) -> bytes:
    """Encode a value as the indented, key-sorted JSON of every file that we publish.

    Raises:
      ValueError: a number in it is not finite.
    """
    return (dump_json(value, indent=1, sort_keys=True) + "\n").encode("utf-8")


def to_sealed_json(value: dict[str, Any]) -> bytes:
    """Encode an object as `to_json` does, with the digest of all else that it holds."""
    return to_json({**value, SEAL: hashlib.sha256(to_json(value)).hexdigest()})


def parse_ours(data: bytes, name: str, schema: Any = None) -> Any:
    """Parse `to_json` or `to_sealed_json`; a seal is checked and dropped.

    Raises:
      ValueError: it is something else, or was changed after it was written; `name` begins the text.
    """
    value = parse_json(data, name, schema)
    if isinstance(value, dict) and (seal := value.pop(SEAL, None)) is not None:
        if seal != hashlib.sha256(to_json(value)).hexdigest():
            raise ValueError(f"{name} was changed after it was written: its seal does not fit.")
    return value


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
