"""Parquet files and their values; whatever is wrong with one of them is a ValueError."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow
from pyarrow import parquet, types

from miro_jax.data.sources import reading
from miro_jax.data.sources.foreign import LONGEST, name_foreign

_BUFFER_BYTES = 1 << 20  # of a column
_REMOTE_BUFFER_BYTES = 1 << 23  # a request costs as much time as some megabytes
_SIGNATURE_BYTES = 28  # behind the plain footer of a file with encrypted columns
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list)
_LISTS += (types.is_list_view, types.is_large_list_view)


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[parquet.ParquetFile]:
    """Open a file for streaming: a row group of gigabytes stays out of memory.

    Raises:
      ValueError: it is no parquet file, or damaged; also where it is read inside of the context.
      OSError: the storage fails.
    """
    size = _REMOTE_BUFFER_BYTES if reading.is_remote(path) else _BUFFER_BYTES
    options = {"pre_buffer": False, "page_checksum_verification": True, "buffer_size": size}
    # pyarrow opens no name that is not UTF-8.
    with reading.open_read(path, seeks=True) as file:
        try:
            with checked():
                table = parquet.ParquetFile(file, **options)
                _check_footer(file, table.metadata)
        except ValueError as error:
            file.seek(0)
            other = name_foreign(file.read(LONGEST)).removeprefix("a parquet file")
            reason = f"it is {other}" if other else str(error).rstrip(".")
            raise ValueError(f"{path} is no parquet file: {reason}. Make it again.") from error
        with checked(), table:
            yield table


def _check_footer(file: BinaryIO, footer: parquet.FileMetaData) -> None:
    """Raise ValueError where columns are encrypted: pyarrow would end the process."""
    file.seek(-8, os.SEEK_END)
    if int.from_bytes(file.read(4), "little") == footer.serialized_size + _SIGNATURE_BYTES:
        raise ValueError("columns of it are encrypted, which is not read; decrypt it")


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Turn pyarrow's errors about a file's content into ValueError."""
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # pyarrow raises OSError for content too
        if reading.is_of_the_storage(error):
            raise
        raise ValueError(str(error)) from error


def schema(file: parquet.ParquetFile) -> pyarrow.Schema:
    """Return the types of a file's columns; null where all floats are NaN."""
    found, footer = file.schema_arrow, file.metadata
    chunks = [
        footer.row_group(n).column(c)
        for n in range(footer.num_row_groups)
        for c in range(footer.num_columns)
    ]
    with_numbers = {
        chunk.path_in_schema
        for chunk in chunks
        if chunk.statistics is None or chunk.statistics.has_min_max
    }
    for index, field in enumerate(found):
        if types.is_floating(field.type) and chunks and field.name not in with_numbers:
            found = found.set(index, field.with_type(pyarrow.null()))
    return found


def plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    """Return the type of the values of an extension or a dictionary."""
    while isinstance(kind, pyarrow.BaseExtensionType) or types.is_dictionary(kind):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def is_bytes(kind: pyarrow.DataType) -> bool:
    """Return whether values are bytes."""
    kind = plain(kind)
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return types.is_fixed_size_binary(kind) or any(is_kind(kind) for is_kind in kinds)


def is_text(kind: pyarrow.DataType) -> bool:
    """Return whether values are text."""
    kind = plain(kind)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def is_number(kind: pyarrow.DataType) -> bool:
    """Return whether values are numbers or truth values."""
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def item_type(kind: pyarrow.DataType) -> pyarrow.DataType | None:
    """Return the type of the items of lists, else None."""
    kind = plain(kind)
    return kind.value_type if any(is_list(kind) for is_list in _LISTS) else None


def fields(kind: pyarrow.DataType) -> dict[str, pyarrow.DataType]:
    """Return the fields of structs with their types, else none."""
    kind = plain(kind)
    return {field.name: field.type for field in kind} if types.is_struct(kind) else {}


def rows(batch: pyarrow.RecordBatch) -> Iterator[dict]:
    """Yield the rows of a batch, one in memory at a time; text as bytes: it need not be UTF-8."""
    columns = [_with_bytes(column) for column in batch.columns]
    for row in range(batch.num_rows):
        values = (column[row].as_py() for column in columns)
        yield dict(zip(batch.schema.names, values, strict=True))


def _with_bytes(column: pyarrow.Array) -> pyarrow.Array:
    if isinstance(column.type, pyarrow.BaseExtensionType):
        column = column.storage
    if types.is_dictionary(column.type) and is_text(column.type):
        column = column.dictionary_decode()
    kind = _bytes_type(column.type)
    return column if kind == column.type else column.cast(kind)


def _bytes_type(kind: pyarrow.DataType) -> pyarrow.DataType:
    """Return a type with bytes for text."""
    if inner := fields(kind):
        return pyarrow.struct([(name, _bytes_type(one)) for name, one in inner.items()])
    if (item := item_type(kind)) is not None:
        return kind if _bytes_type(item) == item else pyarrow.large_list(_bytes_type(item))
    return pyarrow.large_binary() if is_text(kind) else kind
