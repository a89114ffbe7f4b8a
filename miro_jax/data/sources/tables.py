"""Tables of images and captions that users bring: CSV, TSV, JSONL or parquet, read row by row.

A table names an image in each row and may give its caption. Text is UTF-8, with or without a byte
order mark; a field of CSV or TSV that holds the separator, a quote or a line break stands in
quotes, and quotes inside are doubled. A table that breaks these rules is refused as a whole, with
the line: a quote that is never closed would else swallow the rest of it. The columns of JSONL are
the keys of all its lines. A `.json` file is JSONL or one of `json_tables`. A `.csv` whose header
has no comma may have tabs or semicolons between its fields. Tables of text may be packed by gzip,
with `.gz` behind their ending.
Of several captions in a field the first counts, see `texts`; of several columns of captions the
first that has text in a row, unless one is requested.
"""

import codecs
import contextlib
import csv
import dataclasses
import functools
import gzip
import hashlib
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from miro_jax.data.json_file import is_json_lines, parse_json
from miro_jax.data.near import near_path
from miro_jax.data.sources import arrow, reading
from miro_jax.data.sources.foreign import name_foreign
from miro_jax.data.sources.json_tables import CAPTION_COLUMNS, PATH_COLUMNS, rows_of
from miro_jax.data.sources.texts import first_text, first_with_text

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".jsonlines", ".ldjson", ".parquet", ".json")
_PACKED = ".gz"
MOST_BYTES = 1 << 30  # of a JSON file, which is read as a whole
_LONGEST_LINE = 1 << 26  # bytes
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_OTHERS = ("\t", ";")  # of a .csv whose header has no comma
_ROWS_AT_A_TIME = 4096  # of parquet
csv.field_size_limit(1 << 24)  # characters; a text that is no caption is for `texts` to refuse


@dataclasses.dataclass(frozen=True)
class Row:
    """One row. line: where it ends in the file, or its number. path, caption: as written."""

    line: int
    path: str
    caption: str | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that was read once and is sound; see `open_table`.

    path: of the file. path_column, caption_columns: names; of the latter the first that has text
    in a row counts, and there may be none. count: rows. sha256: of the file.
    """

    path: str
    path_column: str
    caption_columns: tuple[str, ...]
    count: int
    sha256: str

    @property
    def caption_column(self) -> str | None:
        """The column of captions, the first where there are several."""
        return self.caption_columns[0] if self.caption_columns else None

    @property
    def facts(self) -> dict[str, str | int]:
        """What a request says of the table; see `storage.claim`."""
        return {"name": os.path.basename(self.path), "rows": self.count, "digest": self.sha256}

    def rows(self) -> Iterator[Row]:
        """Read the rows in order; see `open_table` for what this raises."""
        yield from _rows(self.path, self.path_column, self.caption_columns)


def ending(path: str | os.PathLike) -> str:
    """Return what follows the last dot of a file's name, `.gz` aside, in small letters."""
    return os.path.splitext(os.fspath(path).lower().removesuffix(_PACKED))[1]


def is_table(path: str | os.PathLike) -> bool:
    """Tell by the ending whether a path names a table."""
    return ending(path) in ENDINGS


def open_table(
    path: str | os.PathLike, path_column: str | None = None, caption_column: str | None = None
) -> Table:
    """Read a table once from end to end, to know that every row can be read.

    Args:
      path: a file that ends in one of ENDINGS.
      path_column, caption_column: names; None takes the first of PATH_COLUMNS and all of
        CAPTION_COLUMNS that the table has, in capitals or not.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another ending, no such column, a damaged row, or no row at all.
    """
    path = os.fspath(path)
    if not reading.is_file(path):
        what = "it is a folder." if os.path.isdir(path) else f"there is none{near_path(path)}"
        raise FileNotFoundError(f"{path} must be a table with paths and captions; {what}")
    if not is_table(path):
        raise ValueError(f"A table must end in one of {', '.join(ENDINGS)}; got {path}.")
    columns = _columns(path)
    path_column = choose_column(path, columns, path_column, PATH_COLUMNS, "path")
    if path_column is None:
        raise ValueError(
            f"{path} must have a column of paths named one of {', '.join(PATH_COLUMNS)}; it has "
            f"{', '.join(map(repr, columns)) or 'none'}. Give one of them such a name."
        )
    if caption_column is not None:
        captions = [choose_column(path, columns, caption_column, (), "caption")]
    else:
        captions = usual_columns(columns, CAPTION_COLUMNS)
    chosen = tuple(filter(None, captions))
    count = sum(1 for _ in _rows(path, path_column, chosen))
    if not count:
        raise ValueError(f"{path} must have at least one row; it has none.")
    return Table(path, path_column, chosen, count, sha256(path))


def sha256(path: str) -> str:
    """Return the digest of a whole file."""
    with reading.open_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def choose_column(
    path: str, columns: Collection[str], requested: str | None, usual: Iterable[str], kind: str
) -> str | None:
    """Return the requested column, else the first usual one that is there, else None.

    Raises:
      ValueError: the requested one is not there.
    """
    if requested is not None:
        if requested not in columns:
            raise ValueError(
                f"The requested {kind} column must be one of {path}, which has "
                f"{', '.join(map(repr, columns))}; got {requested!r}."
            )
        return requested
    return next(iter(usual_columns(columns, usual)), None)


def usual_columns(columns: Collection[str], usual: Iterable[str]) -> list[str]:
    """Return the columns that have one of the usual names, in capitals or not, in their order."""
    return [name for one in usual for name in columns if name.strip().lower() == one]


def _columns(path: str) -> list[str]:
    """Return the names of the columns, those of JSON from all its rows."""
    kind = ending(path)
    if kind == ".parquet":
        with arrow.open_parquet(path) as file:
            return list(file.schema_arrow.names)
    if kind not in _SEPARATORS:
        return list(dict.fromkeys(name for _, values in _objects(path) for name in values))
    line, header = next(records(path, _separator(path)), (0, []))
    if len(set(header)) < len(header):
        raise damaged(path, line, f"must name each column once; got {', '.join(header)}")
    return header


def _rows(path: str, path_column: str, captions: Sequence[str]) -> Iterator[Row]:
    kind = ending(path)
    if kind == ".parquet":
        rows = _parquet_objects(path, list(dict.fromkeys((path_column, *captions))))
    else:
        rows = _named(path, _separator(path)) if kind in _SEPARATORS else _objects(path)
    for line, values in rows:
        try:
            name = _text(path, line, path_column, values, str)
        except ValueError as error:
            if kind != ".parquet" or not isinstance(values[path_column], (bytes, dict)):
                raise
            raise ValueError(
                f"{path} must name images in its column {path_column!r}; it holds the images "
                f"themselves. To read these, give table:{path}?image={path_column}"
            ) from error
        kinds = (str, list, dict)
        texts = [first_text(_text(path, line, column, values, kinds)) for column in captions[:1]]
        for column in captions[1:] if texts and not (texts[0] or "").strip() else ():
            value = values.get(column)
            texts.append(first_text(value) if isinstance(value, (bytes, *kinds)) else None)
        yield Row(line, name or "", first_with_text(texts))


def _text(path: str, line: int, column: str, values: dict, kinds: Any) -> Any:
    """Return a field of a row, checked."""
    value = values.get(column)
    value = value.decode() if isinstance(value, bytes) else value
    value = None if value != value else value  # pandas writes NaN where a text is missing
    if value is not None and not isinstance(value, kinds):
        raise damaged(path, line, f"{column!r} must hold text; got {type(value).__name__}")
    return value


def _separator(path: str) -> str:
    """Return what stands between the fields of a table of text."""
    usual, header = _SEPARATORS[ending(path)], next(_lines(path), "")
    if usual == "," and "," not in header:
        return next((other for other in _OTHERS if other in header), usual)
    return usual


def damaged(path: str, line: int, reason: object) -> ValueError:
    """Return the error that names a line of a table."""
    return ValueError(f"{path}, line {line}: {reason}. Mend the table.")


def records(path: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of a CSV or TSV file, its header first; empty lines are dropped.

    Raises:
      ValueError: a line breaks the rules above.
    """
    line = 1
    try:
        reader = csv.reader(_lines(path), delimiter=separator, strict=True)
        for fields in reader:
            line = reader.line_num + 1
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        reason = f"{error}; special fields stand in quotes, and quotes in them are doubled"
        raise damaged(path, line, reason) from error


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a file of UTF-8 with their ends; ValueError where it is none of text."""
    # Not the file's own text mode: that of remote files ends lines in ways of its own.
    with _opened(path) as file:
        lines = iter(functools.partial(file.readline, _LONGEST_LINE), b"")
        for number, line in enumerate(lines, start=1):
            if number == 1 and (other := name_foreign(line)):
                raise ValueError(f"{path} is {other}.")
            if len(line) == _LONGEST_LINE:
                raise damaged(path, number, f"must have less than {_LONGEST_LINE:,} bytes")
            try:
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError as error:
                reason = "it is UTF-16" if number == 1 and line.startswith(_UTF16) else error
                raise damaged(path, number, f"{reason}; text must be UTF-8") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a table of text, unpacked; ValueError where it cannot be unpacked to its end."""
    with reading.open_read(path) as file:
        if not path.lower().endswith(_PACKED):
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, unpacked)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no gzip or cut short: {error}. Make it again.") from error


def _named(path: str, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    rows = records(path, separator)
    _, header = next(rows, (0, []))
    for line, fields in rows:
        if len(fields) != len(header):
            raise damaged(path, line, f"must have {len(header)} fields; got {len(fields)}")
        yield line, dict(zip(header, fields, strict=True))


def _objects(path: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, object) of a JSONL file, blank lines dropped, or (number, object) of JSON."""
    if ending(path) == ".json" and not is_json_lines(*_first_two(path)):
        yield from enumerate(_listed(path), start=1)
        return
    for line, text in enumerate(_lines(path), start=1):
        if text.strip():
            yield line, parse_json(text, f"{path}, line {line}", {}, finite=False)


def _first_two(path: str) -> list[str]:
    with _opened(path) as file:  # a file of JSON may be one line, and as long as it likes
        lines = [file.readline(_LONGEST_LINE) for _ in range(2)]
    return [line.decode("utf-8-sig", "replace") for line in lines]


def _listed(path: str) -> list[dict]:
    """Return the objects of a JSON file."""
    with _opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} must hold at most {MOST_BYTES:,} bytes; give it as JSONL.")
    if other := name_foreign(content):
        raise ValueError(f"{path} is {other}.")
    # An image whose name stands twice has two captions.
    content = parse_json(content, path, finite=False, doubles=False)
    try:
        return rows_of(content, path)
    except (ValueError, LookupError, TypeError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(
            f"{path} must be the manifest.json of a folder that sample wrote, a list or COCO's "
            f"captions: {reason}. Give a table that ends in one of {', '.join(ENDINGS[:-1])}."
        ) from error


def _parquet_objects(path: str, columns: list[str]) -> Iterator[tuple[int, dict]]:
    line = 0
    try:
        with arrow.open_parquet(path) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns):
                for values in arrow.rows(batch):
                    line += 1
                    yield line, values
    except ValueError as error:
        raise damaged(path, line, error) from error
