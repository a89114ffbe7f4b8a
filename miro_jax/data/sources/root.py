"""Files that the content of a source names: they may be anything at all, and lie anywhere.

What is wrong with one of them is a cause; what is wrong with the disk or the network is an error.
"""

import base64
import dataclasses
import errno
import functools
import http.client
import os
import re
import stat
import urllib.error
import urllib.parse
import urllib.request

from miro_jax.data.sources import reading
from miro_jax.data.sources.images import MAX_BYTES, BadImage
from miro_jax.data.sources.reading import is_remote, readable

_URL_SECONDS = 30  # that an address may take to answer
# What the system says of one file, and not of the storage as a whole.
_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)
_GONE, _LATER = (404, 410), (408, 425, 429)  # what servers answer; from 500 on it is later, too
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
LONGEST_PATH = 4096  # characters; longer text without a scheme is base64
# How JPEG, PNG, GIF, WebP and BMP begin in base64, which has no dots; no image is so short.
_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3])[^.]{60,}")
_HUB_CACHE = re.compile(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/.*")


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
        path = reading.join(self.folder, name.removeprefix("file://").removeprefix("local://"))
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
            text = "".join(_DATA_URL.sub("", name, count=1).split())  # MIME breaks lines
            return base64.b64decode(text, validate=True)
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
        with reading.open_read(path) as file:
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
            system, inside = reading.filesystem(path)
            _check_size(reading.size_of(path) if size is None else size)
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
    if len(name) > LONGEST_PATH or _DATA_URL.match(name):
        return True
    return _BASE64.fullmatch(name) is not None


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
