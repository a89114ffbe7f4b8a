"""Captions by the names of images, on disk: a table of ten million captions fits no memory.

A table may name an image by its path inside the source, with or without the ending, or by its
whole path. A table of synthetic captions has no header and the columns file, short, long; it may
name an image by as many of the last folders of its path as it likes, or by more than there are.
"""

import dataclasses
import itertools
import json
import os
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from miro_jax.data.sources import reading
from miro_jax.data.sources.tables import Table, damaged, records
from miro_jax.data.sources.texts import clean


@dataclasses.dataclass(frozen=True)
class Match:
    """The texts that a table has for an image. clash: where it has others."""

    texts: tuple[str | None, ...]
    clash: str


class TextIndex:
    """Finds texts by name; any thread may ask. Lies in a temporary file that has no name.

    Args:
      path: of the table, for messages.
      rows: (name, texts, line) of every row.

    Raises:
      OSError: it cannot be written there.
    """

    def __init__(self, path: str, rows: Iterable[tuple[str, tuple[str | None, ...], int]]):
        self._path, self._lock = path, threading.Lock()
        try:
            self._write(rows)
        except sqlite3.Error as error:
            raise OSError(
                f"The folder for temporary files must have room for an index of {path}, "
                f"about twice what its texts take; got: {error}. Make room, or name another in "
                "SQLITE_TMPDIR (else it is TMPDIR, else /var/tmp)."
            ) from error

    def _write(self, rows: Iterable[tuple[str, tuple[str | None, ...], int]]) -> None:
        # "" is a temporary database; the system deletes it with the process, however that ends.
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("CREATE TABLE texts (name TEXT, texts TEXT, line INT)")
        self._base.execute("BEGIN")
        self._base.executemany(
            "INSERT INTO texts VALUES (?, ?, ?)",
            ((normal(name), json.dumps(texts), line) for name, texts, line in rows),
        )
        self._base.execute("CREATE INDEX by_name ON texts (name)")  # sorting beats inserting
        self._base.execute("COMMIT")

    def find(self, names: Sequence[str]) -> Match | None:
        """Return the texts under the longest of several names that the table has.

        A short one, as the key in a shard, may be that of other images, too. A whole path is also
        looked up as seen from the folder of the table.
        """
        matches = (self._select("name = ?", name) for name in self._spellings(names))
        return next(filter(None, matches), None)

    def unused(self, images: Iterable[Sequence[str]]) -> tuple[int, str]:
        """Return how many names of the table are those of no image, and the first of these.

        Args:
          images: the names of each, as for `find`.
        """
        found = (next(filter(self._has, self._spellings(names)), None) for names in images)
        with self._lock:
            self._base.execute("CREATE TEMP TABLE used (name TEXT PRIMARY KEY)")
        for name in filter(None, found):
            with self._lock:
                self._base.execute("INSERT OR IGNORE INTO used VALUES (?)", (name,))
        query = "FROM texts WHERE name NOT IN (SELECT name FROM used)"
        with self._lock:
            (count,) = self._base.execute(f"SELECT count(DISTINCT name) {query}").fetchone()
            first = self._base.execute(f"SELECT name {query} ORDER BY line LIMIT 1").fetchone()
            self._base.execute("DROP TABLE used")
        return count, first[0] if first else ""

    def _has(self, name: str) -> bool:
        return self._select("name = ?", name) is not None

    def _spellings(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the names that may stand in the table, in the order in which they count."""
        yield from map(normal, sorted(names, key=len, reverse=True))
        here = reading.parent(self._path)
        yield from (normal(os.path.relpath(name, here)) for name in names if os.path.isabs(name))
        below = (name for name in names if reading.is_remote(name) and name.startswith(f"{here}/"))
        yield from (normal(reading.relative(name, here)) for name in below)

    def _select(self, condition: str, *values: str) -> Match | None:
        """Return what the rows of a condition say."""
        query = f"SELECT texts, line FROM texts WHERE {condition} ORDER BY line"
        with self._lock:
            rows = self._base.execute(query, values).fetchall()
        if not rows:
            return None
        first, line = rows[0]
        other = next((row[1] for row in rows if row[0] != first), None)
        clash = f"lines {line} and {other} of {self._path}" if other else ""
        return Match(tuple(json.loads(first)), clash)

    def describe_missing(self) -> str:
        """Say that an image is not in the table, with a name that is."""
        return f"{self._path} has no row for it; its first is for {self.first_name!r}"

    @property
    def first_name(self) -> str:
        """A name that the table has."""
        with self._lock:
            row = self._base.execute("SELECT name FROM texts ORDER BY rowid LIMIT 1").fetchone()
        return self._shown(row[0])

    def _shown(self, name: str) -> str:
        return name

    def first_clash(self) -> tuple[str, int, int] | None:
        """Return the first name that has two different texts, and the two lines."""
        query = (
            "SELECT name, min(line), texts FROM texts GROUP BY name "
            "HAVING count(DISTINCT texts) > 1 ORDER BY 2 LIMIT 1"
        )
        with self._lock:
            if row := self._base.execute(query).fetchone():
                name, line, first = row
                query = "SELECT min(line) FROM texts WHERE name = ? AND texts <> ?"
                return name, line, self._base.execute(query, (name, first)).fetchone()[0]
        return None

    def close(self) -> None:
        """Delete the index."""
        self._base.close()


class EndIndex(TextIndex):
    """Finds texts by the end of a path, without the ending of its file.

    A row `cats/1.jpg` is for `cats/1.jpg` and `train/cats/1.png`, not for `dogs/1.jpg`; and for
    `1.jpg`, unless it has a row of its own: archives often hold no folders. Of several rows the
    longest counts.
    """

    def __init__(self, path: str, rows: Iterable[tuple[str, tuple[str | None, ...], int]]):
        super().__init__(path, ((_backwards(name), texts, line) for name, texts, line in rows))

    def find(self, names: Sequence[str]) -> Match | None:
        """Return the texts of an image by the first of its names."""
        parts = _backwards(names[0]).split("/")
        for count in range(len(parts), 0, -1):
            if match := self._select("name = ?", "/".join(parts[:count])):
                return match
        whole = "/".join(parts)
        return self._select("name >= ? AND name < ?", f"{whole}/", f"{whole}0")  # 0 is behind /

    def _shown(self, name: str) -> str:
        return "/".join(reversed(name.split("/")))


def _backwards(name: str) -> str:
    """Return the parts of a path from its end on, without the ending of the file."""
    parts = os.path.splitext(normal(name))[0].split("/")
    return "/".join(filter(None, reversed(parts)))


def index_captions(table: Table) -> TextIndex:
    """Index a table by its column of paths; the texts are (caption,)."""
    return TextIndex(table.path, ((row.path, (row.caption,), row.line) for row in table.rows()))


def index_synthetic(path: str) -> EndIndex:
    """Index a table of synthetic captions; the texts are (short, long), None if empty.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line without a name or a caption, or not written by the rules of `tables`.
    """
    if not reading.is_file(path):
        raise FileNotFoundError(
            f"{path} must be a table of synthetic captions: file, short, long; there is none."
        )
    rows = _synthetic_rows(path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{path} must hold at least one synthetic caption; it is empty.")
    return EndIndex(path, itertools.chain([first], rows))


def _synthetic_rows(path: str) -> Iterator[tuple[str, tuple[str | None, ...], int]]:
    for line, fields in records(path, "\t"):
        if len(fields) < 2 or not stem(fields[0]):
            raise damaged(path, line, f"must be file, short, long with tabs between; got {fields}")
        if any("\t" in field and "\n" in field for field in fields):
            raise damaged(path, line, "a quote that is not closed has swallowed the line before")
        short, long = (text if clean(text).strip() else None for text in (fields[1], fields[-1]))
        yield fields[0], (short, long), line


def stem(name: str) -> str:
    """Return a file's name without its folders and its last ending."""
    return os.path.splitext(name.rpartition("/")[2])[0]


def normal(name: str) -> str:
    """Return the one form that equal paths have: forward slashes, no `./`, composed letters."""
    plain = reading.readable(name).removeprefix("file://").replace("\\", "/")
    return unicodedata.normalize("NFC", os.path.normpath(plain))
