"""Folders that several workers write into: on a disk, or in an object store.

A file appears whole or not at all. `create` gives a name to the first who asks for it and tells the
others that they came late: on a disk by a hard link, in an object store by an upload on condition
that there is no such object. Nothing else is needed to keep workers apart.

    open_folder("/data/records")          open_folder("gs://bucket/records")

Names are relative to the folder, with slashes.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from miro_jax import files

TEMPORARY = ".tmp-"  # in the name of what a killed writer may leave behind, then 32 digits
SCRATCH = "tmp-"  # begins the name of a folder that a killed writer may leave behind
_LEFTOVER = re.compile(re.escape(TEMPORARY) + r"[0-9a-f]{32}$")
_ATTEMPTS = 5
# Errors of the system that are the fault of whoever named the file.
BAD_PLACE = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
T = TypeVar("T")
_LOCAL = ("file://", "local://")
# Stores of objects have no folders; some would make a bucket of that name.
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"}
# Packages that talk to stores, and raise errors of their own.
_TALKERS = "aiobotocore aiohttp azure botocore gcsfs google httpcore2 httpx httpx2 s3fs".split()


class Damaged(OSError):
    """A file that we wrote does not hold what it should; the text names it."""


class Folder(abc.ABC):
    """A folder; its methods raise OSError, FileNotFoundError for a name that is not there."""

    @abc.abstractmethod
    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""

    @abc.abstractmethod
    def size(self, name: str) -> int:
        """Return the bytes of a file."""

    @abc.abstractmethod
    def names(self, inside: str = "") -> list[str]:
        """List the files of the folder or of one below it, sorted; none where it is not there."""

    @abc.abstractmethod
    def is_used(self, inside: str) -> bool:
        """Tell whether a folder below holds anything but scratch."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """Return what a file holds."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write or replace a file; folders are made. Not durable: a power cut may spoil it."""

    @abc.abstractmethod
    def create(self, name: str, path: str | os.PathLike) -> bool:
        """Give a finished local file a name, which the file may be moved to.

        Returns:
            False if somebody else has the name already; nothing is changed then.
        """

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens where it is not."""

    @abc.abstractmethod
    def scratch(self, inside: str) -> contextlib.AbstractContextManager[Path]:
        """Give a local folder of one's own for a while, from which `create` is cheap."""

    @abc.abstractmethod
    def local(self, name: str, scratch: Path) -> Path:
        """Return a local path with the content of a file; an object is fetched into `scratch`."""

    def claim(self, name: str, data: bytes, inside: str) -> bytes:
        """Write a file unless there is one, and return what is there.

        Args:
            inside: folder below for what is not finished.
        """
        if not self.exists(name):
            with self.scratch(inside) as scratch:
                path = scratch / "claim"
                path.write_bytes(data)
                self.create(name, path)
        return self.read(name)

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            FileNotFoundError: there is none.
            Damaged: it holds something else.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise Damaged(f"{self / name} is damaged, no JSON: {error}.") from error

    def leftovers(self) -> list[str]:
        """List the files of the folder that killed writers left."""
        return [name for name in self.names() if _LEFTOVER.search(name)]

    def __truediv__(self, name: str) -> str:
        """Write a name with the folder before it, for messages."""
        return f"{self}/{name}"


class LocalFolder(Folder):
    """A folder on a disk, perhaps shared by several machines."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def names(self, inside: str = "") -> list[str]:
        try:
            with os.scandir(self.path / inside) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_used(self, inside: str) -> bool:
        try:
            with os.scandir(self.path / inside) as entries:
                return any(not entry.name.startswith(SCRATCH) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return self.exists(inside)  # not as a folder

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        _despite_others(lambda: self._write(self.path / name, data, durable))

    def _write(self, path: Path, data: bytes, durable: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of our own: another machine may be writing the same file.
        temporary = f"{path}{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            if durable:
                files.publish(temporary, path)
            else:
                os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # on a full disk it holds the last of the room
            raise OSError(error.errno, error.strerror, str(path)) from error

    def create(self, name: str, path: str | os.PathLike) -> bool:
        final = self.path / name
        final.parent.mkdir(parents=True, exist_ok=True)
        files.sync(path)
        try:
            os.link(path, final)
        except FileExistsError:
            return False
        except (
            OSError
        ) as error:  # a file system without hard links: the race of two workers stays open
            if isinstance(error, FileNotFoundError):
                raise
            if final.exists():
                return False
            os.replace(path, final)
        files.sync(final.parent)
        return True

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another worker may be deleting it, too
        elif path.exists():
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self, inside: str) -> Iterator[Path]:
        def make() -> Path:
            (self.path / inside).mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.path / inside, prefix=SCRATCH))

        path = _despite_others(make)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def local(self, name: str, scratch: Path) -> Path:
        return self.path / name


def _despite_others(action: Callable[[], T]) -> T:
    """Do what another worker may foil by deleting a folder at this moment; again, if it does."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return action()
    return action()


class RemoteFolder(Folder):
    """A folder in an object store, or any other that fsspec knows: gs://, s3://, memory://."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        try:
            # Listings that are kept would hide what other workers do.
            self._system, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened: {error}") from error
        self._root = root.rstrip("/")
        self._has_folders = self.url.partition("://")[0] not in _WITHOUT_FOLDERS
        self._made: set[str] = set()

    def __str__(self) -> str:
        return self.url

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_room(self, name: str) -> str:
        """Make the folder of a file where the store has folders; return the file's place."""
        place = self._place(name)
        folder = place.rpartition("/")[0]
        if self._has_folders and folder not in self._made:
            self._system.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        return place

    def exists(self, name: str) -> bool:
        return self._system.exists(self._place(name))

    def size(self, name: str) -> int:
        return self._system.size(self._place(name))

    def names(self, inside: str = "") -> list[str]:
        try:
            found = self._system.ls(self._place(inside), detail=True)
        except FileNotFoundError:
            return []
        return sorted(x["name"].rpartition("/")[2] for x in found if x["type"] == "file")

    def is_used(self, inside: str) -> bool:
        return self._system.exists(self._place(inside))  # scratch is elsewhere

    def read(self, name: str) -> bytes:
        return self._system.cat_file(self._place(name))

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        self._system.pipe_file(self._make_room(name), data)

    def create(self, name: str, path: str | os.PathLike) -> bool:
        try:
            self._system.put_file(str(path), self._make_room(name), mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        if self.exists(name):
            self._system.rm(self._place(name), recursive=True)

    @contextlib.contextmanager
    def scratch(self, inside: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="miro-jax-") as path:
            yield Path(path)

    def local(self, name: str, scratch: Path) -> Path:
        target = scratch / name.replace("/", "-")
        self._system.get_file(self._place(name), str(target))
        return target


def open_folder(path: str | os.PathLike) -> Folder:
    """Open a folder by its path or its URL; nothing is made yet.

    Args:
        path: `~` at its beginning is the home of the user.

    Raises:
        ValueError: it is empty or not UTF-8, or the scheme of the URL is unknown or not complete,
            or its package is not installed.
        NotADirectoryError: it is a file.
    """
    text = os.fspath(path)
    for scheme in _LOCAL:
        text = text.removeprefix(scheme)
    if not text:
        raise ValueError("A folder must have a name; got an empty one. '.' is the present folder.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"A folder's name must be UTF-8; got {ascii(text)}.") from error
    if re.match(r"[a-z][a-z0-9+]+:/(?!/)", text):
        raise ValueError(f"A URL must have two slashes after its scheme; got {text!r}.")
    if "://" in text:
        return RemoteFolder(text)
    local = LocalFolder(os.path.expanduser(text))
    if local.path.exists() and not local.path.is_dir():
        raise NotADirectoryError(f"{local} must be a folder; it is a file.")
    return local


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


@contextlib.contextmanager
def errors_of_stores() -> Iterator[None]:
    """Turn the errors that object stores have of their own into OSError: credentials, network."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] not in _TALKERS:
            raise
        raise OSError(f"the object store answered {type(error).__name__}: {error}") from error
