"""A folder that one request fills, in any number of starts.

`manifest.partial.json` comes first and says what the folder is being filled with; pictures follow,
each written whole or not at all; `manifest.json` comes last: a folder that has one is complete. A
request that finds its own pictures goes on after them, another request is refused.
"""

import contextlib
import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from miro_jax.data.storage.files import to_json, write_atomic

MANIFEST = "manifest.json"
PARTIAL = "manifest.partial.json"
GRID = "grid.png"
_BRIEF = 80  # letters of a value in an error

log = logging.getLogger(__name__)


class Folder:
    """The files of one request. Made by `open_folder`."""

    def __init__(self, path: Path, request: dict[str, Any]):
        self.path, self.request = path, request

    def has(self, name: str) -> bool:
        """Tell whether a file is there; it is whole then."""
        return (self.path / name).exists()

    def is_complete(self) -> bool:
        """Tell whether there is a manifest and every file that it lists."""
        return self.has(MANIFEST) and all(map(self.has, _listed(_read(self.path / MANIFEST))))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)

    def save(self, name: str, image: np.ndarray) -> None:
        """Write a picture [H, W, 3] uint8 as PNG."""
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG")
        self.write(name, data.getvalue())

    def read(self, names: Sequence[str]) -> np.ndarray:
        """Read pictures of one size, [N, H, W, 3] uint8."""
        images = []
        for name in names:
            with Image.open(self.path / name) as image:
                images.append(np.asarray(image))
        return np.stack(images)

    def finish(self, images: Sequence[dict[str, Any]], files: Sequence[str] = ()) -> None:
        """Write the manifest.

        Args:
          images: an entry for each picture, with its `file`.
          files: what else belongs to the folder.
        """
        manifest = {"request": self.request, "images": list(images), "files": list(files)}
        self.write(MANIFEST, to_json(manifest))
        (self.path / PARTIAL).unlink(missing_ok=True)


@contextlib.contextmanager
def open_folder(
    path: Path | str, request: Mapping[str, Any], names: Sequence[str], replace: bool = False
) -> Iterator[Folder]:
    """Make a folder, or go on with the one that the same request began.

    Args:
      path: the folder. request: all that the pictures depend on, plain JSON.
      names: files that it will write.
      replace: remove what another request listed in its manifest, instead of refusing.

    Raises:
      ValueError: it holds, or is to hold, the pictures of another request, or files of these names
        that no manifest explains. BlockingIOError: another process fills it now.
      PermissionError: it cannot be written.
    """
    path, request = Path(path), json.loads(to_json(dict(request)))
    if not replace:
        check_folder(path, request, names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"{path} must be a folder that can be written; got: {error.strerror}. Name another."
        ) from error
    with _locked(path):
        if replace and _differing(_present(path), request):
            _clear(path)
        check_folder(path, request, names)
        if not (path / MANIFEST).exists():
            files = [{"file": name} for name in names]
            write_atomic(path / PARTIAL, to_json({"request": request, "images": files}))
        yield Folder(path, request)


def check_folder(path: Path, request: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Raise ValueError if a folder holds something else than this request's pictures.

    Args:
      path: the folder; it may be missing. request: all of it, or what is known so far.
      names: see `open_folder`.
    """
    present = _present(path)
    if present is None:
        strangers = [name for name in names if (path / name).exists()]
        if strangers or (path / MANIFEST).exists():
            raise ValueError(
                f"{path} holds {(strangers or [MANIFEST])[0]}, and nothing there says how it was "
                "sampled. Name another folder."
            )
        return
    request = json.loads(to_json(dict(request)))
    if differing := _differing(present, request):
        details = "; ".join(
            f"{name} there {_brief(present.get(name))}, asked {_brief(request[name])}"
            for name in differing
        )
        raise ValueError(
            f"{path} holds the pictures of another command ({details}). Name another folder, or "
            "delete this one."
        )


def _present(path: Path) -> dict[str, Any] | None:
    """Return the request that fills, or filled, a folder."""
    for name in (MANIFEST, PARTIAL):
        if (path / name).exists() and isinstance(found := _read(path / name), dict):
            if isinstance(request := found.get("request"), dict):
                return request
    return None


def _differing(present: dict[str, Any] | None, request: Mapping[str, Any]) -> list[str]:
    if present is None:
        return ["manifest"]
    return [name for name in request if present.get(name) != request[name]]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}. Delete it, or name another.") from error


def _listed(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of a manifest, those inside of its folder."""
    names = [entry["file"] for entry in manifest.get("images", [])]
    names += manifest.get("files", [GRID])
    return [n for n in names if not PurePosixPath(n).is_absolute() and ".." not in n.split("/")]


def _clear(path: Path) -> None:
    """Remove what an earlier request made, its manifests first."""
    names = []
    for manifest in (path / MANIFEST, path / PARTIAL):
        if manifest.exists():
            names += _listed(_read(manifest))
            manifest.unlink()
    for name in names:
        (path / name).unlink(missing_ok=True)


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _BRIEF else text[:_BRIEF] + "..."


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the lock ends with the process, however it ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{path} is being filled by another process. Wait for it, or name another folder."
            ) from error
        except OSError as error:  # a file system without locks: then it is up to the user
            log.info("%s cannot be locked: %s", path, error.strerror)
        yield
    finally:
        os.close(descriptor)
