"""What is done so far, next to the output: parts, each published whole, merged at the end.

    OUT.parts/command.json          what the scores are made of and with; another command is refused
    OUT.parts/part-000000.parquet   rows, in order
    OUT.parts/part-000000.json      failures, the cursor after it, entries and seconds

The JSON is written first: a part exists if and only if its parquet file does. A part ends wherever
a batch ends, so the output does not depend on how it was cut, nor on how often the run was killed.
One process at a time may write.

Letters: R rewards.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from miro_jax.data.storage import files
from miro_jax.data.storage.files import brief
from miro_jax.score.inputs import START, Cursor
from miro_jax.score.pictures import Scored

COMMAND_NAME = "command.json"
_NAME = "part-{:06d}"


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished part. count: rows. failures: see `Scored`. num_entries: rows and failures."""

    path: Path
    count: int
    failures: list[dict[str, str]]
    after: Cursor
    num_entries: int
    seconds: float


def schema(identities: Sequence[str]) -> pyarrow.Schema:
    """Return the columns of parts and outputs: one float32 for each reward's identity."""
    text = pyarrow.string()
    columns = [("key", text), ("caption", text), ("width", pyarrow.int32())]
    columns += [("height", pyarrow.int32()), *((name, pyarrow.float32()) for name in identities)]
    return pyarrow.schema(columns)


class Parts:
    """The parts of one output, in order.

    Args:
        folder: OUT.parts; need not exist.
        identities: of the R rewards, in the order of the columns.
    """

    def __init__(self, folder: Path, identities: Sequence[str]):
        self.folder, self._schema = folder, schema(identities)
        self.count = 0
        while self._path(self.count).exists():
            self.count += 1
        last = self.read(self.count - 1) if self.count else None
        self.after: Cursor = last.after if last else START

    def _path(self, number: int) -> Path:
        return self.folder / f"{_NAME.format(number)}.parquet"

    def read(self, number: int) -> Part:
        """Return what is known about a part."""
        path = self._path(number)
        facts = json.loads(path.with_suffix(".json").read_bytes())
        facts["after"] = tuple(facts["after"])
        return Part(path, **facts)

    def __iter__(self) -> Iterator[Part]:
        return map(self.read, range(self.count))

    def publish(self, batches: Sequence[Scored], seconds: float) -> None:
        """Write the next part; it is on the disk when this returns."""
        path = self._path(self.count)
        rows = [row for batch in batches for row in _columns(batch)]
        table = pyarrow.Table.from_batches(
            [pyarrow.record_batch(row, schema=self._schema) for row in rows], self._schema
        )
        facts = {
            "count": table.num_rows,
            "failures": [failure for batch in batches for failure in batch.failures],
            "after": batches[-1].after,
            "num_entries": sum(batch.num_entries for batch in batches),
            "seconds": seconds,
        }
        file = pyarrow.BufferOutputStream()
        parquet.write_table(table, file)
        files.write_atomic(path.with_suffix(".json"), files.to_json(facts))
        files.write_atomic(path, file.getvalue().to_pybytes())
        self.count, self.after = self.count + 1, batches[-1].after

    def tables(self) -> Iterator[pyarrow.Table]:
        """Read the rows of all parts, a part at a time."""
        for number in range(self.count):
            yield parquet.read_table(self._path(number), schema=self._schema)

    def column(self, identity: str) -> np.ndarray:
        """Return all scores of one reward, [rows] float32, NaN is missing."""
        parts = [
            parquet.read_table(self._path(number), columns=[identity])[identity].to_numpy()
            for number in range(self.count)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def remove(self) -> None:
        """Delete the folder: the output is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _columns(batch: Scored) -> Iterator[list[pyarrow.Array]]:
    if batch.keys:
        yield [
            pyarrow.array(batch.keys, pyarrow.string()),
            pyarrow.array(batch.captions, pyarrow.string()),
            pyarrow.array(batch.widths, pyarrow.int32()),
            pyarrow.array(batch.heights, pyarrow.int32()),
            *(pyarrow.array(column) for column in batch.scores.T),
        ]


def check_command(folder: Path, command: dict) -> None:
    """Raise ValueError if parts are there that another command made.

    Args:
        folder: OUT.parts.
        command: JSON values; those that are not known yet may be left out.
    """
    path = folder / COMMAND_NAME
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} must hold {COMMAND_NAME}, which says what was being scored; it does not."
                " Delete the folder or give another --out."
            )
        return
    check_same(json.loads(path.read_bytes()), command, folder)


def write_command(folder: Path, command: dict) -> None:
    """Make the folder and write what its parts are being made with."""
    folder.mkdir(exist_ok=True)
    if not (folder / COMMAND_NAME).exists():
        files.write_atomic(folder / COMMAND_NAME, files.to_json(command))


def check_same(present: dict, command: dict, place: Path) -> None:
    """Raise ValueError unless two commands agree in the values of the second one."""
    command = json.loads(files.to_json(command))
    differing = [name for name in sorted(command) if present.get(name) != command[name]]
    if differing:
        details = "; ".join(
            f"{name} there {brief(present.get(name))}, asked {brief(command[name])}"
            for name in differing
        )
        raise ValueError(
            f"{place} belongs to another command, which differs in {', '.join(differing)} "
            f"({details}). Give another --out, or delete it."
        )
