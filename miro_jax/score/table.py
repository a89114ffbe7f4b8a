"""The table: what a piece becomes, and all pieces in one parquet, CSV or JSONL file.

    OUT.parts/manifest.partial.json    the request; another one is refused
    OUT.parts/parts/...                what groups of models made of batches, see `annotate.parts`
    OUT.parts/pieces/00012.rows        the rows of piece 12, with a digest and their own name
    OUT                                one row an image: key, caption, width, height, scores

A score is a float32 and is written as short as reading it back exactly allows; a missing score or
caption is a null, in CSV an empty field. There a text that a spreadsheet would take for a formula
begins with a quote, unless it is to be raw.

Letters: N rows, R rewards.
"""

import contextlib
import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from miro_jax.annotate import parts
from miro_jax.annotate.batches import failure
from miro_jax.annotate.publish import Rows, models_of
from miro_jax.data.json_file import dump_json
from miro_jax.data.storage import Damaged, Folder

FOLDER = "pieces"
_ROWS_IN_A_GROUP = 65536
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # begin what a spreadsheet runs
_COLUMNS = ("keys", "captions", "widths", "heights")  # before the scores


class TableRows:
    """Pieces become rows of a table; see `annotate.publish.Sink`.

    Args:
      needs_caption: an image without a caption is a failure; otherwise it has a row, with nothing
        in the columns of the rewards that need one.
    """

    inside = FOLDER
    reads_every_image, takes_synthetic = True, False

    def __init__(self, needs_caption: bool):
        self.needs_caption = needs_caption

    def is_done(self, folder: Folder, piece: int) -> bool:
        """Return whether a piece is published."""
        return folder.exists(rows_name(piece))

    def discard_spoiled(self, folder: Folder, piece: int) -> None:
        """Delete the rows of a piece that do not have their digest, or are those of another."""
        try:
            if self.is_done(folder, piece):
                with contextlib.suppress(FileNotFoundError):  # another process discarded it
                    self.facts(folder, piece)
        except Damaged:
            folder.remove(rows_name(piece))

    def discard(self, folder: Folder, piece: int) -> None:
        """Delete the rows of a piece."""
        folder.remove(rows_name(piece))

    def facts(self, folder: Folder, piece: int) -> Mapping[str, Any]:
        """See `annotate.publish.Sink`."""

        def make() -> dict[str, Any]:
            _, facts = read_rows(folder, piece)
            return {name: facts[name] for name in ("num_samples", "failures")}

        return folder.once(rows_name(piece), make)

    def read(self, folder: Folder, piece: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return num_samples, failures and more of a published piece, and its scores [N, R]."""
        scores, facts = read_rows(folder, piece)
        for name in _COLUMNS:  # the texts of a large table fill the memory
            del facts[name]
        return facts, scores

    def write(self, folder: Folder, piece: int, rows: Rows, facts: dict[str, Any]) -> None:
        """Publish a piece."""
        samples, scores = [], []
        for sample, fields in rows:
            samples.append(sample)
            scores.append(fields["scores"])
        columns = {
            "keys": [s.key for s in samples],
            "captions": [s.caption for s in samples],
            "widths": [s.width for s in samples],
            "heights": [s.height for s in samples],
        }
        why = [s.no_caption[0] for s in samples]  # why there is no caption
        bad_captions = [
            failure(facts["piece"], s, *s.no_caption)
            for s in samples
            if s.no_caption[0] not in ("", "missing caption")
        ]
        name, array = rows_name(piece), np.array(scores, np.float32)
        array = array.reshape(len(scores), len(models_of(facts)["rewards"]))
        facts = facts | columns | {"causes": why, "bad_captions": bad_captions, "name": name}
        folder.write(name, parts.seal({"scores": array}, facts))


def rows_name(piece: int) -> str:
    """Return the name of the file of a piece's rows."""
    return f"{FOLDER}/{piece:05d}.rows"


def read_rows(folder: Folder, piece: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a published piece: its scores [n, R], and its facts with the other columns.

    Raises:
      Damaged: the file does not have its digest, or is that of another piece.
    """
    name = rows_name(piece)
    arrays, facts = parts.unseal(folder.read(name), name)
    return arrays["scores"], facts


def schema(identities: Sequence[str]) -> pyarrow.Schema:
    """Return the columns of a table: one float32 for each reward's identity."""
    text = pyarrow.string()
    columns = [("key", text), ("caption", text), ("width", pyarrow.int32())]
    columns += [("height", pyarrow.int32()), *((name, pyarrow.float32()) for name in identities)]
    return pyarrow.schema(columns)


def to_arrow(scores: np.ndarray, facts: dict[str, Any], identities: Sequence[str]) -> pyarrow.Table:
    """Return the rows of a piece as a table."""
    columns = [facts[name] for name in _COLUMNS]
    return pyarrow.table([*map(pyarrow.array, columns), *scores.T], schema=schema(identities))


def write_table(
    path: Path, identities: Sequence[str], tables: Iterable[pyarrow.Table], raw: bool = False
) -> None:
    """Write rows by the ending of the path, a group of rows in memory at a time.

    Equal rows give equal bytes, however they are cut into tables.

    Args:
      path: of the file. identities: of the rewards. tables: rows, see `to_arrow`.
      raw: texts go into a CSV file as they are.
    """
    columns, write = schema(identities), _WRITERS[path.suffix.lower()]
    write(path, columns, _regrouped(columns, tables), raw)


def check_table(path: Path, keys: Iterable[str], raw: bool = False) -> None:
    """Read a table back and compare its keys, in order, with those that it must have.

    Args:
      path: of the file. keys: that were written. raw: as `write_table` was given it.

    Raises:
      Damaged: it has other rows.
    """
    if path.suffix.lower() == ".csv" and not raw:
        keys = map(_harmless, keys)
    # No key is None, which stands for a row that is missing on one side.
    pairs = itertools.zip_longest(_read_keys(path), keys)
    for number, (written, key) in enumerate(pairs):
        if written != key:
            raise Damaged(
                f"row {number} of the table {path.name} must be of {key!r}; it is of {written!r}."
            )


def _read_keys(path: Path) -> Iterator[str]:
    ending = path.suffix.lower()
    if ending == ".parquet":
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["key"]):
                yield from batch["key"].to_pylist()
        return
    with open(path, encoding="utf-8", newline="") as file:
        if ending == ".csv":
            yield from (row["key"] for row in csv.DictReader(file))
        else:
            yield from (json.loads(line)["key"] for line in file)


def _regrouped(columns: pyarrow.Schema, tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """Yield the rows in groups of one size, the last one smaller."""
    waiting = columns.empty_table()
    for table in tables:
        waiting = pyarrow.concat_tables([waiting, table])
        while waiting.num_rows >= _ROWS_IN_A_GROUP:
            yield waiting.slice(0, _ROWS_IN_A_GROUP).combine_chunks()
            waiting = waiting.slice(_ROWS_IN_A_GROUP)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _write_parquet(
    path: Path, columns: pyarrow.Schema, groups: Iterable[pyarrow.Table], _: bool
) -> None:
    with parquet.ParquetWriter(path, columns, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=_ROWS_IN_A_GROUP)


def _write_csv(
    path: Path, columns: pyarrow.Schema, groups: Iterable[pyarrow.Table], raw: bool
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(columns.names)
        for row in _rows(groups):
            cells = ["" if value is None else value for value in row]
            # A return would end the row; the writer quotes it only where its own lines end in one.
            ends = any(isinstance(cell, str) and "\r" in cell for cell in cells)
            (quoting if ends else writer).writerow(cells if raw else map(_harmless, cells))


def _harmless(cell: Any) -> Any:
    """Return a cell of which a spreadsheet does not make a formula; numbers are none."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _write_jsonl(
    path: Path, columns: pyarrow.Schema, groups: Iterable[pyarrow.Table], _: bool
) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in _rows(groups):
            values = dict(zip(columns.names, row, strict=True))
            file.write(dump_json(values) + "\n")


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}


def _rows(groups: Iterable[pyarrow.Table]) -> Iterator[tuple]:
    for group in groups:
        columns = [
            map(_shortest, column.to_numpy())
            if pyarrow.types.is_floating(column.type)
            else column.to_pylist()
            for column in group.columns
        ]
        yield from zip(*columns, strict=True)


def _shortest(score: np.float32) -> float | None:
    """Return the shortest float that is the float32 again when rounded."""
    return None if math.isnan(score) else float(str(score))
