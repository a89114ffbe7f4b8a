"""A folder on a disk."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from miro_jax.data.regular_file import open_regular
from miro_jax.data.storage import files
from miro_jax.data.storage.base import ATTEMPTS, SCRATCH, Damaged, Folder

T = TypeVar("T")


class LocalFolder(Folder):
    """A folder on a disk, perhaps shared by several machines."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def _exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def _size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def stamp(self, name: str) -> str:
        return _stamp((self.path / name).stat())

    def _entries(self, inside: str) -> list[os.DirEntry]:
        try:
            with os.scandir(self.path / inside) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def names(self, inside: str = "") -> list[str]:
        return sorted(entry.name for entry in self._entries(inside) if entry.is_file())

    def stamps(self, inside: str = "") -> dict[str, tuple[int, str]]:
        found = {}
        for entry in self._entries(inside):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                if entry.is_file():
                    facts = entry.stat()
                    found[entry.name] = facts.st_size, _stamp(facts)
        return found

    def folders(self, inside: str = "") -> list[str]:
        return sorted(entry.name for entry in self._entries(inside) if entry.is_dir())

    def is_used(self, inside: str) -> bool:
        try:
            with os.scandir(self.path / inside) as entries:
                return any(not entry.name.startswith(SCRATCH) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return self.exists(inside)  # not as a folder

    def read(self, name: str) -> bytes:
        try:
            with open_regular(self.path / name) as file:
                return file.read()
        except ValueError as error:
            raise Damaged(str(error)) from error

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        def write() -> None:
            path = self._make_room(name)
            with files.published(path, durable) as file:
                file.write(data)

        _despite_others(write)

    def put(self, name: str, path: str | os.PathLike) -> None:
        final = self._make_room(name)
        with files.naming(final, str(path)):
            files.sync(path)
            os.replace(path, final)
            files.sync(final.parent)

    def _make_room(self, name: str) -> Path:
        """Make the folder of a file; return the path of the file."""
        final = self.path / name
        final.parent.mkdir(parents=True, exist_ok=True)
        return final

    def create(self, name: str, path: str | os.PathLike) -> bool:
        final = self._make_room(name)
        with files.naming(final):
            files.sync(path)
        try:
            os.link(path, final)
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links: the race of two workers stays open
            if final.exists():
                return False
            os.replace(path, final)
        files.sync(final.parent)
        return True

    def _remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # another worker may be deleting it, too
            return
        try:
            path.unlink(missing_ok=True)
        except OSError:
            if not path.is_dir():  # which another worker has made at this moment
                raise

    @contextlib.contextmanager
    def scratch(self, inside: str) -> Iterator[Path]:
        def make() -> tuple[Path, contextlib.ExitStack]:
            (self.path / inside).mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(dir=self.path / inside, prefix=SCRATCH))
            with contextlib.ExitStack() as lock:
                try:
                    lock.enter_context(files.locked_folder(path))
                except BlockingIOError as error:  # until it is locked others take it for a leftover
                    raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
                if path.exists():
                    return path, lock.pop_all()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

        path, lock = _despite_others(make)
        with lock:
            try:
                yield path
            except OSError as error:
                if error.errno and error.filename is None:  # of a write, which names no file
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
                raise
            finally:
                shutil.rmtree(path, ignore_errors=True)

    def remove_scratch(self) -> None:
        """Delete the scratch that killed workers left in this folder, but in none below."""
        for leftover in self.path.glob(f"{SCRATCH}*/"):
            with contextlib.suppress(OSError):  # somebody has it, or has deleted it
                with files.locked_folder(leftover) as is_locked:
                    if is_locked:
                        shutil.rmtree(leftover, ignore_errors=True)

    def local(self, name: str, scratch: Path) -> Path:
        return self.path / name


def _stamp(facts: os.stat_result) -> str:
    return f"{facts.st_ino} {facts.st_mtime_ns} {facts.st_size}"


def _despite_others(action: Callable[[], T]) -> T:
    """Do what another worker may foil by deleting a folder at this moment; again, if it does."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return action()
    return action()
