"""What is scored, as one stream of entries: a folder of pictures, a table of paths, or any source.

An entry is one picture, not read yet. A *cursor* says where the stream goes on after an entry, so
that a run which was killed begins again there without reading what is done.

    folder    every picture below it, by path, listed one folder at a time
    table     one entry a row, in the table's order; paths from the table's folder. A picture may
              stand in many rows, so that several captions of it are judged
    source    tar shards and whatever else `miro_jax.sources` knows, piece by piece
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from miro_jax import sources
from miro_jax.images import BadImage
from miro_jax.sources import listing, reading, texts
from miro_jax.sources.captions import TextIndex, readable
from miro_jax.sources.tables import Table

Cursor = tuple[int, int]  # piece, entries of it that are done
START: Cursor = (0, 0)
_OF_CAPTIONS = ("missing caption", "unreadable caption", "caption too long", "ambiguous caption")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One picture on its way.

    key: names it, as text. read: returns the bytes of its file; for threads. caption: or None.
    after: cursor of the entry that follows. problem, detail: why it cannot be used, or "". share:
    of all input that is behind with this one, in [0, 1], where `count` is not known. num_bytes:
    what it holds until it is read.
    """

    key: str
    read: Callable[[], bytes]
    caption: str | None
    after: Cursor
    problem: str = ""
    detail: str = ""
    share: float = 0.0
    num_bytes: int = 0


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

    def entries(self, cursor: Cursor, captions: TextIndex | None) -> Iterator[Entry]:
        """Yield entries in order, from a cursor on, with captions of the index if there is one."""
        ...


class FolderSource:
    """The pictures below a folder, with captions from KEY.txt or KEY.json beside KEY.jpg.

    Args:
        folder: where they are.
        captions: the table that gives captions in their place, or None.

    Raises:
        ValueError: there is no picture.
        OSError: a folder cannot be read.
    """

    may_have_captions = True

    def __init__(self, folder: str, captions: Table | None):
        self._folder, self._captions = folder, captions
        digest, self.count = hashlib.sha256(), 0
        for name, *beside in self._pictures():
            digest.update(b"\0".join([os.fsencode(name), *(str(x).encode() for x in beside)]))
            self.count += 1
        if not self.count:
            raise ValueError(
                f"{folder} must hold pictures ({', '.join(sources.IMAGE_EXTENSIONS)}); it holds "
                "none. For tar shards give tar:PATTERN."
            )
        self.description = {"kind": "folder", "count": self.count, "names": digest.hexdigest()}

    def entries(self, cursor: Cursor, captions: TextIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        for number, (name, txt, meta) in enumerate(self._pictures()):
            if number < cursor[1]:
                continue
            path, found = os.path.join(self._folder, name), texts.Texts()
            if captions is None:
                found = _beside(os.path.splitext(path)[0], txt, meta)
            caption, problem, detail = _caption(
                found.caption, found.problem, found.detail, captions, self._names(name)
            )
            read = functools.partial(reading.read_file, path)
            yield Entry(readable(name), read, caption, (0, number + 1), problem, detail)

    def _pictures(self) -> Iterator[tuple[str, bool, bool]]:
        """Yield the path inside the folder, and whether a .txt and a .json stand beside it."""
        for prefix, files in listing.walk(self._folder):
            names = {file.path for file in files}
            for file in files:
                stem, _, ending = file.path.rpartition(".")
                if stem and ending.lower() in sources.IMAGE_EXTENSIONS:
                    yield prefix + file.path, f"{stem}.txt" in names, f"{stem}.json" in names

    def _names(self, name: str) -> Iterator[str]:
        """Yield what a table may call a picture, the likeliest first."""
        path = os.path.abspath(os.path.join(self._folder, name))
        yield name
        yield os.path.splitext(name)[0]
        yield path
        yield os.path.relpath(path, reading.parent(self._captions.path))


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

    def entries(self, cursor: Cursor, captions: TextIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        folder = reading.parent(self._table.path)
        for number, row in enumerate(self._table.rows()):
            if number < cursor[1]:
                continue
            problem = "" if row.path and texts.encodable(row.path) else "missing path"
            caption, problem, detail = _caption(row.caption, problem, "", captions, [row.path])
            key = readable(row.path or f"line {row.line}")
            read = functools.partial(reading.read_file, reading.join(folder, row.path))
            yield Entry(key, read, caption, (0, number + 1), problem, detail)


class PieceSource:
    """The samples of a source of `miro_jax.sources`, such as tar shards; a key is SHARD/KEY.

    Args:
        specs: texts of sources, whose pieces follow each other.

    Raises:
        ValueError: a text is none of a source, or two pieces have one name.
        OSError: something is not there.
    """

    may_have_captions = True

    def __init__(self, specs: Iterable[str]):
        opened = [sources.open_source(spec) for spec in specs]
        self._pieces = [piece for source in opened for piece in source.pieces]
        seen: set[str] = set()
        for piece in self._pieces:
            if piece.id in seen:
                raise ValueError(f"Pieces must differ in name; two are called {piece.id}.")
            seen.add(piece.id)
        counts = [piece.count for piece in self._pieces]
        self.count = None if None in counts else sum(counts)
        self._sizes = [piece.num_bytes or 1 for piece in self._pieces]
        digest = hashlib.sha256()
        for piece in self._pieces:
            digest.update(f"{piece.id}\0{piece.fingerprint()}\n".encode())
        self.description = {
            "kind": "pieces",
            "facts": [source.facts for source in opened],
            "pieces": digest.hexdigest(),
        }

    def entries(self, cursor: Cursor, captions: TextIndex | None) -> Iterator[Entry]:
        """See `Source`."""
        for number in range(cursor[0], len(self._pieces)):
            yield from self._piece(number, cursor[1] if number == cursor[0] else 0, captions)

    def _piece(self, number: int, done: int, captions: TextIndex | None) -> Iterator[Entry]:
        behind, whole = sum(self._sizes[:number]), sum(self._sizes)
        inside = 0
        for position, sample in enumerate(self._pieces[number].samples(), start=1):
            inside += len(sample.image) if isinstance(sample.image, bytes) else 0
            if position <= done:
                continue
            names = [*sample.names, sample.key]
            found = _caption(sample.caption, sample.problem, sample.detail, captions, names)
            share = (behind + min(inside, self._sizes[number])) / whole
            held = len(sample.image) if isinstance(sample.image, bytes) else 0
            read = dataclasses.replace(sample, meta={}).read
            after = (number, position)
            yield Entry(sample.key, read, found[0], after, *found[1:], share, held)


def _beside(stem: str, txt: bool, meta: bool) -> texts.Texts:
    """Read the texts that stand beside a picture."""
    try:
        contents = [
            reading.read_file(stem + ending) if there else None
            for ending, there in ((".txt", txt), (".json", meta))
        ]
    except BadImage as error:
        return texts.Texts(problem="unreadable caption", detail=str(error))
    return texts.interpret(*contents)


def _caption(
    caption: str | None,
    problem: str,
    detail: str,
    captions: TextIndex | None,
    names: Iterable[str],
) -> tuple[str | None, str, str]:
    """Return the caption to be judged, the problem of the entry and its detail.

    That a caption is missing is no problem here: some rewards need none.
    """
    if captions is not None:
        found = captions.find(names)
        caption = found.texts[0] if found else None
    if problem in _OF_CAPTIONS and (captions is not None or problem == "missing caption"):
        problem = detail = ""
    if caption is None or problem:
        return None, problem, detail
    problem, detail = texts.check(caption)
    if problem:
        return None, "" if problem == "missing caption" else problem, detail
    return texts.clean(caption).strip(), "", ""
