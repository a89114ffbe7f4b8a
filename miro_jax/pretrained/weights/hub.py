"""Find the files of a published model: in a local folder, in the hub's cache, or on the hub.

    repository = hub.open("nicolas-dufour/miro")         # or a folder in the same layout
    repository.path("config.json")                       # a local path; fetched if it must be

Files are fetched one by one, when they are needed. `MIRO_JAX_OFFLINE=1` or `HF_HUB_OFFLINE=1`
switches fetching off; what is in the cache is still used. `HF_HOME` moves the cache.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors

from miro_jax.pretrained.weights import pickles, tensors

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SAFETENSORS = (".safetensors", ".safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth")
SECONDS_TO_CONNECT = 3.0


class OfflineError(FileNotFoundError):
    """A file is not here and fetching is switched off; the message names the way to get it."""


class UnreachableError(ConnectionError):
    """A file is not here and the hub does not answer; the message names another way."""


@dataclasses.dataclass(frozen=True)
class Repository:
    """The files of a model.

    Attributes:
      source: a local folder or a hub id.
      subfolder: inside of it; "" is the top. revision: branch, tag or commit on the hub.
    """

    source: str
    subfolder: str = ""
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `source` is a folder on this machine."""
        return Path(self.source).is_dir()

    def path(self, name: str) -> Path:
        """Return the local path of a file, fetching it from the hub where it is not here.

        Raises:
          FileNotFoundError: the folder or the hub has no such file.
          OfflineError, UnreachableError: it would have to be fetched and cannot be.
        """
        path = self._find(name)
        if path is None:
            raise FileNotFoundError(f"{self} has no file {self._inside(name)}.")
        return path

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name; it is fetched for that."""
        return self._find(name) is not None

    def is_here(self, stem: str = "model") -> bool:
        """Return whether weights (see `weights`) are on this machine; nothing is fetched."""
        return any(isinstance(self._known(name), Path) for name in _weight_files(stem))

    def json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; ValueError names a damaged one."""
        path = self.path(name)
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}. Fetch it again.") from error

    def weights(self, stem: str = "model") -> Path:
        """Return the path of the weight file (or of the index of several) that `stem` names.

        Args:
          stem: name without its ending, or with it. safetensors are preferred to pickles.
        """
        names = _weight_files(stem)
        if len(names) == 1:
            return self.path(stem)
        for name in names:
            if (path := self._find(name)) is not None:
                return path
        raise FileNotFoundError(f"{self} holds none of {', '.join(map(self._inside, names))}.")

    def tensors(self, stem: str = "model") -> dict[str, tensors.Tensor]:
        """List the tensors of `weights(stem)`; see `weights.tensors` and `weights.pickles`."""
        path = self.weights(stem)
        if path.name.endswith(".index.json"):
            return tensors.open_indexed(path, self.path, open_file)
        return open_file(path)

    def sha256(self, name: str) -> str:
        """Return the digest of a file, 64 hexadecimal digits."""
        path = self.path(name)
        blob = path.resolve().name  # the hub's cache names large files by their digest
        if not self.is_local and re.fullmatch(r"[0-9a-f]{64}", blob):
            return blob
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns)

    def digest(self, stem: str = "model", *names: str) -> str:
        """Return one digest of the weights `stem` names, in one file or several, and of `names`.

        Files of a local folder are read whole for it, once.
        """
        path = self.weights(stem)
        files = [path.name]
        if path.name.endswith(".index.json"):
            files = sorted(set(self.json(path.name)["weight_map"].values()))
        parts = [self.sha256(name) for name in (*files, *names)]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()

    def __str__(self) -> str:
        where = f"{self.source}@{self.revision}" if self.revision else self.source
        return f"{where}/{self.subfolder}" if self.subfolder else where

    def _inside(self, name: str) -> str:
        return f"{self.subfolder}/{name}" if self.subfolder else name

    def _known(self, name: str) -> Path | bool | None:
        """Return the path of a file that is here; False: there is none; None: the hub may know."""
        if self.is_local:
            path = Path(self.source, self.subfolder, name)
            return path if path.is_file() else False
        cached = huggingface_hub.try_to_load_from_cache(
            self.source, self._inside(name), revision=self.revision
        )
        if isinstance(cached, str):
            return Path(cached)
        return None if cached is None else False  # the cache may know that there is none

    def _find(self, name: str) -> Path | None:
        known = self._known(name)
        if known is not None:
            return known or None
        with self._explained(name):
            if is_offline():
                raise errors.OfflineModeIsEnabled("offline")
            _connect()
            try:
                return Path(
                    huggingface_hub.hf_hub_download(
                        self.source, self._inside(name), revision=self.revision
                    )
                )
            except errors.RemoteEntryNotFoundError:
                return None

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except errors.RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"The hub has no repository {self.source!r} (or it needs a login: hf auth login), "
                "and there is no such folder."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise FileNotFoundError(
                f"{self.source} has no revision {self.revision!r} on the hub."
            ) from error
        except (OSError, errors.OfflineModeIsEnabled) as error:
            kind, why = UnreachableError, "the hub cannot be reached"
            if is_offline():
                kind, why = OfflineError, "fetching is switched off"
            inside = f" --include '{self.subfolder}/*'" if self.subfolder else ""
            raise kind(
                f"{self} must be fetched and {why}. Where there is a network, run: hf download "
                f"{self.source}{inside} --local-dir FOLDER; then give FOLDER in place of "
                f"{self.source}."
            ) from error


def open(source: str | Path, subfolder: str = "", revision: str | None = None) -> Repository:
    """Name a repository by a folder or a hub id; nothing is fetched yet.

    Raises:
      FileNotFoundError: it is neither an existing folder nor of the form "owner/name".
    """
    text = str(source)
    if Path(text).is_dir():
        if subfolder and not Path(text, subfolder).is_dir():
            inside = sorted(p.name for p in Path(text).iterdir() if p.is_dir())
            raise FileNotFoundError(
                f"{text} has no folder {subfolder!r}; it has {', '.join(inside) or 'none'}."
            )
        return Repository(text, subfolder)
    if not HUB_ID.fullmatch(text) or Path(text).exists():
        raise FileNotFoundError(
            f"{text!r} is no existing folder, and no hub id of the form 'owner/name'."
        )
    return Repository(text, subfolder, revision)


@contextlib.contextmanager
def naming_folders(*ways: str) -> Iterator[None]:
    """Add to the message of missing weights the ways to name their folder."""
    try:
        yield
    except (OfflineError, UnreachableError) as error:
        raise type(error)(f"{error} That is {' or '.join(ways)}.") from error


def open_file(path: Path) -> dict[str, tensors.Tensor]:
    """List the tensors of one file by its ending: safetensors, or a pickle of PyTorch."""
    if path.suffix == ".safetensors":
        return tensors.open_safetensors(path)
    return pickles.open_pickle(path)


def _weight_files(stem: str) -> list[str]:
    """List the names that a weight file may have, the best first."""
    if stem.endswith((*SAFETENSORS, *PICKLES)):
        return [stem]
    alike = {"model": "pytorch_model"}.get(stem, stem)
    names = [f"{stem}{end}" for end in SAFETENSORS]
    return [*names, f"{alike}.bin", f"{alike}.bin.index.json", f"{stem}.pt", f"{stem}.pth"]


def is_offline() -> bool:
    """Return whether fetching is switched off."""
    return constants.HF_HUB_OFFLINE or os.environ.get("MIRO_JAX_OFFLINE", "0") not in ("", "0")


def _connect() -> None:
    """Raise ConnectionError soon where the hub cannot be reached: its client tries for 20 s."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy")):
        return  # a proxy reaches what this machine cannot see
    parts = urlsplit(constants.ENDPOINT)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    failure: list[OSError] = [TimeoutError("no answer")]

    def probe():
        try:
            socket.create_connection((parts.hostname, port), SECONDS_TO_CONNECT).close()
            failure.clear()
        except OSError as error:
            failure[0] = error

    # In a thread: looking up a name can take longer than any time limit of a socket.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_CONNECT)
    if failure:
        raise ConnectionError(str(failure[0])) from failure[0]


@functools.lru_cache(maxsize=256)
def _digest(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
