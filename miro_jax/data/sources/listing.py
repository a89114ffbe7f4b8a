"""Which files a source is made of: patterns and folders, here and in object stores."""

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from miro_jax.data.sources import reading

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class File(NamedTuple):
    """A file that was listed. size: bytes, or -1 where a name leads nowhere."""

    path: str
    size: int


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
    return reading.parent(head + "x")


def match_files(pattern: str) -> list[File]:
    """Find the files of a pattern with braces, *, ?, [...] and ** (any depth), sorted.

    Braces stand for themselves where that finds a file.

    Raises:
      FileNotFoundError: nothing matches, or a file that braces name is not there, or a match is
        a link to nothing.
    """
    found: dict[str, int] = {}
    literally = _glob(pattern) if "{" in pattern else {}  # braces may be part of a name
    for plain in [pattern] if literally else expand(pattern):
        files = _glob(plain)
        if not files:
            hint = f" It is one of {pattern!r}." if plain != pattern else ""
            if not reading.is_remote(plain) and os.path.isdir(plain):
                hint = f" It is a folder: add a pattern of its files, as {plain.rstrip('/')}/*."
            raise FileNotFoundError(
                f"{plain!r} must match at least one file; it matches none.{hint}"
            )
        found.update(files)
    return [File(path, size) for path, size in sorted(found.items())]


def _glob(pattern: str) -> dict[str, int]:
    if reading.is_remote(pattern):
        system, inside = reading.filesystem(pattern)
        folder = fixed_folder(pattern)
        _, root = reading.filesystem(folder)
        found = system.glob(inside, detail=True).items()
        sizes = {path: facts["size"] for path, facts in found if facts["type"] == "file"}
        # The address as it was given: file systems write theirs in ways of their own.
        return {reading.join(folder, path[len(root) :].lstrip("/")): s for path, s in sizes.items()}
    if os.path.isfile(pattern):  # brackets may be part of a name
        return {pattern: os.path.getsize(pattern)}
    sizes = {}
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isfile(path):
            sizes[path] = os.path.getsize(path)
        elif not os.path.exists(path):  # a disk that is not mounted must not make a smaller set
            raise FileNotFoundError(f"{path} is a link to nothing. Mend or delete it.")
    return sizes


def size_now(path: str) -> int:
    """Return the size of a file as a listing would have it now."""
    try:
        return reading.size_of(path)
    except FileNotFoundError:
        return -1
    except OSError:
        if reading.is_remote(path):
            raise
        return -1  # as `_facts` has it


def walk(folder: str) -> Iterator[tuple[str, list[File]]]:
    """List a folder and all below it, in order, one folder at a time.

    Names that begin with a dot are passed over, links to folders are not followed.

    Yields:
      (path of a folder inside `folder`, "" or ending in "/"; its files by name, sorted).

    Raises:
      FileNotFoundError, NotADirectoryError: no such folder.
    """
    if not reading.is_remote(folder):
        if not os.path.isdir(folder):
            is_file = os.path.exists(folder)
            raise (NotADirectoryError if is_file else FileNotFoundError)(
                f"{folder} must be a folder; {'it is a file' if is_file else 'there is none'}."
            )
        yield from _walk(folder)
        return
    system, inside = reading.filesystem(folder)
    if not system.isdir(inside):
        raise FileNotFoundError(f"{folder} must be a folder; there is none.")
    entries = system.find(inside, detail=True).items()
    sizes = {path[len(inside) :].lstrip("/"): facts["size"] for path, facts in entries}
    places = [(name.split("/")[:-1], name) for name in sizes]
    places = [p for p in sorted(places) if not any(x.startswith(".") for x in p[1].split("/"))]
    for place, group in itertools.groupby(places, key=lambda pair: pair[0]):
        prefix = "".join(part + "/" for part in place)
        yield prefix, [File(name[len(prefix) :], sizes[name]) for _, name in group]


def _walk(folder: str) -> Iterator[tuple[str, list[File]]]:
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        files, folders = [], []
        with os.scandir(os.path.join(folder, prefix)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                    continue
                size, is_folder = _facts(entry)
                if not is_folder:
                    files.append(File(entry.name, size))
        yield prefix, sorted(files)
        waiting += [f"{prefix}{name}/" for name in sorted(folders, reverse=True)]


def _facts(entry: os.DirEntry) -> tuple[int, bool]:
    """Return the size of what a name leads to, and whether that is a folder."""
    try:
        facts = entry.stat()
    except OSError:  # the image's own reading will say what is wrong
        return -1, False
    return facts.st_size, stat.S_ISDIR(facts.st_mode)
