"""A figure: panels side by side, a legend, how to read it, and its numbers beside it.

`F.svg` needs nothing but itself. `F.json` holds the numbers, their sources and the warnings,
`F.csv` the drawn points, a row each. Series differ by marker and stroke, so that the figure reads
in grey.
"""

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from miro_jax.report import page
from miro_jax.report.charts import file_style

KINDS = ("b", "a", "c", "d")  # of series, in the order in which they are given: the first is hollow
MARKERS = {"a": "disc", "b": "box", "c": "diamond", "d": "triangle"}
_GAP, _TOP, _LINE, _HEADING = 24, 34, 18, 20  # SVG units
_KEY = 46  # before a label of the legend
_LETTER, _TITLE_LETTER = 6.3, 8.0  # of a line of text and of the title, wide on average


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
      heading: what it shows. lines: what it says, below it.
      size: width and height in SVG units, of one that has a row of its own; None is the figure's.
    """

    heading: str
    drawing: Markup
    lines: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure, ready to be written.

    Attributes:
      name: of the kind. title: what it shows. reading: how to read it.
      panels: in order. legend: class of the style sheet -> label; () for none.
      rows: drawn points, for the table. numbers: results, plain JSON.
      warnings: what a reader must know. sources: of the numbers, label -> where from.
      width, height: of a panel, in SVG units. columns: at most.
    """

    name: str
    title: str
    reading: str
    panels: Sequence[Panel]
    legend: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    numbers: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    width: int = 420
    height: int = 250
    columns: int = 2

    def svg(self) -> str:
        """Return the figure as an SVG file of its own."""
        alike = [panel for panel in self.panels if panel.size is None]
        columns = max(min(self.columns, len(alike)), 1)
        widths = [panel.size[0] for panel in self.panels if panel.size is not None]
        widths += [_KEY + math.ceil(len(label) * _LETTER) for label in self.legend.values()]
        wide = max([columns * (self.width + _GAP) + _GAP, 520, *(w + 2 * _GAP for w in widths)])
        letters = int((wide - 2 * _GAP) / _LETTER)
        title = textwrap.wrap(self.title, int((wide - 2 * _GAP) / _TITLE_LETTER))
        above = textwrap.wrap(self.reading, letters)
        head = _TOP + (len(title) - 1) * _HEADING
        legend, rows = _spread(self.legend, head + len(above) * _LINE + 16, wide)
        notes = [f"Warning: {warning}" for warning in self.warnings]
        notes += [f"Source of {label}: {source}" for label, source in self.sources.items()]
        below = [line for note in notes for line in textwrap.wrap(note, letters)]
        top = head + len(above) * _LINE + (rows * _LINE + 8 if rows else 0) + 10
        placed, bottom = self._place(top, columns)
        sizes = {
            "wide": wide,
            "high": bottom + len(below) * _LINE + 8,
            "gap": _GAP,
            "line": _LINE,
            "heading": _HEADING,
            "head": head,
            "bottom": bottom + 8,
        }
        texts = title, above, below
        return page.draw("figure", self.title, texts, legend, placed, sizes, file_style())

    def _place(self, top: float, columns: int) -> tuple[list[tuple], float]:
        """Return (x, y, width, height, panel) of each panel, and where they end."""
        placed, y = [], top
        for panel in self.panels:
            if panel.size is not None:
                placed.append((_GAP, y, *panel.size, panel))
                y += _HEADING + panel.size[1] + len(panel.lines) * _LINE + _GAP
        alike = [panel for panel in self.panels if panel.size is None]
        lines = max((len(panel.lines) for panel in alike), default=0)
        height = _HEADING + self.height + lines * _LINE + _GAP
        for number, panel in enumerate(alike):
            x = _GAP + number % columns * (self.width + _GAP)
            placed.append((x, y + number // columns * height, self.width, self.height, panel))
        return placed, y + math.ceil(len(alike) / columns) * height

    def table(self) -> str:
        """Return the drawn points as CSV."""
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()

    def facts(self) -> dict[str, Any]:
        """Return what the JSON file beside the figure holds."""
        return {
            "figure": self.name,
            "title": self.title,
            "numbers": dict(self.numbers),
            "warnings": list(self.warnings),
            "sources": dict(self.sources),
            "points": [dict(row) for row in self.rows],
        }


def _spread(
    legend: Mapping[str, str], y: float, wide: float
) -> tuple[list[tuple[str, str, str, float, float]], int]:
    """Return (class, marker, label, x, y) of each entry, side by side, and the number of rows."""
    entries, x, rows = [], float(_GAP), min(len(legend), 1)
    for kind, label in legend.items():
        width = _KEY + len(label) * _LETTER
        if x > _GAP and x + width > wide - _GAP:
            x, rows = float(_GAP), rows + 1
        entries.append((kind, MARKERS[kind], label, x, y + (rows - 1) * _LINE))
        x += width + 22
    return entries, rows


def legend_of(labels: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Give each of at most four series its class; returns class -> label, and label -> class.

    Raises:
      ValueError: there are more.
    """
    if len(labels) > len(KINDS):
        raise ValueError(
            f"A figure shows at most {len(KINDS)} series; got {', '.join(labels)}. Choose with "
            "--models."
        )
    return dict(zip(KINDS, labels, strict=False)), dict(zip(labels, KINDS, strict=False))
