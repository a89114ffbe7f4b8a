"""A folder that one request fills, in any number of starts.

`manifest.partial.json` comes first and holds the request; images follow, each written whole or not
at all; `manifest.json` comes last: a folder that has one is complete. Both read

    {"request": {...}, "images": [{"file": "0000-a-red-fox-0.png", "prompt": ..., ...}, ...],
     "files": ["grid.png"], "sha256": {"0000-a-red-fox-0.png": "3fab...", "grid.png": ...}}

where `images` are what `miro-jax score` scores, and `files` is what else there is. A file counts as
done if it has its digest; before there are digests, if it is an image that can be read to its end.
The same request resumes; another one is refused, see `data.storage.claim`.
"""

import contextlib
import hashlib
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from miro_jax.data import storage
from miro_jax.data.regular_file import open_regular
from miro_jax.data.storage.claim import MANIFEST_NAME, PARTIAL_NAME, Claim, same
from miro_jax.data.storage.files import LEFTOVER, TEMPORARY, to_json
from miro_jax.data.storage.lease import locked
from miro_jax.report.grids import encode_png
from miro_jax.sample.request import ImageRequest
from miro_jax.sample.settings import UNWRITTEN
from miro_jax.sample.sheets import GRID

# What requests lack that were written before it was there.
_BEFORE = UNWRITTEN | {"attention": "xla"}
_SCRATCH = ".claim"
_END_OF_PNG = b"IEND\xaeB`\x82"
_MANIFEST = {"images?": [{"file": str}], "files?": [str], "sha256?": {str: str}}


class Folder:
    """The files of one request. Made by `open_folder`."""

    def __init__(self, claim: Claim, request: dict[str, Any]):
        self.request, self._claim, self._folder = request, claim, claim.folder
        self.path: Path = claim.folder.path
        self._manifest = _read_manifest(claim.folder, MANIFEST_NAME)
        self._wanted: dict[str, str] = self._manifest.get("sha256", {})
        self._digests: dict[str, str] = {}  # of the files that are whole

    def has(self, name: str) -> bool:
        """Return whether a file is there, whole."""
        if name not in self._digests and self._folder.exists(name):
            data = self._folder.read(name)
            digest, wanted = _sha256(data), self._wanted.get(name)
            if digest == wanted or (wanted is None and _is_whole(name, data)):
                self._digests[name] = digest
        return name in self._digests

    def lacks(self, image: ImageRequest) -> bool:
        """Return whether an image is still to be drawn."""
        return not self.has(image.file)

    def is_complete(self) -> bool:
        """Return whether there is a manifest and every file that it lists."""
        return bool(self._manifest) and all(map(self.has, _listed(self._manifest)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        self._folder.write(name, data)
        self._digests[name] = _sha256(data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._folder.remove(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Forget the digest of a file that grows otherwise than by `write`; `finish` reads it."""
        self._digests.pop(name, None)
        self._wanted.pop(name, None)

    def save(self, name: str, image: np.ndarray) -> None:
        """Write an image [H, W, 3] uint8 as PNG."""
        self.write(name, encode_png(image))

    def read(self, names: Sequence[str]) -> np.ndarray:
        """Read images of one size, [N, H, W, 3] uint8."""
        images = []
        for name in names:
            with open_regular(self.path / name) as file, Image.open(file) as image:
                images.append(np.asarray(image))
        return np.stack(images)

    def finish(self, images: Sequence[dict[str, Any]], files: Sequence[str] = ()) -> None:
        """Write the manifest.

        Args:
          images: an entry for each image, with its `file`.
          files: what else belongs to the folder.
        """
        manifest = {"request": self.request, "images": list(images), "files": list(files)}
        digests = {name: self._digests[name] for name in _listed(manifest) if self.has(name)}
        self._claim.finish(to_json(manifest | {"sha256": digests}))


@contextlib.contextmanager
def open_folder(
    path: Path | str,
    request: Mapping[str, Any],
    names: Sequence[str],
    beside: Sequence[str] = (GRID,),
    *,
    replace: bool = False,
) -> Iterator[Folder]:
    """Make a folder, or resume the one that the same request began.

    Args:
      path: the folder. request: all that the images depend on, plain JSON.
      names: images that it will write. beside: other files.
      replace: remove what another request listed in its manifest, instead of refusing.

    Raises:
      ValueError: it holds, or is to hold, the images of another request, or files of these names
        that no manifest explains. BlockingIOError: another process fills it now.
      PermissionError: it cannot be written.
    """
    claim, every = _claim(path), [*names, *beside]
    if not replace:
        check_folder(path, request, every)
        if (folder := Folder(claim, dict(request))).is_complete():  # perhaps shared and read-only
            yield folder
            return
    with locked(claim.folder.path):
        if replace:
            try:
                claim.check(UNWRITTEN | dict(request))
            except ValueError:
                _clear(claim.folder)
        check_folder(path, request, every)
        for path_inside in claim.folder.path.rglob(f"*{TEMPORARY}*"):
            if LEFTOVER.search(path_inside.name):  # of a killed writer
                path_inside.unlink()
        files = [{"file": name} for name in names]
        claim.begin(request, {"request": dict(request), "images": files})
        claim.folder.remove(_SCRATCH)
        yield Folder(claim, dict(request))


def check_folder(path: Path | str, request: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Raise an error if a folder cannot be filled by a request; nothing is written.

    Args:
      path: the folder; it may be missing. request: all of it, or what is known so far.
      names: files that it will write.

    Raises:
      ValueError, PermissionError: see `open_folder`.
    """
    claim = _claim(path)
    folder = claim.folder.path
    check_writable(folder)
    if claim.present() is None:
        if strangers := [name for name in names if (folder / name).exists()]:
            raise _unexplained(folder, strangers[0])
        return
    # What was varied is named where it differs; the digest of all images only if nothing else does.
    whole = UNWRITTEN | dict(request)
    claim.check({key: value for key, value in whole.items() if key != "pictures_sha256"})
    claim.check(whole)


def check_writable(path: Path | str) -> None:
    """Raise PermissionError where a folder can be neither made nor written; a complete one may.

    Nothing is left behind.
    """
    folder = Path(path)
    if (folder / MANIFEST_NAME).exists():
        return
    try:
        storage.check_writable(storage.nearest(folder))
    except (PermissionError, NotADirectoryError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise PermissionError(
            f"{path} must be a folder that can be written; got: "
            f"{str(cause.strerror or cause).rstrip('.')}. Give another one."
        ) from error


def _claim(path: Path | str) -> Claim:
    folder = storage.open_folder(path)
    if not isinstance(folder, storage.LocalFolder):
        raise ValueError(f"images are written into a folder of this machine; got {path}.")

    def request_of(manifest: Any) -> Mapping[str, Any]:
        if isinstance(manifest, Mapping) and isinstance(manifest.get("request"), Mapping):
            return _BEFORE | manifest["request"]
        raise _unexplained(folder, MANIFEST_NAME)

    return Claim(
        folder=folder,
        request_of=request_of,
        partial_request_of=request_of,
        matches=_matches,
        scratch=_SCRATCH,
    )


def _matches(key: str, present: Any, requested: Any) -> bool:
    """Return whether two values are the same; of weights the digest counts, not the folder."""
    if key == "checkpoint":
        present, requested = (str(one).rpartition(" sha256:")[2] for one in (present, requested))
    return same(present, requested)


def _unexplained(folder: Any, name: str) -> ValueError:
    return ValueError(
        f"{folder} holds {name}, and nothing there says how it was sampled. Name another folder."
    )


def _read_manifest(folder: storage.LocalFolder, name: str) -> dict[str, Any]:
    """Return a manifest, {} where there is none; Damaged where it is something else."""
    if not folder.exists(name):
        return {}
    return folder.read_json(name, _MANIFEST)


def _listed(manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of a manifest, those inside of its folder."""
    names = [entry["file"] for entry in manifest.get("images", [])]
    names += manifest.get("files", [GRID])
    return [n for n in names if not PurePosixPath(n).is_absolute() and ".." not in n.split("/")]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_whole(name: str, data: bytes) -> bool:
    """Return whether a file that has no digest yet can be read to its end."""
    if not name.endswith(".png"):
        return True
    if not data.endswith(_END_OF_PNG):
        return False
    try:
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()
    except (OSError, SyntaxError, ValueError, struct.error):
        return False
    return True


def _clear(folder: storage.LocalFolder) -> None:
    """Remove what an earlier request made, its manifests first."""
    names = []
    for manifest in (MANIFEST_NAME, PARTIAL_NAME):
        names += _listed(_read_manifest(folder, manifest) or {"files": []})
        folder.remove(manifest)
    for name in names:
        folder.remove(name)
