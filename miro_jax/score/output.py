"""The output: all rows in one parquet, CSV or JSONL file, and the failures in a JSONL file.

A score is a float32 and is written as short as reading it back exactly allows; a missing score or
caption is a null, in CSV an empty field.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow
from pyarrow import parquet

from miro_jax.data.storage import files
from miro_jax.score.parts import Part

ENDINGS = (".parquet", ".csv", ".jsonl")
_ROWS_IN_A_GROUP = 65536


def check_ending(path: Path) -> None:
    """Raise ValueError unless an output's name ends in one of ENDINGS."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"--out must end in one of {', '.join(ENDINGS)}; got {path}.")


def write_scores(path: Path, schema: pyarrow.Schema, tables: Iterable[pyarrow.Table]) -> None:
    """Write rows by the ending of the path, atomically, a group of rows in memory at a time.

    Equal rows give equal bytes, however they are cut into tables.
    """
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
    files.remove_leftovers(path)
    with files.published(path) as temporary:
        write[path.suffix.lower()](temporary, schema, _regrouped(schema, tables))


def write_failures(path: Path, parts: Iterable[Part]) -> None:
    """Write the failures of all parts, a line each, atomically."""
    files.remove_leftovers(path)
    with files.published(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for part in parts:
            for failure in part.failures:
                file.write(json.dumps(failure, ensure_ascii=False) + "\n")


def _regrouped(schema: pyarrow.Schema, tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """Yield the rows in groups of one size, the last one smaller."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pyarrow.concat_tables([waiting, table])
        while waiting.num_rows >= _ROWS_IN_A_GROUP:
            yield waiting.slice(0, _ROWS_IN_A_GROUP).combine_chunks()
            waiting = waiting.slice(_ROWS_IN_A_GROUP)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _write_parquet(path: str, schema: pyarrow.Schema, groups: Iterable[pyarrow.Table]) -> None:
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=_ROWS_IN_A_GROUP)


def _write_csv(path: str, schema: pyarrow.Schema, groups: Iterable[pyarrow.Table]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(schema.names)
        for row in _rows(groups):
            writer.writerow("" if value is None else value for value in row)


def _write_jsonl(path: str, schema: pyarrow.Schema, groups: Iterable[pyarrow.Table]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in _rows(groups):
            values = dict(zip(schema.names, row, strict=True))
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _rows(groups: Iterable[pyarrow.Table]) -> Iterator[tuple]:
    for group in groups:
        columns = [
            map(_shortest, column.to_numpy())
            if pyarrow.types.is_floating(column.type)
            else column.to_pylist()
            for column in group.columns
        ]
        yield from zip(*columns, strict=True)


def _shortest(score) -> float | None:
    """Return the shortest float that is the float32 again when rounded."""
    return None if math.isnan(score) else float(str(score))
