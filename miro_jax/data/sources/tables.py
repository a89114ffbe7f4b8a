"""Tables of images and captions that users bring: CSV, TSV, JSONL or parquet, read row by row.

A table names an image in each row and may give its caption. Text is UTF-8, with or without a byte
order mark; a field of CSV or TSV that holds the separator, a quote or a line break stands in
quotes, and quotes inside are doubled. A table that breaks these rules is refused as a whole, with
the line: a quote that is never closed would else swallow the rest of it. The columns of JSONL are
the keys of all its lines. A `.json` file is a list of objects; the manifest that sample writes,
whose rows are the objects of its list `images`; such a list with `annotations` as COCO has them; or
JSONL; or an object of names and their captions. A `.csv` whose header has no comma may have tabs or
semicolons between its fields.
Of several captions in a field the first counts, see `texts`.
"""

import codecs
import csv
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator

from miro_jax.data.json_file import check_fields, is_json_lines, parse_json
from miro_jax.data.sources import arrow, reading
from miro_jax.data.sources.foreign import name_foreign
from miro_jax.data.sources.texts import CAPTION_FIELDS, first_text

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image", "image_path", "filepath", "key")
CAPTION_COLUMNS = (*CAPTION_FIELDS, "title")  # as filepath and title of open_clip's tables
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
        what = "it is a folder" if os.path.isdir(path) else "there is none"
        raise FileNotFoundError(f"{path} must be a table with paths and captions; {what}.")
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
    known = {name.strip().lower(): name for name in reversed(list(columns))}
    return next((known[name] for name in usual if name in known), None)


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


def _rows(path: str, path_column: str, caption_column: str | None) -> Iterator[Row]:
    kind = ending(path)
    if kind == ".parquet":
        rows = _parquet_objects(path, [c for c in (path_column, caption_column) if c])
    else:
        rows = _named(path, _separator(path)) if kind in _SEPARATORS else _objects(path)
    for line, values in rows:
        texts = []
        for column, kinds in ((path_column, str), (caption_column, (str, list, dict))):
            value = values.get(column or "")
            value = value.decode() if isinstance(value, bytes) else value
            value = None if value != value else value  # pandas writes NaN where a text is missing
            if value is not None and not isinstance(value, kinds):
                kind = type(value).__name__
                raise damaged(path, line, f"{column!r} must hold text; got {kind}")
            texts.append(value)
        yield Row(line, texts[0] or "", first_text(texts[1]))


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
    with reading.open_read(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and (other := name_foreign(line)):
                raise ValueError(f"{path} is {other}.")
            try:
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError as error:
                raise damaged(path, number, f"{error}; text must be UTF-8") from error


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
    lines = itertools.chain(_lines(path), ("", ""))
    return list(itertools.islice(lines, 2))


def _listed(path: str) -> list[dict]:
    """Return the objects of a JSON file."""
    with reading.open_read(path) as file:
        content = file.read()
    if other := name_foreign(content):
        raise ValueError(f"{path} is {other}.")
    content = parse_json(content, path, finite=False)
    try:
        if _names_texts(content):
            return [{"path": name, "caption": text} for name, text in content.items()]
        check_fields(content, ([{}], {"images": [{}], "annotations?": [{}]}), path)
        if isinstance(content, list):
            return content
        images, said = content["images"], {}
        for one in content.get("annotations", ()):  # as COCO's captions
            said.setdefault(one["image_id"], one.get("caption"))
        return [image | {"caption": said.get(image["id"])} if said else image for image in images]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} must be the manifest.json of a folder that sample wrote, a list or COCO's "
            f"captions: {error!r}. Give a table that ends in one of {', '.join(ENDINGS[:-1])}."
        ) from error


def _names_texts(content: object) -> bool:
    """Return whether JSON is an object of names of images and their texts, or lists of texts."""
    if not isinstance(content, dict) or not content:
        return False
    listed = [text if isinstance(text, list) else [text] for text in content.values()]
    texts = all(one and all(isinstance(text, str) and text for text in one) for one in listed)
    return texts and not content.keys() & {*PATH_COLUMNS, *CAPTION_COLUMNS, "images"}


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
