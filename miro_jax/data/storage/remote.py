"""A folder in an object store.

What keeps workers apart is an upload on condition that there is no such object: S3 and Google's
store have it, and so has `memory://` within a process. Others that fsspec knows may not.
"""

import contextlib
import importlib.util
import logging
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.config import conf

from miro_jax.data.storage.ahead import THREADS
from miro_jax.data.storage.base import ATTEMPTS, Damaged, Folder

SCHEMES = ("gs", "gcs", "s3", "s3a", "memory")
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_PACKAGES = {"gcs": "gcsfs", "s3": "s3fs"}  # of each extra
_SECONDS_BETWEEN_ATTEMPTS = 0.25
# What stores tell of an object that another upload changes.
_STAMPS = ("ETag", "etag", "generation", "LastModified", "updated", "created", "size")
# Packages that talk to stores, and raise errors of their own.
_TALKERS = "aiobotocore aiohttp azure botocore gcsfs google httpcore2 httpx httpx2 s3fs".split()
# Of what stores and their packages say where credentials are missing, wrong or not enough.
_REFUSALS = ("redential", "Forbidden", "Access Denied", "AccessDenied", "Access Key", "Anonymous")
_REFUSALS += ("signature we calculated", "ExpiredToken", "RefreshError", "Unauthorized")
_ANSWERED = "the object store answered"
_CREDENTIALS = (
    "For s3:// set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for gs:// run "
    "`gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS. They must be "
    "allowed to use that bucket."
)


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path inside it.

    Raises:
      ValueError, ImportError: no such scheme, or its package is not installed.
    """
    # gcsfs asks by gRPC whether a bucket is of one zone: where that may not pass, each call waits
    # for a minute. It reads the variable when it is imported.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").addFilter(_is_not_raised)
    options: dict[str, Any] = {"use_listings_cache": False}  # which would hide what others do
    if url.startswith(("s3://", "s3a://")):  # the client's own limit is ten requests at a time
        given = conf.get(url.partition(":")[0], {}).get("config_kwargs", {})
        options["config_kwargs"] = {"max_pool_connections": THREADS} | given
    return fsspec.core.url_to_fs(url, **options)


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Drop the traceback that gcsfs logs of each exception that it then raises to us as well."""
    return re.search("(out of retries on|non-retriable) exception", str(record.msg)) is None


class RemoteFolder(Folder):
    """A folder in an object store: gs://, s3://, memory://."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        scheme = self.url.partition("://")[0]
        if scheme not in SCHEMES:
            raise ValueError(
                f"A folder to write into must be local or of {', '.join(SCHEMES)}; got {url!r}. "
                "Other stores do not keep several workers apart: write to a local folder, copy it."
            )
        try:
            self._system, root = open_url(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened: {error}{_remedy(scheme)}") from error
        self._root = root.rstrip("/")
        self._has_folders = scheme == "memory"  # others would make a bucket of that name
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

    def _exists(self, name: str) -> bool:
        return self._system.exists(self._place(name))

    def _size(self, name: str) -> int:
        return self._system.size(self._place(name))

    def stamp(self, name: str) -> str:
        return _stamp(self._system.info(self._place(name)))

    def names(self, inside: str = "") -> list[str]:
        return sorted(self.stamps(inside))

    def stamps(self, inside: str = "") -> dict[str, tuple[int, str]]:
        return {n: (x["size"], _stamp(x)) for n, x in self._list(inside) if x["type"] == "file"}

    def folders(self, inside: str = "") -> list[str]:
        return sorted(name for name, x in self._list(inside) if x["type"] == "directory")

    def _list(self, inside: str) -> list[tuple[str, dict[str, Any]]]:
        try:
            found = self._system.ls(self._place(inside), detail=True)
        except FileNotFoundError:
            return []
        # Consoles mark a folder that they make by an empty object of its name.
        below = [x for x in found if x["name"].rstrip("/") != self._place(inside)]
        return [(facts["name"].rstrip("/").rpartition("/")[2], facts) for facts in below]

    def is_used(self, inside: str) -> bool:
        return self._system.exists(self._place(inside))  # scratch is elsewhere

    def read(self, name: str) -> bytes:
        # With several requests at a time s3fs first asks for the size.
        return self._system.cat_file(self._place(name), max_concurrency=1)

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        self._system.pipe_file(self._make_room(name), data)

    def put(self, name: str, path: str | os.PathLike) -> None:
        self._system.put_file(str(path), self._make_room(name))

    def tree(self) -> dict[str, tuple[int, str]]:
        """Return size and stamp of every file of the folder and of those below it, by name.

        The stamps are not those of `stamp`: a listing tells less.

        Raises:
          Damaged: a name leads out of the folder, as a local copy would have it.
        """
        try:
            found = self._system.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        begin = len(self._root) + 1
        files = {
            facts["name"][begin:]: (facts["size"], _stamp(facts))
            for facts in found.values()
            if facts["type"] == "file" and not facts["name"].endswith("/")
        }
        for name in files:
            if not {"", ".", ".."}.isdisjoint(name.split("/")):
                raise Damaged(f"{self} must hold names of files; it holds {name!r}. Delete it.")
        return files

    def create(self, name: str, path: str | os.PathLike) -> bool:
        place = self._make_room(name)
        attempt = 0
        while True:
            attempt += 1
            try:
                self._system.put_file(str(path), place, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:  # S3, to several who ask at once: nobody has the name yet
                if "pre-condition" in str(error):  # as stores say that are not S3 itself
                    return False
                if "ConditionalRequestConflict" not in str(error) or attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, attempt) * _SECONDS_BETWEEN_ATTEMPTS)

    def _remove(self, name: str) -> None:
        if self._exists(name):
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                self._system.rm(self._place(name), recursive=True)

    @contextlib.contextmanager
    def scratch(self, inside: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="miro-jax-") as path:
            yield Path(path)

    def local(self, name: str, scratch: Path) -> Path:
        target = scratch / f"fetched-{name.replace('/', '-')}"
        self.fetch(name, target)
        return target

    def fetch(
        self, name: str, path: str | os.PathLike, count: Callable[[int], None] | None = None
    ) -> None:
        """Copy an object into a local file; `count` gets the bytes of each part that has come."""
        callback = DEFAULT_CALLBACK if count is None else _Counting(count)
        self._system.get_file(self._place(name), str(path), callback=callback)


class _Counting(Callback):
    """What fsspec tells how many bytes have come."""

    def __init__(self, count: Callable[[int], None]):
        super().__init__()
        self._count = count

    def relative_update(self, inc: int = 1) -> None:
        """Count some more."""
        self._count(inc)


def _stamp(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{key} {facts[key]}" for key in _STAMPS if key in facts)


def _remedy(scheme: str) -> str:
    """Say what to install where the package of a store is missing."""
    extra = _EXTRAS.get(scheme)
    if not extra or importlib.util.find_spec(_PACKAGES[extra]):
        return ""
    return f". Run `pip install 'miro_jax[{extra}]'`."


@contextlib.contextmanager
def errors_of_stores() -> Iterator[None]:
    """Turn the errors that object stores have of their own into OSError: credentials, network.

    Where a store lets nobody in, the text says where it looks for credentials.
    """
    try:
        yield
    except Exception as error:
        name = type(error).__name__
        is_foreign = type(error).__module__.split(".")[0] in _TALKERS
        is_refused = any(word in f"{name} {error}" for word in _REFUSALS)
        is_ours = _ANSWERED in str(error) or getattr(error, "filename", None)
        if is_ours or isinstance(error, OSError) and not is_refused:
            raise
        if not (is_foreign or isinstance(error, OSError)):
            raise
        text = f"{_ANSWERED} {name}: {str(error).rstrip('.')}."
        if isinstance(error, PermissionError):
            raise PermissionError(f"{text} {_CREDENTIALS}") from error
        raise OSError(f"{text} {_CREDENTIALS}" if is_refused else text) from error
