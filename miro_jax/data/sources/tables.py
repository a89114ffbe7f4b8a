"""Tables of images and captions that users bring: CSV, TSV, JSONL or parquet, read row by row.

A table names an image in each row and may give its caption. Text is UTF-8, with or without a byte
order mark; a field of CSV or TSV that holds the separator, a quote or a line break stands in
quotes, and quotes inside are doubled. A table that breaks these rules is refused as a whole, with
the line: a quote that is never closed would else swallow the rest of it. A `.json` file is the
manifest that sample writes: its rows are the objects of the list `images`.
"""

import codecs
import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import pyarrow
from pyarrow import parquet

from miro_jax.data.sources import reading

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".json")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image", "image_path", "key")
CAPTION_COLUMNS = ("caption", "text", "txt", "prompt", "captions")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ROWS_AT_A_TIME = 4096  # of parquet
csv.field_size_limit(1 << 24)  # characters; a text that is no caption is for `texts` to tell


@dataclasses.dataclass(frozen=True)
class Row:
    """One row. line: where it ends in the file, or its number. path, caption: as written."""

    line: int
    path: str
    caption: str | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that was read once and found sound; see `open_table`.

    path: of the file. path_column, caption_column: names; the latter may be None. count: rows.
    sha256: of the file.
    """

    path: str
    path_column: str
    caption_column: str | None
    count: int
    sha256: str

    @property
    def facts(self) -> dict[str, str | int]:
        """What a request says of the table; see `storage.claim`."""
        return {"name": os.path.basename(self.path), "rows": self.count, "digest": self.sha256}

    def rows(self) -> Iterator[Row]:
        """Read the rows in order; see `open_table` for what this raises."""
        yield from _rows(self.path, self.path_column, self.caption_column)


def ending(path: str | os.PathLike) -> str:
    """Return what follows the last dot of a file's name, with the dot and in small letters."""
    return os.path.splitext(os.fspath(path))[1].lower()


def is_table(path: str | os.PathLike) -> bool:
    """Tell by the ending whether a path names a table."""
    return ending(path) in ENDINGS


def open_table(
    path: str | os.PathLike, path_column: str | None = None, caption_column: str | None = None
) -> Table:
    """Read a table once from end to end, to know that every row can be read.

    Args:
      path: a file that ends in one of ENDINGS.
      path_column, caption_column: names; None takes the first of PATH_COLUMNS, CAPTION_COLUMNS
        that the table has, in capitals or not.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another ending, no such column, a damaged row, or no row at all.
    """
    path = os.fspath(path)
    if not reading.is_file(path):
        raise FileNotFoundError(f"{path} must be a table with paths and captions; there is none.")
    if not is_table(path):
        raise ValueError(f"A table must end in one of {', '.join(ENDINGS)}; got {path}.")
    columns = _columns(path)
    path_column = choose_column(path, columns, path_column, PATH_COLUMNS, "path")
    if path_column is None:
        raise ValueError(
            f"{path} must have a column of paths named one of {', '.join(PATH_COLUMNS)}; it has "
            f"{', '.join(map(repr, columns)) or 'none'}. Give one of them such a name."
        )
    caption_column = choose_column(path, columns, caption_column, CAPTION_COLUMNS, "caption")
    count = sum(1 for _ in _rows(path, path_column, caption_column))
    if not count:
        raise ValueError(f"{path} must have at least one row; it has none.")
    return Table(path, path_column, caption_column, count, sha256(path))


def sha256(path: str) -> str:
    """Return the digest of a whole file."""
    with reading.open_read(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def choose_column(
    path: str, columns: Sequence[str], asked: str | None, usual: Sequence[str], kind: str
) -> str | None:
    """Return the requested column, else the first usual one that is there, else None.

    Raises:
      ValueError: the requested one is not there.
    """
    if asked is not None:
        if asked not in columns:
            raise ValueError(
                f"The requested {kind} column must be one of {path}, which has "
                f"{', '.join(map(repr, columns))}; got {asked!r}."
            )
        return asked
    known = {name.strip().lower(): name for name in reversed(columns)}
    return next((known[name] for name in usual if name in known), None)


def _columns(path: str) -> list[str]:
    """Return the names of the columns; of JSONL those of the first line."""
    kind = ending(path)
    if kind == ".parquet":
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    if kind in (".jsonl", ".json"):
        return list(next(_objects(path), (0, {}))[1])
    line, header = next(records(path, _SEPARATORS[kind]), (0, []))
    if len(set(header)) < len(header):
        raise damaged(path, line, f"must name each column once; got {', '.join(header)}")
    return header


def _rows(path: str, path_column: str, caption_column: str | None) -> Iterator[Row]:
    kind = ending(path)
    if kind == ".parquet":
        rows = _parquet_objects(path, [c for c in (path_column, caption_column) if c])
    elif kind in (".jsonl", ".json"):
        rows = _objects(path)
    else:
        rows = _named(path, _SEPARATORS[kind])
    for line, values in rows:
        name = values.get(path_column)
        caption = None if caption_column is None else values.get(caption_column)
        for column, value in ((path_column, name), (caption_column, caption)):
            if value is not None and not isinstance(value, str):
                kind = type(value).__name__
                raise damaged(path, line, f"{column!r} must hold text; got {kind}")
        yield Row(line, name or "", caption)


def damaged(path: str, line: int, reason: object) -> ValueError:
    """Return the error that names a line of a table."""
    return ValueError(f"{path}, line {line}: {reason}. Mend the table.")


def records(path: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of a CSV or TSV file, its header first; empty lines are left out.

    Raises:
      ValueError: a line breaks the rules above.
    """
    line = 1
    try:
        with reading.open_read(path) as file:
            # Not the file's own text mode: that of remote files ends lines in ways of its own.
            reader = csv.reader(_lines(file), delimiter=separator, strict=True)
            for fields in reader:
                line = reader.line_num + 1
                if fields:
                    yield reader.line_num, fields
    except (csv.Error, UnicodeDecodeError) as error:
        reason = f"{error}; text must be UTF-8, with special fields in quotes and quotes doubled"
        raise damaged(path, line, reason) from error


def _lines(file) -> Iterator[str]:
    """Yield the lines of a file of UTF-8 with their ends."""
    for number, line in enumerate(file):
        yield (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).decode("utf-8")


def _named(path: str, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    rows = records(path, separator)
    _, header = next(rows, (0, []))
    for line, fields in rows:
        if len(fields) != len(header):
            raise damaged(path, line, f"must have {len(header)} fields; got {len(fields)}")
        yield line, dict(zip(header, fields, strict=True))


def _objects(path: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, object) of a JSONL file, blank lines dropped, or of a manifest of sample."""
    line = 0
    if ending(path) == ".json":
        yield from _images(path)
        return
    try:
        with reading.open_read(path) as file:
            for line, text in enumerate(_lines(file), start=1):
                if not text.strip():
                    continue
                values = json.loads(text)
                if not isinstance(values, dict):
                    raise ValueError(f"must be an object; got {type(values).__name__}")
                yield line, values
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise damaged(path, line, error) from error


def _images(path: str) -> Iterator[tuple[int, dict]]:
    try:
        with reading.open_read(path) as file:
            images = json.load(file)["images"]
        if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
            raise TypeError("its `images` are no list of objects")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} must be the manifest.json of a folder that sample wrote: {error!r}. Give a "
            f"table that ends in one of {', '.join(ENDINGS[:-1])}."
        ) from error
    yield from enumerate(images, start=1)


def _parquet(path: str) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(reading.open_anywhere(path) if reading.is_remote(path) else path)
    except (pyarrow.ArrowException, OSError) as error:
        if reading.is_of_the_storage(error):
            raise
        raise ValueError(f"{path} is no parquet file: {error}. Make it again.") from error


def _parquet_objects(path: str, columns: list[str]) -> Iterator[tuple[int, dict]]:
    line = 0
    try:
        with _parquet(path) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns):
                for values in batch.to_pylist():
                    line += 1
                    yield line, values
    except (pyarrow.ArrowException, OSError) as error:
        if reading.is_of_the_storage(error):
            raise
        raise damaged(path, line, error) from error
