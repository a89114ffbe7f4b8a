"""Captions by the names of pictures, on disk: a table of ten million captions fits no memory.

The table may name a picture by its path inside the folder that is scored, with or without the
ending, by its absolute path, or by its path from the table's own folder.
"""

import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from miro_jax.score.tables import Table


def readable(name: str) -> str:
    """Return a file's name as text that UTF-8 can hold, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def normal(name: str) -> str:
    """Return the one form that equal paths have: no `./`, forward slashes, composed letters."""
    return unicodedata.normalize("NFC", os.path.normpath(readable(name)).replace("\\", "/"))


class CaptionIndex:
    """Finds the captions of a table; to be used by the thread that made it.

    Args:
        table: has a column of captions.
        path: of the index file, made anew. `close` deletes it.

    Raises:
        ValueError: the table names one picture twice, with different captions.
    """

    def __init__(self, table: Table, path: Path):
        self._path = path
        path.unlink(missing_ok=True)
        self._base = sqlite3.connect(path, isolation_level=None)
        # It is made anew at each start, so it need not survive anything.
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute(
            "CREATE TABLE captions (name TEXT PRIMARY KEY, caption TEXT, line INT, other INT) "
            "WITHOUT ROWID"
        )
        self._base.execute("BEGIN")
        self._base.executemany(
            "INSERT INTO captions VALUES (?, ?, ?, NULL) ON CONFLICT (name) "
            "DO UPDATE SET other = excluded.line WHERE caption IS NOT excluded.caption",
            _rows(table),
        )
        self._base.execute("COMMIT")
        query = "SELECT name, line, other FROM captions WHERE other IS NOT NULL ORDER BY line"
        if clash := self._base.execute(query).fetchone():
            self.close()
            raise ValueError(
                f"{table.path} must give a picture one caption; it gives {clash[0]!r} two, in "
                f"lines {clash[1]} and {clash[2]}. Score the table itself to judge every row of it."
            )

    def find(self, names: Iterable[str]) -> str | None:
        """Return the caption of the first of several names of a picture that the table has."""
        for name in names:
            query = "SELECT caption FROM captions WHERE name = ?"
            if found := self._base.execute(query, (normal(name),)).fetchone():
                return found[0]
        return None

    def close(self) -> None:
        """Delete the index."""
        self._base.close()
        self._path.unlink(missing_ok=True)


def _rows(table: Table) -> Iterator[tuple[str, str | None, int]]:
    for row in table.rows():
        caption = None if row.caption is None else readable_caption(row.caption)
        yield normal(row.path), caption, row.line


def readable_caption(text: str) -> str:
    """Return a caption that UTF-8 can hold: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
