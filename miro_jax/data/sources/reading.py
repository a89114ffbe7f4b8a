"""Files here and in object stores, read only: open, measure, fingerprint.

A path with a scheme (`gs://bucket/a.tar`, `s3://...`, `memory://...`) goes through fsspec, which
needs the package of that store (gcsfs, s3fs); any other path is a local file, opened directly.
Only regular files are opened: reading a pipe or a device might never end. Files that the content of
a source names may lie anywhere: `root` reads them.
"""

import contextlib
import hashlib
import io
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from miro_jax.data.regular_file import open_regular
from miro_jax.data.storage import ahead
from miro_jax.data.storage.remote import open_url

_FINGERPRINT_BYTES = 1 << 16
_REMOTE_BLOCK_BYTES = 1 << 24  # of one request, which costs as much time as some megabytes
S = TypeVar("S")
T = TypeVar("T")


def is_remote(path: str) -> bool:
    """Return whether a path has a scheme."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """Return the file system of a path with a scheme, and the path inside it.

    Raises:
      ValueError: no such scheme, or its package is not installed.
    """
    try:
        return open_url(path)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{path} must have a scheme that can be read here, such as gs://, s3:// or https://, "
            f"or be a local path; got: {str(error).rstrip('.')}. For gs:// run `pip install "
            "'miro_jax[gcs]'`, for s3:// `pip install 'miro_jax[s3]'`."
        ) from error


class _ToItsEnd(io.RawIOBase):
    """A file in a store, of which nothing beyond its end is requested.

    gcsfs cuts a large request into several: where one of them begins behind the end, Google's store
    refuses it, and gcsfs takes that for the end of the file at the place where it was read.
    """

    def __init__(self, file: Any):
        self._file, self._size = file, getattr(file, "size", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        length = len(buffer)
        if self._size is not None:
            length = max(min(length, self._size - self._file.tell()), 0)
        data = self._file.read(length)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_read(path: str, seeks: bool = False) -> io.BufferedReader | io.BytesIO:
    """Open a file for reading bytes, from its beginning on.

    Args:
      path: of a regular file.
      seeks: its reader knows where it reads; in a store each read is then a request of its own.

    Raises:
      ValueError: it is a pipe or a device.
    """
    if is_remote(path):
        system, inside = filesystem(path)
        # The caches of the file systems learn from what is read, and here that is often the 512
        # bytes of a header, which would become requests of their own.
        file = _ToItsEnd(system.open(inside, "rb", cache_type="none"))
        return io.BufferedReader(file, 1 if seeks else _REMOTE_BLOCK_BYTES)
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size:
        return file
    file.close()
    return io.BytesIO()  # what /proc holds has no size, and may never end


@contextlib.contextmanager
def answered(path: str) -> Iterator[None]:
    """Turn errors of a store's own client, such as httpx's, into ConnectionError."""
    try:
        yield
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConnectionError(f"{path} is unreachable: {reason}. Try again.") from error


def info(path: str) -> dict[str, Any]:
    """Return what a store says of a path: its `type`, its `size`.

    Raises:
      FileNotFoundError: there is no such thing.
      ConnectionError: the store gives no answer.
    """
    system, inside = filesystem(path)
    try:
        with answered(path):
            return system.info(inside)
    except FileNotFoundError as error:  # fsspec takes a server that is down for this
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError | None) or hasattr(cause, "response"):
            raise  # what has a response, as S3's "no such bucket", is an answer
        raise ConnectionError(f"{path} is unreachable: {cause}") from error


def size_of(path: str) -> int:
    """Return the bytes of a file.

    Raises:
      FileNotFoundError: no such file.
    """
    return info(path)["size"] if is_remote(path) else os.path.getsize(path)


def is_file(path: str) -> bool:
    """Return whether there is a file of this name."""
    if not is_remote(path):
        return os.path.isfile(path)
    try:
        return info(path)["type"] == "file"  # `isfile` takes any error for a no
    except FileNotFoundError:
        return False


def is_folder(path: str) -> bool:
    """Return whether there is a folder of this name."""
    if not is_remote(path):
        return os.path.isdir(path)
    system, inside = filesystem(path)
    with answered(path):
        return system.isdir(inside)


def join(folder: str, name: str) -> str:
    """Return the path of a name inside a folder; an absolute name stays what it is."""
    if is_remote(name) or not is_remote(folder):
        return name if is_remote(name) else os.path.join(folder, name)
    return posixpath.join(folder, name.lstrip("/"))


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
    with open_read(path) as file:
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


def map_ahead(function: Callable[[S], T], items: Sequence[S], folder: str) -> Iterator[T]:
    """Apply a function that reads files of a folder; in a store, to many items at a time."""
    return ahead.map_ahead(function, items) if is_remote(folder) else map(function, items)


def is_of_the_storage(error: Exception) -> bool:
    """Return whether an error is one of the disk or the network, and not of a file's content.

    pyarrow raises OSError for both; what the system says has a number.
    """
    return isinstance(error, OSError) and (
        error.errno is not None or isinstance(error, TimeoutError | ConnectionError)
    )
