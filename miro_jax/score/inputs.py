"""What is scored, as one stream of entries: a folder of pictures, a table of paths, or any source.

An entry is one picture, not read yet. A *cursor* says where the stream goes on after an entry, so
that a run which was killed begins again there without reading what is done.

    folder    every picture below it, by path, listed one folder at a time
    table     one entry a row, in the table's order; paths from the table's folder. A picture may
              stand in many rows, so that several captions of it are judged
    source    tar shards and whatever else `miro_jax.data.sources` knows, piece by piece
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from miro_jax.data import sources
from miro_jax.data.sources import Sample, Tables, complete, folder, reading
from miro_jax.data.sources import texts as words
from miro_jax.data.sources.tables import Row, Table

Cursor = tuple[int, int]  # piece, entries of it that are done
START: Cursor = (0, 0)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sample on its way.

    after: cursor of the entry that follows. share: of all input that is behind with this one, in
    [0, 1], where `count` is not known.
    """

    sample: Sample
    after: Cursor
    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where captions come from. tables: None: from where the pictures are. needed: by a reward."""

    tables: Tables | None
    needed: bool


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

    def entries(self, cursor: Cursor, texts: Texts) -> Iterator[Entry]:
        """Yield entries in order, from a cursor on."""
        ...


class FolderSource:
    """The pictures below a folder, with captions from KEY.txt or KEY.json beside KEY.jpg.

    Unlike the pieces of a source it holds no list of all pictures.

    Args:
        place: the folder.

    Raises:
        FileNotFoundError: there is no picture.
        OSError: a folder cannot be read.
    """

    may_have_captions = True

    def __init__(self, place: str):
        self._place = place
        digest, self.count = hashlib.sha256(), 0
        for picture in folder.list_pictures(place):
            digest.update(folder.facts_of(picture))
            self.count += 1
        if not self.count:
            raise folder.no_pictures(place)
        self.description = {"kind": "folder", "count": self.count, "names": digest.hexdigest()}

    def entries(self, cursor: Cursor, texts: Texts) -> Iterator[Entry]:
        """See `Source`."""
        for number, picture in enumerate(folder.list_pictures(self._place)):
            if number >= cursor[1]:
                sample = folder.make_sample(self._place, picture)
                sample = complete(sample, texts.tables or Tables(), texts.needed)
                yield Entry(sample, (0, number + 1))


class TableSource:
    """The pictures that the rows of a table name.

    Args:
        table: of paths, from its own folder where they are not absolute.
        has_captions: whether another table gives the captions.
    """

    def __init__(self, table: Table, has_captions: bool):
        self._table, self.count = table, table.count
        self.may_have_captions = has_captions or table.caption_column is not None
        columns = [table.path_column, table.caption_column]
        self.description = {"kind": "table", "sha256": table.sha256, "columns": columns}

    def entries(self, cursor: Cursor, texts: Texts) -> Iterator[Entry]:
        """See `Source`."""
        for number, row in enumerate(self._table.rows()):
            if number >= cursor[1]:
                sample = complete(self._sample(row), texts.tables or Tables(), texts.needed)
                yield Entry(sample, (0, number + 1))

    def _sample(self, row: Row) -> Sample:
        path = reading.join(reading.parent(self._table.path), row.path)
        is_path = bool(row.path) and words.encodable(row.path)
        return Sample(
            key=reading.readable(row.path or f"line {row.line}"),
            image=functools.partial(reading.read_file, path),
            caption=row.caption,
            synthetic={},
            meta={},
            problem="" if is_path else "missing image",
            detail="" if is_path else f"line {row.line} of the table names none",
            names=(row.path,),
        )


class PieceSource:
    """The samples of a source of `miro_jax.data.sources`, such as tar shards; a key is SHARD/KEY.

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

    def entries(self, cursor: Cursor, texts: Texts) -> Iterator[Entry]:
        """See `Source`."""
        for number in range(cursor[0], len(self._pieces)):
            yield from self._piece(number, cursor[1] if number == cursor[0] else 0, texts)

    def _piece(self, number: int, done: int, texts: Texts) -> Iterator[Entry]:
        behind, whole = sum(self._sizes[:number]), sum(self._sizes)
        piece, inside = self._pieces[number], 0
        if texts.tables is not None:
            tables = dataclasses.replace(piece.tables, captions=texts.tables.captions)
            piece = dataclasses.replace(piece, tables=tables)
        for position, sample in enumerate(piece.samples(texts.needed), start=1):
            inside += sample.num_bytes
            if position > done:
                share = (behind + min(inside, self._sizes[number])) / whole
                yield Entry(sample, (number, position), share)
