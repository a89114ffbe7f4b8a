"""Files here and in object stores, read only: open, measure, fingerprint.

A path with a scheme (`gs://bucket/a.tar`, `s3://...`, `memory://...`) goes through fsspec, which
needs the package of that store (gcsfs, s3fs); any other path is a local file, opened directly.
Only regular files are opened: reading a pipe or a device might never end.

A single file that a source names may be anything at all, and lie anywhere: `Root` reads it. What is
wrong with it is a cause; what is wrong with the disk or the network is an error.
"""

import base64
import contextlib
import dataclasses
import errno
import functools
import hashlib
import http.client
import io
import os
import posixpath
import re
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import fsspec

from miro_jax.data.sources.images import MAX_BYTES, BadImage

_FINGERPRINT_BYTES = 1 << 16
_REMOTE_BLOCK_BYTES = 1 << 24  # of one request, which costs as much time as some megabytes
_REMOTE_THREADS = 32  # that wait for answers
_URL_SECONDS = 30  # that an address may take to answer
S = TypeVar("S")
T = TypeVar("T")
# What the system says of one file, and not of the storage as a whole.
_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)
_GONE, _LATER = (404, 410), (408, 425, 429)  # what servers answer; from 500 on it is later, too
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_LONGEST_PATH = 4096  # characters; longer text without a scheme is base64
_HUB_CACHE = re.compile(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/.*")


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


def open_read(path: str, seeks: bool = False) -> BinaryIO | io.BufferedReader:
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
        file = system.open(inside, "rb", cache_type="none")
        return file if seeks else io.BufferedReader(file, _REMOTE_BLOCK_BYTES)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    facts = os.fstat(file.fileno())
    if stat.S_ISREG(facts.st_mode) and facts.st_size:
        return file
    file.close()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{readable(path)} must be a regular file; it is a pipe or a device.")
    return io.BytesIO()  # what /proc holds has no size, and may never end


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


@dataclasses.dataclass(frozen=True)
class Root:
    """What a source may read of the files that it names.

    folder: it reads below this folder, by its scheme; a link that leads out of it is not followed.
    The folder itself may be a link, and the blobs of a snapshot of Hugging Face's cache count as
    its own. anywhere: other files and addresses too.
    """

    folder: str
    anywhere: bool = False

    def read(self, name: str, size: int | None = None) -> bytes:
        """Read a file that is expected to be an image or its text.

        Args:
          name: relative to the folder, or whole.
          size: its bytes, where a listing has them; a store need not be asked again.

        Raises:
          BadImage: it is not there, no regular file, of more than MAX_BYTES, or may not be read;
            or the path is none that can be read here, or leads out of the folder.
          OSError: the storage fails.
        """
        path = join(self.folder, name.removeprefix("file://").removeprefix("local://"))
        if is_remote(path):
            self._check_url(path)
        try:
            return self._read_remote(path, size) if is_remote(path) else self._read_local(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadImage("missing image", readable(path)) from error
        except BadImage:
            raise
        except ValueError as error:  # a scheme that is not known here
            raise BadImage("unreadable file", str(error)) from error
        except OSError as error:
            if error.errno in _OF_THE_FILE:
                raise BadImage("unreadable file", f"{path!r}: {error.strerror}") from error
            raise

    def read_image(self, name: str) -> bytes:
        """Read an image by its path, or one that is written as base64; see `read`."""
        if not is_base64(name):
            return self.read(name)
        try:
            return base64.b64decode(_DATA_URL.sub("", name, count=1), validate=True)
        except ValueError as error:
            raise BadImage("missing image", f"neither a path nor base64: {error}") from error

    def _read_local(self, path: str) -> bytes:
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, "a zero byte in the name", path)
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe might never end
            raise BadImage("not a file", readable(path))
        if not (self.anywhere or os.path.realpath(path).startswith(self._real)):
            raise self._outside(path)
        _check_size(facts.st_size)
        with open_read(path) as file:
            return file.read(MAX_BYTES)

    @functools.cached_property
    def _real(self) -> str:
        real = os.path.realpath("/" if is_remote(self.folder) else self.folder)
        match = _HUB_CACHE.fullmatch(real + "/")
        return os.path.join(match[1] if match else real, "")

    def _read_remote(self, path: str, size: int | None) -> bytes:
        own = self._is_below(path)
        try:
            if path.startswith(("http://", "https://")):
                return _fetch(path)
            system, inside = filesystem(path)
            _check_size(system.size(inside) if size is None else size)
            return system.cat_file(inside)  # opening it would ask for its size again
        except BadImage as error:
            if own and error.cause == "unreachable":  # then so is all the rest
                raise ConnectionError(str(error)) from error
            raise
        except FileNotFoundError:
            raise
        except OSError as error:
            if own:
                raise
            raise BadImage("unreachable", f"{readable(path)}: {error}") from error

    def _check_url(self, path: str) -> None:
        """Raise BadImage unless an address may be read."""
        if "::" in path or not (self.anywhere or self._is_below(path)):
            raise self._outside(path)

    def _is_below(self, path: str) -> bool:
        steps = re.split(r"[/\\]", urllib.parse.unquote(path))
        return ".." not in steps and path.startswith(self.folder.rstrip("/") + "/")

    def _outside(self, path: str) -> BadImage:
        return BadImage(
            "outside the source",
            f"{readable(path)} is not below {readable(self.folder)}; --allow-urls lets it be read",
        )


def is_base64(name: str) -> bool:
    """Return whether the text in a column of paths is an image and not its path."""
    return _DATA_URL.match(name) is not None or len(name) > _LONGEST_PATH


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImage("too large", f"a file of {size} bytes, at most {MAX_BYTES}")


def _fetch(url: str) -> bytes:
    """Return what an address holds."""
    try:
        with urllib.request.urlopen(url, timeout=_URL_SECONDS) as answer:
            data = answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            raise FileNotFoundError(errno.ENOENT, "no such address", url) from error
        later = error.code in _LATER or error.code >= 500
        cause = "unreachable" if later else "unreadable file"
        raise BadImage(cause, f"{readable(url)}: {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise BadImage("unreachable", f"{readable(url)}: {error}") from error
    _check_size(len(data))
    return data
