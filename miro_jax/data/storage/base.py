"""What a folder is that several workers write into, and what may be wrong with one."""

import abc
import contextlib
import copy
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from miro_jax.data.storage import files

ATTEMPTS = 8  # at what another worker may foil
SCRATCH = "tmp-"  # begins the name of a folder that a killed writer may leave behind
T = TypeVar("T")


class Damaged(OSError):
    """A file that we wrote does not hold what it should; the text names it."""


class Folder(abc.ABC):
    """A folder; its methods raise OSError, FileNotFoundError for a name that is not there."""

    # Of `listed`: sizes and stamps by folder and name; by name, a stamp and what was made of it.
    _listings: dict[str, dict[str, tuple[int, str]]] | None = None
    _results: dict[str, tuple[str, Any]] | None = None

    def listed(self, *below: str) -> Self:
        """Return the folder as it is now: whether files exist and their sizes need no request.

        What others write or delete later does not show in these two, nor in `once`; all else is as
        ever.

        Args:
          below: folders below, which are listed, too; files of others do not exist there.
        """
        if self._results is None:
            self._results = {}  # which all listings share
        twin = copy.copy(self)
        twin._listings = {inside: self.stamps(inside) for inside in {"", *below}}
        return twin

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` makes of a file alone; nobody may change it.

        In a listed folder it is called once, and again only where a later listing has another file.
        One that is replaced between a listing and `make` has another stamp in the next listing.
        """
        inside, _, file = name.rpartition("/")
        _, stamp = (self._listings or {}).get(inside, {}).get(file, (0, ""))
        if self._results is None or not stamp:
            return make()
        if self._results.get(name, ("",))[0] != stamp:
            self._results[name] = stamp, make()
        return self._results[name][1]

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        if self._listings is None:
            return self._exists(name)
        inside, _, file = name.rpartition("/")
        return file in self._listings.get(inside, {})

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        if self._listings is None:
            return self._size(name)
        if not self.exists(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self / name)
        inside, _, file = name.rpartition("/")
        return self._listings[inside][file][0]

    @abc.abstractmethod
    def _exists(self, name: str) -> bool: ...

    @abc.abstractmethod
    def _size(self, name: str) -> int: ...

    @abc.abstractmethod
    def stamps(self, inside: str = "") -> dict[str, tuple[int, str]]:
        """List the files of the folder or of one below it with their bytes and stamps.

        The stamps of an object store are not those of `stamp`: a listing tells less.
        """

    @abc.abstractmethod
    def folders(self, inside: str = "") -> list[str]:
        """List the folders in the folder or in one below it, sorted; none where it is not there."""

    @abc.abstractmethod
    def stamp(self, name: str) -> str:
        """Return what changes when a file is replaced by another, as far as the system tells."""

    @abc.abstractmethod
    def names(self, inside: str = "") -> list[str]:
        """List the files of the folder or of one below it, sorted; none where it is not there."""

    @abc.abstractmethod
    def is_used(self, inside: str) -> bool:
        """Return whether a folder below holds anything but scratch."""

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
    def put(self, name: str, path: str | os.PathLike) -> None:
        """Write or replace a file by a finished local one, which may be moved to its place."""

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens where it is not."""
        self._remove(name)
        if self._listings is not None:
            inside, _, file = name.rpartition("/")
            self._listings.get(inside, {}).pop(file, None)

    @abc.abstractmethod
    def _remove(self, name: str) -> None: ...

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
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # it, or the scratch, may be deleted
                if not self.exists(name):
                    with self.scratch(inside) as scratch:
                        path = scratch / "claim"
                        with files.naming(self / name):
                            path.write_bytes(data)
                        self.create(name, path)
                return self.read(name)
        raise OSError(f"{self / name} can be neither written nor read.")

    def read_json(self, name: str, schema: Any = None) -> Any:
        """Read a JSON file of ours.

        Args:
          schema: what it must hold, see `data.json_file`; None accepts any value.

        Raises:
          FileNotFoundError: there is none.
          Damaged: it holds something else, or was changed after it was written.
        """
        return self.parse_json(name, self.read(name), schema)

    def parse_json(self, name: str, data: bytes, schema: Any = None) -> Any:
        """Parse what a file holds; see `read_json`."""
        try:
            return files.parse_ours(data, "it", schema)
        except ValueError as error:
            raise Damaged(f"{self / name} is damaged: {error}") from error

    def intact(self, name: str, parse: Callable[[bytes, str], T]) -> T | None:
        """Return what `parse` makes of a file and its name; None where it is missing or Damaged."""
        try:
            return parse(self.read(name), name)
        except (FileNotFoundError, Damaged):
            return None

    def leftovers(self) -> list[str]:
        """List the files of the folder that killed writers left."""
        return [name for name in self.names() if files.LEFTOVER.search(name)]

    def __truediv__(self, name: str) -> str:
        """Write a name with the folder before it, for messages."""
        return f"{self}/{name}"
