"""Parquet tables with images inside, or with paths to them, as Hugging Face datasets are stored.

A column of images is a struct of `bytes` and `path`, or bytes, or paths from the table's folder.
The caption and its synthetic forms are columns by the names that `texts` knows; other plain values
become the sample's meta. A piece is whole row groups of one file, as many as fit.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow
from pyarrow import parquet, types

from miro_jax.data.sources import listing, reading, tables
from miro_jax.data.sources.sample import Piece, Sample, Tables, damage
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.texts import LONG_FIELD, SHORT_FIELDS, decode_row

ROWS_PER_PIECE = 1000
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "jpeg", "img", "image_bytes", "picture", "bytes")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image_path")
NAME_COLUMNS = ("__key__", "key", *PATH_COLUMNS, "id")
_BYTES, _PATH = ("image", "bytes"), ("image", "path")  # no column is named by a tuple
_ROWS_AT_A_TIME = 16  # an image may have megabytes
_BUFFER_BYTES = 1 << 20  # of a column
_REMOTE_BUFFER_BYTES = 1 << 23  # a request costs as much time as some megabytes
_NUM_FOOTERS_AT_A_TIME = 16  # remote ones wait for the network


def list_groups(spec: Spec, tables: Tables) -> list[Piece]:
    """Return the pieces of the tables that a pattern names.

    A file that is no parquet is a piece too, with its damage for a sample.

    Raises:
      FileNotFoundError: the pattern matches nothing.
      ValueError: no file can be read, or none has a column of images.
    """
    length = spec.number("per_piece", ROWS_PER_PIECE)
    folder = listing.fixed_folder(spec.place)
    listed = listing.match_files(spec.place)
    with ThreadPoolExecutor(_NUM_FOOTERS_AT_A_TIME) as pool:
        footers = list(pool.map(functools.partial(_footer, spec=spec), [f.path for f in listed]))
    if all(isinstance(footer, str) for footer in footers):
        raise ValueError(f"{spec.place} must be parquet tables with images: {footers[0]}")
    pieces = []
    for file, footer in zip(listed, footers, strict=True):
        name = reading.readable(reading.relative(file.path, folder))
        if isinstance(footer, str):
            lost = functools.partial(_damaged, name, footer)
            sign = functools.partial(reading.fingerprint, file.path)
            pieces.append(Piece(len(pieces), name, None, file.size, lost, sign, tables))
            continue
        first_row = 0
        for first, last, rows, num_bytes in _runs(footer.metadata, length):
            piece_id = f"{name}#{first:05d}"
            span = (first_row, first_row + rows)
            arguments = (file.path, name, piece_id, first, last, span)
            read = functools.partial(_samples, *arguments, spec=spec)
            sign = functools.partial(_sign, file.path, first, last)
            piece = Piece(len(pieces), piece_id, rows, num_bytes, read, sign, tables)
            pieces.append(dataclasses.replace(piece, has_captions=footer.has_captions))
            first_row += rows
    return pieces


def _damaged(piece_id: str, reason: str) -> Iterator[Sample]:
    yield damage(piece_id, "damaged table", reason)


def _sign(path: str, first: int, last: int) -> str:
    text = f"{reading.fingerprint(path)} {first} {last}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _open(path: str) -> Iterator[parquet.ParquetFile]:
    # Streaming the columns keeps a row group of gigabytes out of memory.
    remote = reading.is_remote(path)
    size = _REMOTE_BUFFER_BYTES if remote else _BUFFER_BYTES
    # pyarrow opens no name that is not UTF-8.
    with (
        reading.open_anywhere(path) if remote else open(path, "rb") as file,
        parquet.ParquetFile(
            file, buffer_size=size, pre_buffer=False, page_checksum_verification=True
        ) as table,
    ):
        yield table


class _Footer(NamedTuple):
    """What a file says of itself. has_captions: whether it has a column of them."""

    metadata: parquet.FileMetaData
    has_captions: bool


def _footer(path: str, spec: Spec) -> _Footer | str:
    """Return what a file says of itself, or why it is of no use."""
    try:
        with _open(path) as file:
            has_captions = _columns(path, file.schema_arrow, spec).caption is not None
            footer = file.metadata
        groups = sum(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
        if groups != footer.num_rows:
            return f"its {footer.num_rows} rows are not the {groups} of its row groups"
        return _Footer(footer, has_captions)
    except (pyarrow.ArrowException, ValueError) as error:
        return str(error)
    except OSError as error:  # pyarrow says so of damaged files as well
        if reading.is_of_the_storage(error):
            raise
        return str(error)


class _Columns(NamedTuple):
    """Which columns are what: of the images, of the captions, and name -> field of synthetic."""

    image: str
    caption: str | None
    synthetic: dict[str, str]


def _columns(path: str, schema: pyarrow.Schema, spec: Spec) -> _Columns:
    """Choose the columns of a table.

    Raises:
      ValueError: there is none of images, or not the requested one, or one of captions does not
        hold text.
    """
    kinds = {field.name: field.type for field in schema}
    inside = [name for name, kind in kinds.items() if _is_struct(kind) or _is_bytes(kind)]
    possible = inside + [name for name, kind in kinds.items() if _is_text(kind)]
    asked = spec.options.get("image")
    image = tables.choose_column(path, possible, asked, (), "image")
    image = image or tables.choose_column(path, inside, None, IMAGE_COLUMNS, "image")
    structs = [name for name in inside if _is_struct(kinds[name])]
    if image is None and len(structs) == 1:
        image = structs[0]
    usual = IMAGE_COLUMNS + PATH_COLUMNS
    image = image or tables.choose_column(path, possible, None, usual, "image")
    if image is None:
        raise ValueError(
            f"{path} has no column of images named one of {', '.join(usual)}; it has "
            f"{', '.join(kinds)}. Name it with ?image=COLUMN."
        )
    others = {name: kind for name, kind in kinds.items() if name != image}
    caption = _words_column(path, others, spec.options.get("caption"), tables.CAPTION_COLUMNS)
    others.pop(caption, None)
    synthetic = {
        column: field
        for field in (LONG_FIELD, *SHORT_FIELDS)
        if (column := _words_column(path, others, None, (field,)))
    }
    return _Columns(image, caption, synthetic)


def _words_column(path, kinds, asked, usual) -> str | None:
    """Choose a column of text; ValueError where one of these names holds something else."""
    words = [name for name, kind in kinds.items() if _is_words(kind)]
    found = tables.choose_column(path, words if asked is None else kinds, asked, usual, "caption")
    other = found or tables.choose_column(path, kinds, None, usual, "caption")
    if other is not None and other not in words:
        raise ValueError(
            f"{path}, column {other!r} must hold text, or lists of texts; it holds "
            f"{kinds[other]}. Give it another type or another name."
        )
    return found


def _is_struct(kind: pyarrow.DataType) -> bool:
    """Return whether a type is that of Hugging Face's images."""
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    path = kind.get_field_index("path")
    return _is_bytes(kind.field("bytes").type) and (path < 0 or _is_text(kind.field(path).type))


def _is_bytes(kind: pyarrow.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pyarrow.DataType) -> bool:
    if types.is_dictionary(kind):  # of few different ones
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_texts(kind: pyarrow.DataType) -> bool:
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and _is_text(kind.value_type)


def _is_words(kind: pyarrow.DataType) -> bool:
    """Return whether a type can hold captions; bytes are read as UTF-8."""
    return _is_text(kind) or _is_texts(kind) or _is_bytes(kind)


def _is_number(kind: pyarrow.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _runs(footer: parquet.FileMetaData, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Part a file into runs of whole row groups: yield (first, behind the last, rows, bytes)."""
    first, rows, num_bytes = 0, 0, 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if rows and rows + group.num_rows > length:
            yield first, number, rows, num_bytes
            first, rows, num_bytes = number, 0, 0
        rows, num_bytes = rows + group.num_rows, num_bytes + group.total_byte_size
    if rows:
        yield first, footer.num_row_groups, rows, num_bytes


def _samples(
    path: str, name: str, piece_id: str, first: int, last: int, span: tuple[int, int], spec: Spec
) -> Iterator[Sample]:
    """Read row groups; `span` are the first of their rows in the file, and the one behind them."""
    row, end = span
    try:
        with _open(path) as file:
            chosen = _columns(path, file.schema_arrow, spec)
            said = (chosen.image, chosen.caption, *chosen.synthetic)
            wanted = [
                field.name
                for field in file.schema_arrow
                if field.name in said or _is_text(field.type) or _is_number(field.type)
            ]
            batches = file.iter_batches(
                _ROWS_AT_A_TIME, row_groups=list(range(first, last)), columns=wanted
            )
            for batch in batches:
                for values in _rows(batch, chosen.image):
                    yield _sample(reading.parent(path), f"{name}/{row:08d}", values, chosen)
                    row += 1
        if row != end:  # the footer promised more
            yield damage(piece_id, "damaged table", f"rows {row} to {end - 1} are lost")
    except (pyarrow.ArrowException, ValueError) as error:
        yield damage(piece_id, "damaged table", f"rows {row} to {end - 1} are lost: {error}")
    except OSError as error:
        if reading.is_of_the_storage(error):
            raise
        yield damage(piece_id, "damaged table", f"rows {row} to {end - 1} are lost: {error}")


def _rows(batch: pyarrow.RecordBatch, image: str) -> Iterator[dict]:
    """Yield the rows of a batch, text as bytes: it need not be UTF-8. Images: _BYTES, _PATH."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name != image:
            columns[name] = _values(column)
        elif _is_struct(column.type):
            parts = dict(zip(column.type.names, column.flatten(), strict=True))
            columns |= {p: _values(parts[p[1]]) for p in (_BYTES, _PATH) if p[1] in parts}
        else:
            columns[_PATH if _is_text(column.type) else _BYTES] = _values(column)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _values(column: pyarrow.Array) -> list:
    """Return the values, text as bytes."""
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        column = column.cast(pyarrow.large_binary())
    elif _is_texts(column.type):
        column = column.cast(pyarrow.large_list(pyarrow.large_binary()))
    return column.to_pylist()


def _first(said: object) -> object:
    """Return a text, of several the first."""
    if isinstance(said, list):
        return said[0] if said else None
    return said


def _sample(folder: str, key: str, values: dict, columns: _Columns) -> Sample:
    """Interpret a row of a table in a folder."""
    data, place = values.pop(_BYTES, None), values.pop(_PATH, None)
    place = reading.readable(os.fsdecode(place)) if place else ""
    fields = {"caption": _first(values.pop(columns.caption, None))}
    fields |= {field: _first(values.pop(name)) for name, field in columns.synthetic.items()}
    texts = decode_row(values | fields)
    if data is None and place:
        data = functools.partial(reading.read_file, reading.join(folder, place))
    known = (texts.meta.get(name) for name in NAME_COLUMNS)
    names = [place, *(str(name) for name in known if name is not None)]
    return Sample(
        key=key,
        image=data,
        caption=texts.caption,
        synthetic=texts.synthetic,
        meta=texts.meta,
        problem=texts.problem,
        detail=texts.detail,
        names=tuple(filter(None, names)),
    )
