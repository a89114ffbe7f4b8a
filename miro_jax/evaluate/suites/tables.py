"""Tables of numbers as text, CSV, LaTeX and JSON: one form for evaluations and comparisons.

A table is columns and rows of cells. A cell is a text, or a number with its interval; bold cells
are those that a test says are better.
"""

import csv
import dataclasses
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax.data.printable import counted
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.evaluate.suites.manifest import Evaluation
from miro_jax.evaluate.suites.rows import ROWS_NAME, Row, dump_rows

FORMS = ("text", "csv", "latex", "json")
ENDINGS = {"text": ".txt", "csv": ".csv", "latex": ".tex"}
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": "", "^": "", "\\": ""})
NAME = "table"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number. low, high: its interval, or None. bold: it stands out. note: a mark such as *."""

    value: float | None
    low: float | None = None
    high: float | None = None
    bold: bool = False
    note: str = ""

    def write(self, number: float, digits: int = 4) -> str:
        """Write one of its numbers in `digits` digits, rounded by the largest: to one digit more.

        So the end of an interval that is 0 but for rounding is written as 0, not as 1.1e-23.
        """
        numbers = [abs(n) for n in (self.value, self.low, self.high) if n]
        decimals = digits - math.floor(math.log10(max(numbers))) if numbers else 0
        return f"{round(number, decimals) + 0.0:.{digits}g}"


@dataclasses.dataclass(frozen=True)
class Table:
    """columns: names. rows: as many cells each. title, notes: around it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    notes: Sequence[str] = ()


def cell_of(metric: Mapping[str, Any], **options: Any) -> Cell:
    """Return the cell of a metric of a result."""
    return Cell(metric.get("value"), metric.get("low"), metric.get("high"), **options)


def table_of(evaluation: Evaluation) -> Table:
    """Return the numbers of one evaluation: a row for each metric, below it its tags."""
    rows: list[list[str | Cell]] = []
    for name, metric in evaluation.metrics.items():
        rows.append([name, cell_of(metric), str(metric["prompts"]), str(metric["images"])])
        for tag, one in metric.get("tags", {}).items():
            rows.append([f"  {tag}", cell_of(one), str(one["prompts"]), str(one["images"])])
    benchmark, result = evaluation.manifest["benchmark"], evaluation.manifest["result"]
    title = f"{benchmark['name']} of {evaluation.manifest['images']['path']}"
    notes = [f"95 % intervals over prompts; {counted(result['images'], 'image')}"]
    if result["partial"]:
        absent = len(result["missing"]) + len(result["failed"])
        unscored = result.get("unscored", 0)  # earlier versions do not count them
        causes = {"missing or damaged": absent, "without a reward": unscored}
        counts = [f"{counted(count, 'image')} {cause}" for cause, count in causes.items() if count]
        notes.append(f"PARTIAL: {', '.join(counts)}")
    return Table(title, ("metric", "value", "prompts", "images"), rows, notes)


def render(table: Table, form: str) -> str:
    """Return a table in one of FORMS."""
    return _RENDERERS[form](table)


def write_results(folder: Path, rows: Sequence[Row], groups: dict[str, Any]) -> None:
    """Write the per-image file and the table of an evaluation, all but its manifest.

    Args:
      groups: of the manifest; `result` gets the name and the digest of the per-image file.
    """
    data = dump_rows(rows)
    groups["result"]["file"] = {"name": ROWS_NAME, "sha256": hashlib.sha256(data).hexdigest()}
    LocalFolder(folder).write(ROWS_NAME, data)
    write_all(folder, NAME, table_of(Evaluation(str(folder), folder, groups)))


def write_all(folder: Path, name: str, table: Table) -> None:
    """Write a table as text, CSV and LaTeX."""
    for form, ending in ENDINGS.items():
        write_atomic(folder / f"{name}{ending}", render(table, form).encode("utf-8"))


def format_cell(cell: str | Cell) -> str:
    """Return a cell as text: 0.613 (0.570 to 0.642)*."""
    if isinstance(cell, str):
        return cell
    if cell.value is None:
        return "-"
    text = cell.write(cell.value)
    if cell.low is not None and cell.high is not None:
        text += f" ({cell.write(cell.low)} to {cell.write(cell.high)})"
    return text + cell.note


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as lines, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _text(table: Table) -> str:
    rows = [table.columns, *([format_cell(c) for c in row] for row in table.rows)]
    return "\n".join([table.title, "", *align(rows), "", *table.notes]) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # What stands beside a column: of numbers the interval, and marks where a cell has one.
    columns = [[row[n] for row in table.rows] for n in range(len(table.columns))]
    numbers = [[cell for cell in column if isinstance(cell, Cell)] for column in columns]
    beside = [(" low", " high") if own else () for own in numbers]
    marked = [any(cell.note for cell in own) for own in numbers]
    heads: list[str] = []
    for name, ends, mark in zip(table.columns, beside, marked, strict=True):
        heads += [name, *(name + end for end in ends), *[f"{name} mark"] * mark]
    writer.writerow(heads)
    for row in table.rows:
        line: list[Any] = []
        for cell, ends, mark in zip(row, beside, marked, strict=True):
            if isinstance(cell, Cell):
                line += [cell.value, cell.low, cell.high, *[cell.note.strip()] * mark]
            else:
                line += [cell.strip(), *[None] * (len(ends) + mark)]
        writer.writerow(line)
    return out.getvalue()


def _latex(table: Table) -> str:
    lines = [f"% {table.title}", f"\\begin{{tabular}}{{{'l' * len(table.columns)}}}", "\\hline"]
    lines += [" & ".join(map(_escape, table.columns)) + r" \\", "\\hline"]
    for row in table.rows:
        cells = []
        for cell in row:
            text = _escape(format_cell(cell))
            bold = isinstance(cell, Cell) and cell.bold
            cells.append(f"\\textbf{{{text}}}" if bold else text)
        lines.append(" & ".join(cells) + r" \\")
    lines += ["\\hline", "\\end{tabular}", *(f"% {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    indent = len(text) - len(text.lstrip())
    return r"\quad " * bool(indent) + text.strip().translate(_LATEX)


def _json(table: Table) -> str:
    rows = [
        [dataclasses.asdict(cell) if isinstance(cell, Cell) else cell for cell in row]
        for row in table.rows
    ]
    value = {"title": table.title, "columns": list(table.columns), "rows": rows}
    return to_json(value | {"notes": list(table.notes)}).decode("utf-8")


_RENDERERS = {"text": _text, "csv": _csv, "latex": _latex, "json": _json}
