"""Which files a source is made of: patterns and folders, here and in object stores."""

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from miro_jax.data.sources import reading
from miro_jax.data.sources.reading import is_remote

_RANGE = re.compile(
    r"([-+]?\d+)\.\.([-+]?\d+)(?:\.\.(-?\d+))?|([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d+))?"
)
_MAX_NAMES = 10_000_000  # that braces may stand for


class File(NamedTuple):
    """A file that was listed. size: bytes, or -1 where a name leads nowhere."""

    path: str
    size: int


def expand(pattern: str) -> list[str]:
    """Write out the braces of a pattern as bash does.

    {00..02} is 00, 01, 02, as wide as the wider end; {0..10..5} has steps, {c..a} runs backwards;
    {a,b{1,2}} is a, b1, b2. Braces that hold neither a range nor a comma stand for themselves, as
    do those that are not closed.

    Raises:
      ValueError: braces that stand for more than ten million names.
    """
    words = [""]
    for part in _choices(pattern):
        if len(words) * len(part) > _MAX_NAMES:
            raise ValueError(f"{pattern!r} must stand for at most {_MAX_NAMES} names.")
        words = [word + choice for word in words for choice in part]
    return words


def _choices(pattern: str) -> Iterator[Sequence[str]]:
    """Part a pattern: yield texts that follow each other, braces as what they stand for."""
    plain, at = 0, 0
    while (at := pattern.find("{", at)) >= 0:
        depth, start, inside = 1, at + 1, []
        for end in range(at + 1, len(pattern)):
            depth += {"{": 1, "}": -1}.get(pattern[end], 0)
            if depth == 0 or (depth == 1 and pattern[end] == ","):
                inside.append(pattern[start:end])
                start = end + 1
            if depth == 0:
                break
        match = _RANGE.fullmatch(inside[0]) if len(inside) == 1 and depth == 0 else None
        if depth or (len(inside) == 1 and not match):  # what stands in them may still be braces
            at += 1
            continue
        yield [pattern[plain:at]]
        yield _range(*match.groups()) if match else [w for word in inside for w in expand(word)]
        plain = at = end + 1
    yield [pattern[plain:]]


def _range(first, last, step, letter, last_letter, letter_step) -> Sequence[str]:
    is_letter = letter is not None
    begin, end = (ord(letter), ord(last_letter)) if is_letter else (int(first), int(last))
    stride = abs(int(step or letter_step or 1)) or 1
    numbers = range(begin, end + 1, stride) if begin <= end else range(begin, end - 1, -stride)
    if len(numbers) > _MAX_NAMES:
        raise ValueError(f"{{{first}..{last}}} must stand for at most {_MAX_NAMES} names.")
    if is_letter:
        return [chr(number) for number in numbers]
    is_padded = any(re.match(r"-?0\d", text) for text in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    return [f"{number:0{width}d}" for number in numbers]


def split_list(pattern: str) -> list[str]:
    """Part a list of patterns with `::` between; a chain such as simplecache::gs://... is one."""
    parts = []
    for part in reversed(pattern.split("::")):
        if parts and re.fullmatch(r"[a-z]\w*", part) and is_remote(parts[0]):
            parts[0] = f"{part}::{parts[0]}"
        else:
            parts.insert(0, part)
    return parts


def fixed_folder(pattern: str) -> str:
    """Return the folder that all matches of a pattern lie in, whatever they are.

    Raises:
      ValueError: a list names files here and in stores.
    """
    heads = (re.split(r"[*?\[{]", part, maxsplit=1)[0] for part in split_list(pattern))
    folders = list(dict.fromkeys(reading.parent(head + "x") for head in heads))
    if len(folders) == 1:
        return folders[0]
    if len(set(map(is_remote, folders))) > 1:
        raise ValueError(f"{pattern!r} must name files of one storage; it names several.")
    if is_remote(folders[0]):
        return os.path.commonprefix([f"{folder}/" for folder in folders]).rpartition("/")[0]
    return os.path.commonpath(folders)


def match_files(pattern: str) -> list[File]:
    """Find the files of patterns with braces, *, ?, [...] and ** (any depth), sorted.

    Patterns follow each other with `::` between. Braces stand for themselves where that finds a
    file. A file is listed once, and has its place in the order, however its path is written.

    Raises:
      FileNotFoundError: nothing matches, or a file that braces name is not there, or a match is
        a link to nothing.
    """
    matches: dict[str, File] = {}
    for part in split_list(pattern):
        literally = _glob(part) if "{" in part else {}  # braces may be part of a name
        for plain in [part] if literally else expand(part):
            files = _glob(plain) or _glob(re.sub(r"\{([^{},]*)\}", r"\1", plain))  # of one name
            if not files:
                hint = f" It is one of {pattern!r}." if plain != pattern else ""
                if reading.is_folder(plain):
                    hint = f" It is a folder: add a pattern of its files, as {plain.rstrip('/')}/*."
                raise FileNotFoundError(
                    f"{plain!r} must match at least one file; it matches none.{hint}"
                )
            for path, size in files.items():
                matches.setdefault(reading.absolute(path), File(path, size))
    return [matches[path] for path in sorted(matches)]


def _glob(pattern: str) -> dict[str, int]:
    if is_remote(pattern):
        system, inside = reading.filesystem(pattern)
        folder = fixed_folder(pattern)
        _, root = reading.filesystem(folder)
        inside = re.sub(r"(?<=[^/])\*\*|\*\*(?=[^/])", "*", inside)  # as here, `**` in a name is *
        with reading.answered(pattern):
            matches = system.glob(inside, detail=True).items()
        sizes = {p[len(root) :].lstrip("/"): f["size"] for p, f in matches if f["type"] == "file"}
        if "/." not in f"/{inside[len(root) :]}":  # as here, hidden names only on request
            sizes = {path: size for path, size in sizes.items() if "/." not in f"/{path}"}
        if not sizes and not system.exists(root):
            reading.is_file(folder)  # raises where the store gives no answer
        # The address as it was given: file systems write theirs in ways of their own.
        return {reading.join(folder, path): size for path, size in sizes.items()}
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
        if is_remote(path):
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
    if not is_remote(folder):
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
    # As here: all files of a folder before those below it, or texts would lose their images.
    steps = sorted((name.split("/") for name in sizes), key=lambda p: ([*p[:-1], ""], p[-1]))
    shown = [path for path in steps if not any(step.startswith(".") for step in path)]
    for folders, group in itertools.groupby(shown, key=lambda path: path[:-1]):
        prefix = "".join(step + "/" for step in folders)
        yield prefix, [File(path[-1], sizes["/".join(path)]) for path in group]


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
