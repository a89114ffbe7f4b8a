"""Files here and in object stores, read only: open, measure, fingerprint.

A path with a scheme (`gs://bucket/a.tar`, `s3://...`, `memory://...`) goes through fsspec, which
needs the package of that store (gcsfs, s3fs); any other path is a local file, opened directly.

A single file that a source names may be anything at all. What is wrong with it is a cause; what is
wrong with the disk or the network is an error.
"""

import contextlib
import errno
import hashlib
import io
import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import fsspec

from miro_jax.data.sources.images import MAX_BYTES, BadImage

_FINGERPRINT_BYTES = 1 << 16
_REMOTE_BLOCK_BYTES = 1 << 24  # of one request, which costs as much time as some megabytes
_REMOTE_THREADS = 32  # that wait for answers
S = TypeVar("S")
T = TypeVar("T")
# What the system says of one file, and not of the storage as a whole.
_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)


def is_remote(path: str) -> bool:
    """Return whether a path has a scheme."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """Return the file system of a path with a scheme, and the path inside it.

    Raises:
      ValueError: no such scheme, or its package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{path} must have a scheme that can be read here; got: {error}. For gs:// install "
            "gcsfs, for s3:// s3fs."
        ) from error


def open_read(path: str) -> BinaryIO | io.BufferedReader:
    """Open a file for reading bytes, from its beginning on."""
    if not is_remote(path):
        return open(path, "rb")
    # The caches of the file systems learn from what is read, and here that is often the 512
    # bytes of a header, which would become requests of their own.
    return io.BufferedReader(open_anywhere(path), _REMOTE_BLOCK_BYTES)


def open_anywhere(path: str) -> Any:
    """Open a file with a scheme for readers that know where they read; a read is a request."""
    system, inside = filesystem(path)
    return system.open(inside, "rb", cache_type="none")


def size_of(path: str) -> int:
    """Return the bytes of a file.

    Raises:
      FileNotFoundError: no such file.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    system, inside = filesystem(path)
    return system.size(inside)


def is_file(path: str) -> bool:
    """Return whether there is a file of this name."""
    if not is_remote(path):
        return os.path.isfile(path)
    system, inside = filesystem(path)
    try:
        return system.info(inside)["type"] == "file"  # `isfile` takes any error for a no
    except FileNotFoundError:
        return False


def join(folder: str, name: str) -> str:
    """Return the path of a name inside a folder; an absolute name stays what it is."""
    if is_remote(name):
        return name
    return posixpath.join(folder, name) if is_remote(folder) else os.path.join(folder, name)


def absolute(path: str) -> str:
    """Return the whole path of a file."""
    return path if is_remote(path) else os.path.abspath(path)


def parent(path: str) -> str:
    """Return the folder that holds a path."""
    if not is_remote(path):
        return os.path.dirname(os.path.abspath(path))
    folder = path.rpartition("/")[0]
    return folder + "/" if folder.endswith(":/") else folder


def relative(path: str, folder: str) -> str:
    """Return a path as seen from a folder that holds it."""
    if is_remote(path):
        return path.removeprefix(folder).lstrip("/")
    return os.path.relpath(path, folder)


def readable(name: str) -> str:
    """Return a file's name as text that UTF-8 can hold, whatever its bytes are."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a character, as JSON can write it
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def fingerprint(path: str) -> str:
    """Return a short digest of a file's size, beginning and end: cheap, to notice a changed file.

    Raises:
      FileNotFoundError: no such file.
    """
    size = size_of(path)
    digest = hashlib.sha256(str(size).encode())
    if size:  # a store does not send a part of nothing
        for offset in (0, max(0, size - _FINGERPRINT_BYTES)):
            digest.update(_part(path, offset, _FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]


def _part(path: str, offset: int, length: int) -> bytes:
    if is_remote(path):
        system, inside = filesystem(path)
        return system.cat_file(inside, start=offset, end=offset + length)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Give a path on this machine for readers that know no other; a copy is deleted at the end."""
    if not is_remote(path):
        yield path
        return
    system, inside = filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, posixpath.basename(inside))
        system.get_file(inside, copy)
        yield copy


def map_ahead(function: Callable[[S], T], items: Sequence[S], place: str) -> Iterator[T]:
    """Apply a function that reads files of a place; in an object store, to many items at a time."""
    if not is_remote(place):
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(_REMOTE_THREADS)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def is_of_the_storage(error: Exception) -> bool:
    """Return whether an error is one of the disk or the network, and not of a file's content.

    pyarrow raises OSError for both; what the system says has a number.
    """
    return isinstance(error, OSError) and (
        error.errno is not None or isinstance(error, TimeoutError | ConnectionError)
    )


def read_file(path: str, size: int | None = None) -> bytes:
    """Read a file that is expected to be an image or its text.

    Args:
      size: its bytes, where a listing has them; a store need not be asked again.

    Raises:
      BadImage: it is not there, no plain file, of more than MAX_BYTES, or may not be read; or the
        path is none that can be read here.
      OSError: the storage fails.
    """
    try:
        plain, size = (True, size) if is_remote(path) and size is not None else _facts(path)
        if plain and size <= MAX_BYTES:
            return _content(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadImage("missing image", readable(path)) from error
    except ValueError as error:  # a scheme that is not known here
        raise BadImage("unreadable file", str(error)) from error
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise BadImage("unreadable file", f"{path!r}: {error.strerror}") from error
        raise
    if not plain:  # reading a pipe might never end
        raise BadImage("not a file", readable(path))
    raise BadImage("too large", f"a file of {size} bytes, at most {MAX_BYTES}")


def _content(path: str) -> bytes:
    if is_remote(path):
        system, inside = filesystem(path)
        return system.cat_file(inside)  # opening it would ask for its size again
    with open_read(path) as file:
        return file.read(MAX_BYTES)


def _facts(path: str) -> tuple[bool, int]:
    """Return whether a path is that of a plain file, and its bytes."""
    if is_remote(path):
        return True, size_of(path)
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, "a zero byte in the name", path)
    facts = os.stat(path)
    return stat.S_ISREG(facts.st_mode), facts.st_size
