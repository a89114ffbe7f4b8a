"""Files here and in object stores, read only: open, list, measure, fingerprint.

A path with a scheme (`gs://bucket/a.tar`, `s3://...`, `memory://...`) goes through fsspec, which
needs the package of that store (gcsfs, s3fs); any other path is a local file, opened directly.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import fsspec

_FINGERPRINT_BYTES = 1 << 16
_REMOTE_BLOCK_BYTES = 1 << 24  # read ahead: a request costs as much time as some megabytes
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class File(NamedTuple):
    """A file that was listed. size: bytes, or -1 for a link that leads nowhere."""

    path: str
    size: int


def is_remote(path: str) -> bool:
    """Tell whether a path has a scheme."""
    return "://" in path


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
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


def open_read(path: str) -> BinaryIO:
    """Open a file for reading bytes, from its beginning on."""
    if not is_remote(path):
        return open(path, "rb")
    system, inside = filesystem(path)
    return system.open(inside, "rb", block_size=_REMOTE_BLOCK_BYTES)


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
    """Tell whether there is a file of this name."""
    if not is_remote(path):
        return os.path.isfile(path)
    system, inside = filesystem(path)
    return system.isfile(inside)


def join(folder: str, name: str) -> str:
    """Return the path of a name inside a folder; an absolute name stays what it is."""
    if is_remote(name):
        return name
    return posixpath.join(folder, name) if is_remote(folder) else os.path.join(folder, name)


def parent(path: str) -> str:
    """Return the folder that holds a path."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(os.path.abspath(path))


def relative(path: str, folder: str) -> str:
    """Return a path as seen from a folder that holds it."""
    if is_remote(path):
        return path.removeprefix(folder.rstrip("/") + "/")
    return os.path.relpath(path, folder)


def fingerprint(path: str) -> str:
    """Return a short digest of a file's size, beginning and end: cheap, to notice a changed file.

    Raises:
        FileNotFoundError: no such file.
    """
    size = size_of(path)
    digest = hashlib.sha256(str(size).encode())
    for offset in (0, max(0, size - _FINGERPRINT_BYTES)):
        digest.update(_part(path, offset, _FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]


def _part(path: str, offset: int, length: int) -> bytes:
    if is_remote(path):
        system, inside = filesystem(path)
        return system.cat_file(inside, offset, offset + length)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def expand(pattern: str) -> list[str]:
    """Write out the braces of a pattern: {00..02} is 00, 01, 02 and {a,b} is a, b.

    Raises:
        ValueError: a range that runs backwards.
    """
    parts = _BRACES.split(pattern)  # text, braces, text, braces, ..., text
    choices = [[part] if i % 2 == 0 else _choices(part, pattern) for i, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",")
    first, last = match.groups()
    if int(first) > int(last):
        raise ValueError(f"A range must run upwards; got {{{inside}}} in {pattern!r}.")
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def fixed_folder(pattern: str) -> str:
    """Return the folder that all matches of a pattern lie in, whatever they are."""
    head = re.split(r"[*?\[{]", pattern, maxsplit=1)[0]
    return parent(head + "x")


def match_files(pattern: str) -> list[File]:
    """Find the files of a pattern with braces, *, ?, [...] and ** (any depth), sorted.

    Raises:
        FileNotFoundError: nothing matches, or a file that braces name is not there.
    """
    found: dict[str, int] = {}
    for plain in expand(pattern):
        files = _glob(plain)
        if not files:
            raise FileNotFoundError(
                f"{plain!r} must match at least one file; it matches none."
                + (f" It is one of {pattern!r}." if plain != pattern else "")
            )
        found.update(files)
    return [File(path, size) for path, size in sorted(found.items())]


def _glob(pattern: str) -> dict[str, int]:
    if is_remote(pattern):
        system, inside = filesystem(pattern)
        entries = system.glob(inside, detail=True)
        return {
            system.unstrip_protocol(path): facts["size"]
            for path, facts in entries.items()
            if facts["type"] == "file"
        }
    if not glob.has_magic(pattern):
        return {pattern: os.path.getsize(pattern)} if os.path.isfile(pattern) else {}
    paths = glob.iglob(pattern, recursive=True)
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}


def walk(folder: str) -> Iterator[tuple[str, list[File]]]:
    """List a folder and all below it, in order, one folder at a time.

    Names that begin with a dot are passed over, links to folders are not followed.

    Yields:
        (path of a folder inside `folder`, "" or ending in "/"; its files by name, sorted).

    Raises:
        FileNotFoundError: no such folder.
    """
    if not is_remote(folder):
        yield from _walk(folder, "")
        return
    system, inside = filesystem(folder)
    if not system.isdir(inside):
        raise FileNotFoundError(f"{folder} must be a folder; there is none.")
    entries = system.find(inside, detail=True).items()
    sizes = {path[len(inside) :].lstrip("/"): facts["size"] for path, facts in entries}
    places = [(name.split("/")[:-1], name) for name in sizes]
    places = [p for p in sorted(places) if not any(x.startswith(".") for x in p[1].split("/"))]
    for place, group in itertools.groupby(places, key=lambda pair: pair[0]):
        prefix = "".join(part + "/" for part in place)
        yield prefix, [File(name[len(prefix) :], sizes[name]) for _, name in group]


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, list[File]]]:
    files, folders = [], []
    with os.scandir(os.path.join(folder, prefix)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif not (entry.is_symlink() and entry.is_dir()):
                files.append(File(entry.name, _size(entry)))
    yield prefix, sorted(files)
    for name in sorted(folders):
        yield from _walk(folder, f"{prefix}{name}/")


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # the picture's own reading will say what is wrong
        return -1


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
