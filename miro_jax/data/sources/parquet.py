"""Parquet tables with images inside, or with paths to them, as Hugging Face datasets are stored.

A column of images is a struct of `bytes` and `path`, or bytes of any type, or lists of these, of
which the first counts, or text: paths from the table's folder, or the image in base64. A tar turned
to parquet has a column for each ending: where one is null, the next counts. The caption
and its synthetic forms are columns by the names that `texts` knows, a column `json` is read as
KEY.json of a tar; other plain values become the sample's meta. A piece is whole row groups of one
file, as many as fit.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet, types

from miro_jax.data.sources import arrow, listing, reading, tables
from miro_jax.data.sources.images import MAX_BYTES
from miro_jax.data.sources.root import LONGEST_PATH, Root, is_base64
from miro_jax.data.sources.sample import Piece, Sample, Tables, damage, make_sample
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.tar import IMAGE_EXTENSIONS
from miro_jax.data.sources.texts import (
    CAPTION_FIELDS,
    LONG_FIELD,
    SHORT_FIELDS,
    first_with_text,
    interpret,
)

ROWS_PER_PIECE = 1000
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "jpeg", "img", "image_bytes", "picture", "bytes")
IMAGE_COLUMNS += ("images", *IMAGE_EXTENSIONS)
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image_path", "filepath")
NAME_COLUMNS = ("__key__", "key", *PATH_COLUMNS, "id")
_JSON = "json"
_TEXT_ENDINGS = tuple(end for end in tables.ENDINGS if end != ".parquet")
_ROWS_AT_A_TIME = 16  # an image may have megabytes
_BATCH_BYTES = 4 * MAX_BYTES
# A column chunk that is unpacked to more, and to so many times its size, is a bomb.
_NEVER_A_BOMB, _MAX_RATIO = 1 << 27, 16
_NUM_FOOTERS_AT_A_TIME = 16  # remote ones wait for the network


def list_groups(spec: Spec, tables: Tables) -> list[Piece]:
    """Return the pieces of the tables that a pattern names.

    A file that is no parquet is a piece too, with its damage for a sample.

    Raises:
      FileNotFoundError: the pattern matches nothing.
      ValueError: no file can be read, or none has a column of images.
    """
    length = spec.number("per_piece", ROWS_PER_PIECE)
    folder = listing.fixed_folder(spec.path)
    listed = listing.match_files(spec.path)
    with ThreadPoolExecutor(_NUM_FOOTERS_AT_A_TIME) as pool:
        footers = list(pool.map(functools.partial(_footer, spec=spec), [f.path for f in listed]))
    if all(isinstance(footer, str) for footer in footers):
        hint = ""
        if listed[0].path.lower().endswith(_TEXT_ENDINGS):  # that of footers[0]
            hint = f" Give the images, and this table as folder:DIR?captions={listed[0].path}."
        raise ValueError(f"{spec.path} must be parquet tables with images: {footers[0]}{hint}")
    if not any(isinstance(footer, str) or footer[0].num_rows for footer in footers):
        raise ValueError(f"{spec.path} must have at least one row; it has none.")
    pieces = []
    for file, footer in zip(listed, footers, strict=True):
        name = reading.readable(reading.relative(file.path, folder))
        if isinstance(footer, str):
            lost = functools.partial(iter, [damage(name, "damaged table", footer)])
            sign = functools.partial(reading.fingerprint, file.path)
            pieces.append(Piece(len(pieces), name, None, file.size, lost, sign, tables))
            continue
        (metadata, has_captions), row = footer, 0
        for first, last, count, num_bytes in _runs(metadata, length):
            piece_id = f"{name}#{first:05d}"
            read = functools.partial(_samples, file.path, name, first, last, row, spec=spec)
            sign = functools.partial(_sign, file.path, first, last)
            piece = Piece(len(pieces), piece_id, count, num_bytes, read, sign, tables)
            pieces.append(dataclasses.replace(piece, has_captions=has_captions))
            row += count
    return pieces


def _sign(path: str, first: int, last: int) -> str:
    text = f"{reading.fingerprint(path)} {first} {last}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _footer(path: str, spec: Spec) -> tuple[parquet.FileMetaData, bool] | str:
    """Return a file's metadata and whether it has captions, or why it is of no use."""
    try:
        with arrow.open_parquet(path) as file:
            chosen = _columns(path, arrow.schema(file), spec)
            footer = file.metadata
    except ValueError as error:
        return str(error)
    groups = sum(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
    if groups != footer.num_rows:
        return f"its {footer.num_rows} rows are not the {groups} of its row groups"
    return footer, bool(chosen.captions) or chosen.json is not None


class _Columns(NamedTuple):
    """Which columns are what; synthetic: name -> its field. read: all that are read.

    Of images and captions the first counts that has a value in a row.
    """

    images: list[str]
    captions: list[str]
    json: str | None
    synthetic: dict[str, str]
    read: list[str]


def _columns(path: str, schema: pyarrow.Schema, spec: Spec) -> _Columns:
    """Choose the columns of a table.

    Raises:
      ValueError: there is none of images, or not the requested one, or one of captions does not
        hold text.
    """
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{path} must name each column once; got {', '.join(schema.names)}.")
    kinds: dict[str, pyarrow.DataType] = dict(zip(schema.names, schema.types, strict=True))
    image = _image_column(path, kinds, spec.options.get("image"))
    others = {name: kind for name, kind in kinds.items() if name != image}
    requested = spec.options.get("caption")
    caption = _words_column(path, others, requested, CAPTION_FIELDS)
    others = {name: kind for name, kind in others.items() if name != caption}
    captions = [caption] if caption else []
    if caption and requested is None:
        captions += tables.usual_columns(others, CAPTION_FIELDS)
        captions = [n for n in captions if n == caption or _is_words(others[n])]
    synthetic = {
        column: field
        for field in (LONG_FIELD, *SHORT_FIELDS)
        if (column := _words_column(path, others, None, (field,)))
    }
    json = tables.choose_column(path, others, None, (_JSON,), "json")
    if json and (
        types.is_null(others[json]) or not (_is_words(others[json]) or arrow.fields(others[json]))
    ):
        json = None
    images = [image]
    if image.lower() in IMAGE_EXTENSIONS and "image" not in spec.options:
        images += [n for n, k in others.items() if n.lower() in IMAGE_EXTENSIONS and _is_image(k)]
    chosen = (*images, *captions, *synthetic, json)
    read = [n for n, k in kinds.items() if n in chosen or arrow.is_text(k) or arrow.is_number(k)]
    return _Columns(images, captions, json, synthetic, read)


def _image_column(path: str, kinds: Mapping[str, pyarrow.DataType], requested: str | None) -> str:
    inside = [name for name, kind in kinds.items() if _is_image(kind)]
    possible = [n for n, kind in kinds.items() if _is_image(kind) or _is_path(kind)]
    image = tables.choose_column(path, possible, requested, (), "image")
    image = image or tables.choose_column(path, inside, None, IMAGE_COLUMNS, "image")
    structs = [name for name in inside if arrow.fields(arrow.item_type(kinds[name]) or kinds[name])]
    if image is None and len(structs) == 1:
        image = structs[0]
    usual = dict.fromkeys(IMAGE_COLUMNS + PATH_COLUMNS)
    image = image or tables.choose_column(path, possible, None, list(usual), "image")
    if image is None:
        raise ValueError(
            f"{path} has no column of images named one of {', '.join(usual)}; it has "
            f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}. Name it with "
            "?image=COLUMN."
        )
    return image


def _words_column(
    path: str, kinds: Mapping[str, pyarrow.DataType], requested: str | None, usual: Sequence[str]
) -> str | None:
    """Choose a column of text; ValueError where one of these names holds something else.

    A column without a single value has no type; it is none of text unless it is requested.
    """
    if requested is None:
        kinds = {name: kind for name, kind in kinds.items() if not types.is_null(kind)}
    words = [name for name, kind in kinds.items() if _is_words(kind)]
    match = tables.choose_column(
        path, words if requested is None else kinds, requested, usual, "caption"
    )
    other = match or tables.choose_column(path, kinds, None, usual, "caption")
    if other is not None and other not in words:
        raise ValueError(
            f"{path}, column {other!r} must hold text, or lists of texts; it holds "
            f"{kinds[other]}. Give it another type or another name."
        )
    return match


def _is_image(kind: pyarrow.DataType) -> bool:
    """Return whether a type is one of images: bytes, Hugging Face's struct, or lists of these."""
    inner, item = arrow.fields(kind), arrow.item_type(kind)
    if item is not None:
        return item in (pyarrow.uint8(), pyarrow.int8()) or _is_image(item)
    if inner:
        data = inner.get("bytes", pyarrow.null())
        is_data = types.is_null(data) or (_is_image(data) and not arrow.fields(data))
        is_cell = is_data and _is_path(inner.get("path", pyarrow.null()))
        return is_cell and not inner.keys().isdisjoint(("bytes", "path"))
    return arrow.is_bytes(kind)


def _is_path(kind: pyarrow.DataType) -> bool:
    """Return whether a type is one of paths, or of nothing: no row has one."""
    item = arrow.item_type(kind)
    return types.is_null(kind) or arrow.is_text(kind if item is None else item)


def _is_words(kind: pyarrow.DataType) -> bool:
    """Return whether a type can hold captions; bytes are read as UTF-8."""
    if (item := arrow.item_type(kind)) is not None:
        return _is_words(item)
    inner = arrow.fields(kind)
    if inner:
        return any(_is_words(one) for one in inner.values())
    return arrow.is_text(kind) or arrow.is_bytes(kind) or types.is_null(kind)


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


def _samples(path: str, name: str, first: int, last: int, row: int, spec: Spec) -> Iterator[Sample]:
    """Read row groups; `row` is the number of their first row in the file."""
    piece_id = f"{name}#{first:05d}"
    root = Root(reading.parent(path), spec.allow_urls)
    try:
        with arrow.open_parquet(path) as file:
            chosen = _columns(path, arrow.schema(file), spec)
            kinds = {name: file.schema_arrow.field(name).type for name in chosen.images}
            for group in range(first, last):
                end, reason = row + file.metadata.row_group(group).num_rows, ""
                try:
                    with arrow.checked():
                        for values in _rows(file, group, chosen.read):
                            cells = [_image(kind, values.pop(n)) for n, kind in kinds.items()]
                            data, image_path = next(filter(any, cells), cells[0])
                            yield _sample(
                                root, f"{name}/{row:08d}", data, image_path, values, chosen
                            )
                            row += 1
                except ValueError as error:
                    reason = f": {error}"
                if row < end:  # the footer promised more
                    lost = f"rows {row} to {end - 1} are lost{reason}"
                    yield damage(piece_id, "damaged table", lost)
                row = end
    except ValueError as error:
        yield damage(piece_id, "damaged table", f"rows from {row} on are lost: {error}")


def _rows(file: parquet.ParquetFile, group: int, read: list[str]) -> Iterator[dict]:
    """Yield the rows of a group; ValueError where they would fill the memory."""
    facts, largest = file.metadata.row_group(group), 1
    for number in range(facts.num_columns):
        chunk = facts.column(number)
        size, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        is_bomb = size > max(_NEVER_A_BOMB, _MAX_RATIO * packed)
        if chunk.path_in_schema.split(".")[0] in read:
            largest = max(largest, min(size, MAX_BYTES))
            if is_bomb or size > facts.num_rows * MAX_BYTES:
                raise ValueError(
                    f"column {chunk.path_in_schema} would be unpacked from {packed} to {size} "
                    f"bytes in {facts.num_rows} rows, at most {MAX_BYTES} a row"
                )
    count = max(1, min(_ROWS_AT_A_TIME, _BATCH_BYTES // largest))
    for batch in file.iter_batches(count, row_groups=[group], columns=read):
        yield from arrow.rows(batch)


def _image(kind: pyarrow.DataType, value) -> tuple[bytes | None, str]:
    """Return the bytes and the path in a cell of a column of images."""
    item, inner = arrow.item_type(kind), arrow.fields(kind)
    if value is None:
        return None, ""
    if item is not None and types.is_integer(item):
        return bytes(number % 256 for number in value), ""
    if item is not None:
        cells = (_image(item, one) for one in value)
        return next((cell for cell in cells if cell != (None, "")), (None, ""))
    if inner:
        data, _ = _image(inner.get("bytes", pyarrow.null()), value.get("bytes"))
        _, path = _image(inner.get("path", kind), value.get("path"))
        return data, path
    is_text = arrow.is_text(kind) or is_base64(value[:LONGEST_PATH].decode("latin-1"))
    return (None, os.fsdecode(value)) if is_text else (value, "")


def _sample(
    root: Root, key: str, data: bytes | None, path: str, values: dict[str, Any], columns: _Columns
) -> Sample:
    """Interpret a row of a table; values: all but its image."""
    caption = first_with_text([values.pop(name) for name in columns.captions])
    json_data = values.pop(columns.json) if columns.json else None
    others = {columns.synthetic.get(n, n): v for n, v in values.items() if v is not None}
    texts = interpret(caption, json_data, others)
    read: Any = data
    if data is None and path:
        read = functools.partial(root.read_image, path)
        path = "" if is_base64(path) else reading.readable(path)
    known = (texts.meta.get(name) for name in NAME_COLUMNS)
    names = [path, *(str(name) for name in known if name is not None)]
    return make_sample(key, read, texts, filter(None, names))
