"""What is scored: a folder of pictures, a table of paths, or tar shards, as one stream of entries.

An entry is one picture, not read yet. A *cursor* says where the stream goes on after an entry, so
that a run which was killed begins again there without reading what is done.

    folder    every picture below it, by path; captions from KEY.txt beside KEY.jpg
    table     one entry a row, in the table's order; paths from the table's folder
    tar       shards as img2dataset writes them, one after the other, see `miro_jax.sources`

Files and folders whose name begins with a dot are passed over, links to folders are not followed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from miro_jax import sources
from miro_jax.images import BadImage
from miro_jax.score.captions import CaptionIndex, readable, readable_caption
from miro_jax.score.tables import Table

MAX_FILE_BYTES = 1 << 29

Cursor = tuple[int, int]  # piece, entries of it that are done
START: Cursor = (0, 0)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One picture on its way.

    key: names it, as text. read: returns the bytes of its file; for threads. caption: or None.
    after: cursor of the entry that follows. share: of all input that is behind with this one, in
    [0, 1], where `count` is not known. problem, detail: why it cannot be used, or "".
    """

    key: str
    read: Callable[[], bytes]
    caption: str | None
    after: Cursor
    share: float = 0.0
    problem: str = ""
    detail: str = ""


class Source(Protocol):
    """A stream of entries.

    Attributes:
        description: JSON values that differ where the entries do.
        count: entries in all, or None.
        may_have_captions: False where no entry can have one.
    """

    description: dict
    count: int | None
    may_have_captions: bool

    def entries(self, cursor: Cursor, captions: CaptionIndex | None) -> Iterator[Entry]:
        """Yield entries in order, from a cursor on, with captions of the index if there is one."""
        ...


class FolderSource:
    """The pictures below a folder.

    Args:
        folder: where they are.
        captions: the table that gives captions in place of the files beside the pictures, or None.

    Raises:
        ValueError: there is no picture.
        OSError: a folder cannot be read.
    """

    may_have_captions = True

    def __init__(self, folder: Path, captions: Table | None):
        self._folder, self._table = folder, captions
        digest, self.count = hashlib.sha256(), 0
        for name in _walk(folder):
            digest.update(os.fsencode(name) + b"\0")
            self.count += 1
        if not self.count:
            raise ValueError(
                f"{folder} must hold pictures ({', '.join(sources.IMAGE_EXTENSIONS)}); it holds "
                "none. For tar shards give tar:PATTERN."
            )
        self.description = {"kind": "folder", "count": self.count, "names": digest.hexdigest()}

    def entries(self, cursor: Cursor, captions: CaptionIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        for number, name in enumerate(_walk(self._folder)):
            if number < cursor[1]:
                continue
            path = self._folder / name
            caption, problem = None, ""
            if captions is not None:
                caption = captions.find(self._names(name))
            else:
                caption, problem = _beside(path)
            reader = _file_reader(path)
            yield Entry(readable(name), reader, caption, (0, number + 1), problem=problem)

    def _names(self, name: str) -> Iterator[str]:
        """Yield what a table may call a picture, the likeliest first."""
        path = (self._folder / name).absolute()
        yield name
        yield os.path.splitext(name)[0]
        yield str(path)
        yield os.path.relpath(path, self._table.path.absolute().parent)


class TableSource:
    """The pictures that the rows of a table name.

    Args:
        table: of paths, from its own folder where they are not absolute.
        captions: another table that gives the captions, or None.
    """

    def __init__(self, table: Table, captions: Table | None):
        self._table, self.count = table, table.count
        self.may_have_captions = bool(captions or table.caption_column)
        columns = [table.path_column, table.caption_column]
        self.description = {"kind": "table", "sha256": table.sha256, "columns": columns}

    def entries(self, cursor: Cursor, captions: CaptionIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        folder = self._table.path.parent
        for number, row in enumerate(self._table.rows()):
            if number < cursor[1]:
                continue
            caption = row.caption
            if captions is not None:
                caption = captions.find([row.path])
            if caption is not None:
                caption = readable_caption(caption)
            problem = "" if row.path else "missing path"
            name = readable(row.path or f"line {row.line}")
            reader = _file_reader(folder / row.path)
            yield Entry(name, reader, caption, (0, number + 1), problem=problem)


class TarSource:
    """The samples of tar shards; a key is SHARD/KEY.

    Args:
        paths: of the shards.
        captions: a table that gives captions, by SHARD/KEY or KEY, in place of those inside.

    Raises:
        FileNotFoundError: no such file.
    """

    may_have_captions = True
    count = None

    def __init__(self, paths: Sequence[str], captions: Table | None):
        self._paths = list(paths)
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
        self._names = [readable(os.path.relpath(os.path.abspath(p), folder)) for p in paths]
        self._sizes = [os.path.getsize(path) for path in paths]
        pieces = [
            [n, sources.fingerprint(p)] for n, p in zip(self._names, self._paths, strict=True)
        ]
        self.description = {"kind": "tar", "pieces": pieces}

    def entries(self, cursor: Cursor, captions: CaptionIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        for piece in range(cursor[0], len(self._paths)):
            yield from self._piece(piece, cursor[1] if piece == cursor[0] else 0, captions)

    def _piece(self, piece: int, done: int, captions: CaptionIndex | None) -> Iterator[Entry]:
        name, seen, number = self._names[piece], set(), 0
        behind, whole = sum(self._sizes[:piece]), max(sum(self._sizes), 1)
        read, end = 0, behind + self._sizes[piece]
        try:
            for sample in sources.tar_samples(self._paths[piece]):
                number += 1
                problem = sample.problem or ("duplicate key" if sample.key in seen else "")
                seen.add(sample.key)
                read += len(sample.image or b"")
                if number <= done:
                    continue
                key = readable(f"{name}/{sample.key}")
                caption = sample.caption
                if captions is not None:
                    caption = captions.find([key, sample.key])
                if caption is not None:
                    caption = readable_caption(caption)
                yield Entry(
                    key,
                    _given(sample.image),
                    caption,
                    (piece, number),
                    share=min(behind + read, end) / whole,
                    problem=problem or ("" if sample.image is not None else "missing image"),
                )
        except sources.DamagedTar as damage:
            yield Entry(
                name,
                _given(b""),
                None,
                (piece + 1, 0),
                share=end / whole,
                problem="damaged tar",
                detail=f"at byte {damage.offset}: {damage.reason}",
            )


def _walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the pictures below a folder, sorted, one folder in memory at a time."""

    def stop(error: OSError):
        raise error

    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder)
        for name in sorted(names):
            ending = name.rpartition(".")[2].lower()
            if ending in sources.IMAGE_EXTENSIONS and not name.startswith("."):
                yield name if inside == "." else f"{inside}/{name}"


def _beside(path: Path) -> tuple[str | None, str]:
    """Read the caption beside a picture; return it and the problem there is, or ""."""
    try:
        return path.with_suffix(".txt").read_text("utf-8-sig"), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, UnicodeDecodeError):
        return None, "unreadable caption"


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            facts = path.stat()
            if stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_FILE_BYTES:
                return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadImage("missing image") from error
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise BadImage("unreadable file", str(error).partition(":")[0]) from error
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe might never end
            raise BadImage("not a file")
        raise BadImage("too large", f"a file of {facts.st_size} bytes")

    return read


def _given(data: bytes | None) -> Callable[[], bytes]:
    return lambda: data or b""
