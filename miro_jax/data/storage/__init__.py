"""Folders that several workers write into: on a disk, or in an object store.

A file appears whole or not at all. `create` gives a name to the first who asks for it and tells the
others that they came late: on a disk by a hard link, in an object store by an upload on condition
that there is no such object. Nothing else is needed to keep workers apart.

    open_folder("/data/records")          open_folder("gs://bucket/records")

Names are relative to the folder, with slashes.
"""

import errno
import os
import re
import tempfile
import uuid
from pathlib import Path

from miro_jax.data.storage.base import Damaged, Folder
from miro_jax.data.storage.files import TEMPORARY
from miro_jax.data.storage.local import LocalFolder
from miro_jax.data.storage.remote import RemoteFolder, errors_of_stores

__all__ = [
    "BAD_PLACE",
    "Damaged",
    "Folder",
    "LocalFolder",
    "RemoteFolder",
    "check_writable",
    "errors_of_stores",
    "nearest",
    "open_folder",
]

# Errors of the system that are the fault of whoever named the file.
BAD_PLACE = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
_LOCAL = ("file://", "local://")


def open_folder(path: str | os.PathLike) -> Folder:
    """Open a folder by its path or its URL; nothing is made yet.

    Args:
      path: `~` at its beginning is the home of the user.

    Raises:
      ValueError: it is empty or not UTF-8, or the scheme of the URL is unknown or not complete,
        or its package is not installed.
      NotADirectoryError: it is a file.
      TypeError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"A folder must be text or a path; got {path!r:.60}.")
    text = os.fspath(path)
    for scheme in _LOCAL:
        text = text.removeprefix(scheme)
    if not text:
        raise ValueError("A folder must have a name; got an empty one. '.' is the present folder.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"A folder's name must be UTF-8; got {ascii(text)}. Set PYTHONUTF8=1 where the locale "
            "is another one."
        ) from error
    if one_slash(text):
        raise ValueError(f"A URL must have two slashes after its scheme; got {text!r}.")
    if "://" in text:
        return RemoteFolder(text)
    local = LocalFolder(os.path.expanduser(text))
    if local.path.exists() and not local.path.is_dir():
        raise NotADirectoryError(f"{local} must be a folder; it is a file.")
    return local


def nearest(path: str | os.PathLike) -> Path:
    """Return a path that is there: itself, or the nearest folder above it."""
    given = Path(path)
    return next(one for one in (given, *given.absolute().parents) if one.exists())


def one_slash(text: str) -> bool:
    """Return whether a text is a URL that lacks the second slash after its scheme."""
    return re.match(r"[a-z][a-z0-9+]+:/(?!/)", text) is not None


def check_writable(path: str | os.PathLike) -> None:
    """Raise PermissionError unless the folder can be written; a local one is made.

    A store of objects is asked by putting an object there and deleting it.
    """
    folder = open_folder(path)
    try:
        if isinstance(folder, LocalFolder):
            folder.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder.path):
                pass
        else:
            name = f"write{TEMPORARY}{uuid.uuid4().hex}"
            folder.write(name, b"")
            folder.remove(name)
    except OSError as error:
        if not isinstance(error, BAD_PLACE) and error.errno not in (errno.EROFS, errno.ELOOP):
            raise  # a full disk, a network: no fault of the name
        raise PermissionError(
            f"{folder} must be a folder that can be written; got: {error.strerror or error}. "
            "Give another one."
        ) from error
