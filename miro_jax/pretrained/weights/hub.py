"""Find the files of a published model: in a local folder, in the hub's cache, or on the hub.

    repository = hub.open("nicolas-dufour/miro")         # or a folder in the same layout
    repository.path("config.json")                       # a local path; fetched if it must be

Files are fetched one by one, when they are needed; those that are here count before those that
would have to be fetched. `MIRO_JAX_OFFLINE=1` or `HF_HUB_OFFLINE=1` switches fetching off.
`HF_HOME` moves the cache.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors

from miro_jax.data.json_file import read_json
from miro_jax.data.regular_file import digest_regular
from miro_jax.pretrained.weights import pickles, tensors

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SAFETENSORS = (".safetensors", ".safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth")
OTHERS = (".ckpt", ".msgpack", ".h5", ".gguf", ".onnx")
WRAPPERS = ("module.", "_orig_mod.")
SECONDS_TO_CONNECT = 3.0
T = TypeVar("T")


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
          ValueError: it is no regular file, or a Git LFS pointer.
        """
        path = self._find(name)
        if path is None:
            self._check_links(name)
            raise FileNotFoundError(f"{self} has no file {self._inside(name)}.")
        return path

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name; it is fetched for that.

        Where it cannot be fetched, a repository of which other files are here counts as without it.

        Raises:
          OfflineError, UnreachableError: nothing of the repository is here, nor can be fetched.
        """
        try:
            return self._find(name) is not None
        except (OfflineError, UnreachableError):
            if self._snapshot() is None:
                raise
            return False

    def own_or(self, default: str, *names: str) -> str:
        """Return `source` if it is a folder with a file of one of these names, else the default."""
        return self.source if self.is_local and any(map(self.has, names)) else default

    def is_here(self, stem: str = "model") -> bool:
        """Return whether weights (see `weights`) are on this machine; nothing is fetched."""
        return any(self._is_complete(name) for name in weight_files(stem))

    def json(self, name: str) -> dict[str, Any]:
        """Read a JSON file that holds an object; ValueError names a damaged one."""
        return read_json(self.path(name), dict)

    def parsed(self, name: str, parse: Callable[[dict[str, Any]], T]) -> T:
        """Return `parse` of the object in a JSON file; ValueError names one it cannot parse."""
        values = self.json(name)
        try:
            return parse(values)
        except KeyError as error:
            raise ValueError(f"{self.path(name)} has no entry {error}.") from error
        except ValueError as error:
            raise ValueError(f"{self.path(name)}: {error}") from error
        except (TypeError, IndexError, AttributeError, ArithmeticError) as error:
            text = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self.path(name)} holds a value of a wrong type ({text})."
            ) from error

    def weights(self, stem: str = "model") -> Path:
        """Return the path of the weight file (or of the index of several) that `stem` names.

        Files that are here count before those that would have to be fetched; among either,
        safetensors before pickles, and weights of half precision last.

        Args:
          stem: name without its ending, or with it.
        """
        names = weight_files(stem)
        if len(names) == 1:
            return self.path(stem)
        names.sort(key=lambda name: not self._is_complete(name))  # stable
        for name in names:
            if (path := self._find(name)) is not None:
                return path
        self._check_links(*names)
        here = ", ".join(self._weight_files_here())
        raise FileNotFoundError(
            f"{self} holds none of {', '.join(map(self._inside, names))}"
            f"{f'; it holds {here}. Give one of them such a name' if here else ''}."
        )

    def _check_links(self, *names: str) -> None:
        """Raise FileNotFoundError where one of these is a link to nothing, as a blob is gone."""
        for path in (Path(self.source, self.subfolder, name) for name in names):
            if self.is_local and path.is_symlink() and not path.exists():
                raise FileNotFoundError(f"{path} is a link to nothing. Fetch the file again.")

    def _weight_files_here(self) -> list[str]:
        """Return the names of files that may be weights; of a local folder alone."""
        folder = Path(self.source, self.subfolder)
        names = sorted(path.name for path in folder.iterdir()) if self.is_local else []
        return [name for name in names if name.lower().endswith((*SAFETENSORS, *PICKLES, *OTHERS))]

    def tensors(self, stem: str = "model") -> dict[str, tensors.Tensor]:
        """List the tensors of `weights(stem)`; see `weights.tensors` and `weights.pickles`."""
        path = self.weights(stem)
        if is_index(path.name):
            return _unwrapped(tensors.open_indexed(path, self.path, open_file))
        return _unwrapped(open_file(path))

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
        files = [f"{Path(stem).parent / path.name}"]
        if is_index(path.name):
            files = sorted(set(tensors.read_index(path).values()))
        parts = [self.sha256(name) for name in (*files, *names)]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()

    def __str__(self) -> str:
        where = f"{self.source}@{self.revision}" if self.revision else self.source
        return f"{where}/{self.subfolder}" if self.subfolder else where

    def _inside(self, name: str) -> str:
        return f"{self.subfolder}/{name}" if self.subfolder else name

    def _known(self, name: str) -> Path | Literal[False] | None:
        """Return the path of a file that is here; False: there is none; None: the hub may know."""
        if self.is_local:
            path = Path(self.source, self.subfolder, name)
            return path if path.exists() else False
        snapshot = self._snapshot()
        cached = huggingface_hub.try_to_load_from_cache(
            self.source, self._inside(name), revision=snapshot.name if snapshot else self.revision
        )
        if isinstance(cached, str):
            return Path(cached)
        return None if cached is None else False  # the cache may know that there is none

    def _snapshot(self, alone: bool = False) -> Path | None:
        """Return the folder of the cache that holds the files of the revision.

        Args:
          alone: where none is named and the cache has no `main`, the only one that is there counts;
            so it is where nothing can be fetched.
        """
        top = Path(constants.HF_HUB_CACHE, f"models--{self.source.replace('/', '--')}")
        with contextlib.suppress(OSError):
            commit = (top / "refs" / (self.revision or "main")).read_text().strip()
            if (top / "snapshots" / commit).is_dir():
                return top / "snapshots" / commit
        if self.revision:
            named = top / "snapshots" / self.revision
            return named if named.is_dir() else None
        there = list((top / "snapshots").glob("*")) if alone or is_offline() else []
        return there[0] if len(there) == 1 else None

    def _is_complete(self, name: str) -> bool:
        """Return whether a file is here, with all others that it lists if it is an index."""
        path = self._known(name)
        if not isinstance(path, Path) or tensors.is_pointer(path):
            return False
        listed = set(tensors.read_index(path).values()) if is_index(name) else ()
        return all(map(self._is_complete, listed))

    def _find(self, name: str) -> Path | None:
        known = self._known(name)
        if known is None:
            try:
                known = self._fetch(name)
            except UnreachableError:
                alone = self._snapshot(alone=True)
                path = alone and alone / self._inside(name)
                if not (path and path.exists()):
                    raise
                known = path
        if known and tensors.is_pointer(known):
            raise ValueError(tensors.POINTED.format(known))
        return known or None

    def _fetch(self, name: str) -> Path | None:
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
        except Exception as error:  # of its client, of a proxy, of a package that a proxy needs
            kind, why = UnreachableError, "the hub cannot be reached"
            if cause := " ".join(str(error).split())[:200]:
                why += f" ({cause})"
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
      FileNotFoundError: it is neither an existing folder nor of the form "owner/name", or the
        hub's cache of a repository.
    """
    text = str(source)
    top = Path(text).resolve()
    top = top.parent if top.name == "snapshots" else top
    if (top / "snapshots").is_dir() and top.name.startswith("models--"):
        name = top.name.removeprefix("models--").replace("--", "/")
        raise FileNotFoundError(
            f"{text} is a folder of the hub's cache. Give {name}, or one of {top}/snapshots/."
        )
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


def _unwrapped(listed: dict[str, tensors.Tensor]) -> dict[str, tensors.Tensor]:
    """Take off what PyTorch's wrappers for many devices and for compiling put before all keys."""
    for prefix in WRAPPERS * 2:  # either may stand inside of the other
        if all(key.startswith(prefix) for key in listed):
            listed = {key.removeprefix(prefix): tensor for key, tensor in listed.items()}
    return listed


def weight_files(stem: str) -> list[str]:
    """List the names that a weight file may have, the best first."""
    if stem.endswith((*SAFETENSORS, *PICKLES)):
        return [stem]
    alike = {"model": "pytorch_model"}.get(stem, stem)
    whole = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    whole += [f"{alike}.bin", f"{alike}.bin.index.json", f"{stem}.pt", f"{stem}.pth"]
    half = [f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json"]
    return [*whole, *half, f"{alike}.fp16.bin", f"{alike}.bin.index.fp16.json"]


def is_index(name: str) -> bool:
    return name.endswith((".index.json", ".index.fp16.json"))


def is_offline() -> bool:
    """Return whether fetching is switched off."""
    ours = os.environ.get("MIRO_JAX_OFFLINE", "").strip().lower()
    return constants.HF_HUB_OFFLINE or ours not in ("", "0", "false", "no", "off")


def _connect() -> None:
    """Raise ConnectionError soon where the hub cannot be reached: its client tries for 20 s."""
    parts = urlsplit(constants.ENDPOINT)
    is_direct = urllib.request.proxy_bypass(parts.netloc)  # by NO_PROXY
    if set(urllib.request.getproxies()) - {"no"} and not is_direct:
        return  # a proxy reaches what this machine cannot see; the client knows which and when
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
    return digest_regular(path)
