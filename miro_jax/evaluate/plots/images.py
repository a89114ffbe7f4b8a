"""Plots of sampled images: isolation, trade-offs, progression; with a table of scores, curves too.

The images are those of folders that `miro-jax sample` wrote; what varies is read from the targets
in their manifests. Scores come from `miro-jax score FOLDER --rewards=... --out=TABLE`.

Letters: P prompts, C columns.
"""

import csv
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import parquet

from miro_jax.data.json_file import parse_lines
from miro_jax.data.regular_file import open_regular, read_regular
from miro_jax.evaluate.plots.curves import draw_curve, extent, resampled
from miro_jax.evaluate.plots.facts import Source
from miro_jax.evaluate.plots.figure import Figure, Panel
from miro_jax.report import page
from miro_jax.report.charts import Chart, fit_axis, unit_axis
from miro_jax.report.page import data_uri, format_number
from miro_jax.report.statistics import rank_correlation

_MOST_PROMPTS, _SIDE, _LABEL = 4, 96, 150  # rows, SVG units of an image, of a row's label
_MOST_BYTES = 1 << 25
_BAR = (150, 19, 420)  # left, step, width

Cell = dict[str, Any]  # an entry of a manifest, with its folder


def isolation(sources: Sequence[Source], scores: str | None) -> Figure:
    """Draw what guidance by each reward alone does; with scores, what each does to all of them."""
    cells = _cells(sources)
    columns: dict[str, list[Cell]] = {}
    for cell in cells:
        alone = _varied(cell)
        label = "all together" if len(alone) == len(cell["targets"]) else " and ".join(alone)
        if cell["guidance_scale"] == 0:  # its branches differ, too, and it follows one alone
            label = ""
        columns.setdefault(label or "no guidance", []).append(cell)
    if all(len(_varied(own[0])) != 1 for own in columns.values()):
        raise ValueError(
            "isolation needs the folder of `miro-jax sample isolate`, where the branches of an "
            "image differ in one reward; here they differ in more, or in none."
        )
    panels, rows, numbers = [_grid("images", columns)], [], {}
    if scores is not None:
        table = _read_scores(scores)
        for judge in _judges(table):
            found = {name: _mean(table, judge, own) for name, own in columns.items()}
            numbers[judge] = found
            panels.append(_bars(judge, found))
            rows += [{"panel": judge, "series": n, "value": v} for n, v in found.items()]
    return Figure(
        "isolation",
        "Isolation: guidance by each reward alone",
        "A column is one reward in which the positive and the negative branch differ; prompts and "
        "noise are the same in a row. Bars: the mean score of a column, for each reward that "
        "scored the images.",
        panels,
        {},
        rows,
        {"mean scores by column": numbers},
        height=_BAR[1] * len(columns),
    )


def tradeoff(sources: Sequence[Source], scores: str | None) -> Figure:
    """Draw a strip from one reward to another; with scores, each reward along it."""
    cells = _cells(sources)
    pair = list(dict.fromkeys(name for cell in cells for name in _varied(cell)))
    if len(pair) != 2:
        raise ValueError(
            "tradeoff needs the folder of `miro-jax sample tradeoff A B`, whose branches differ in "
            f"two rewards; here they differ in {', '.join(pair) or 'none'}."
        )
    first = pair[0]
    columns: dict[float, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell["negative_targets"][first]):
        columns.setdefault(float(cell["negative_targets"][first]), []).append(cell)
    panels = [_grid("images", {f"u = {u:.3g}": own for u, own in columns.items()})]
    rows, numbers = [], {}
    if scores is not None:
        table = _read_scores(scores)
        for judge in _judges(table):
            panel, points, slope = _curve(judge, table, columns, first)
            panels.append(panel)
            rows += points
            numbers[judge] = slope
    return Figure(
        "tradeoff",
        f"Trade-off: from {first} to {pair[1]}",
        f"The negative target is u for {first} and 1 - u for {pair[1]}: at u = 0 guidance is by "
        f"{first} alone, at u = 1 by {pair[1]} alone. Curves: mean score over prompts with 95 % "
        "intervals.",
        panels,
        {},
        rows,
        {"rewards": pair, "rank correlation with u": numbers},
    )


def progression(sources: Sequence[Source]) -> Figure:
    """Draw the same prompts over checkpoints, a source each, in the order of the sources."""
    columns = {source.label: _cells([source]) for source in sources}
    prompts = [{cell["prompt"] for cell in own} for own in columns.values()]
    shared = set.intersection(*prompts)
    if len(columns) < 2 or not shared:
        raise ValueError(
            "progression needs two or more folders of `miro-jax sample` with a prompt in common, "
            f"such as 25000=A 50000=B; {', '.join(columns)} share {len(shared)}."
        )
    kept = {k: [c for c in own if c["prompt"] in shared] for k, own in columns.items()}
    how = [{(c["prompt"], c["seed"], c["guidance_scale"]) for c in own} for own in kept.values()]
    warning = "the folders differ in seed or guidance: columns differ by more than the checkpoint."
    return Figure(
        "progression",
        "Progression: the same prompts over checkpoints",
        "A column is a checkpoint, a row a prompt; the noise of a row is the same.",
        [_grid("images", kept)],
        {},
        [],
        {"checkpoints": list(columns), "prompts": sorted(shared)},
        () if all(one == how[0] for one in how) else (warning,),
    )


def _cells(sources: Sequence[Source]) -> list[Cell]:
    """Return the images of the sources, each with its folder."""
    cells = []
    for source in sources:
        if source.folder is None:
            raise ValueError(
                f"{source.path} must be a folder that `miro-jax sample` wrote, with manifest.json."
            )
        cells += [{**entry, "folder": source.folder} for entry in source.images]
    return cells


def _varied(cell: Cell) -> list[str]:
    """Return the rewards in which the branches of an image differ."""
    negative = cell["negative_targets"]
    return [name for name, level in cell["targets"].items() if level != negative.get(name)]


def _grid(heading: str, columns: Mapping[Any, Sequence[Cell]]) -> Panel:
    """Draw the first image of each prompt and column."""
    first: dict[tuple[str, Any], Cell] = {}
    for name, own in columns.items():
        for cell in own:
            first.setdefault((cell["prompt"], name), cell)
    prompts = list(dict.fromkeys(prompt for prompt, _ in first))[:_MOST_PROMPTS]
    images = []
    for row, prompt in enumerate(prompts):
        for column, name in enumerate(columns):
            if (cell := first.get((prompt, name))) is not None:
                data = read_regular(Path(cell["folder"]) / cell["file"], _MOST_BYTES)
                with Image.open(io.BytesIO(data)) as image:
                    sharp = image.width < _SIDE  # its pixels are seen, as on the other pages
                x, y = _LABEL + column * (_SIDE + 4), 22 + row * (_SIDE + 4)
                images.append((x, y, data_uri(data), sharp))
    width = _LABEL + len(columns) * (_SIDE + 4)
    height = 22 + len(prompts) * (_SIDE + 4)
    names = [str(name).replace("_", " ") for name in columns]
    lines = [textwrap.wrap(prompt, 22)[:4] for prompt in prompts]
    drawing = page.draw("images", images, names, lines, _LABEL, _SIDE, width, height, heading)
    return Panel(f"{heading}, the first of each prompt", drawing, size=(width, height))


def _bars(judge: str, found: Mapping[str, float]) -> Panel:
    left, step, width = _BAR
    values = [value for value in found.values() if math.isfinite(value)]
    low = min([0.0, *values])
    room = (width - left - 60) / ((max([0.0, *values]) - low) or 1)
    rows = [
        (name.replace("_", " "), room * (value - low), format_number(value), "bar")
        for name, value in found.items()
    ]
    alt = f"{judge}: " + ", ".join(f"{name} {text}" for name, _, text, _ in rows)
    drawing = page.draw("bars", rows, left, step, width, step * len(rows), alt)
    return Panel(f"{judge}, bars from {format_number(low)}", drawing)


def _curve(
    judge: str,
    table: Mapping[str, Mapping[str, Any]],
    columns: Mapping[float, Sequence[Cell]],
    a: str,
) -> tuple[Panel, list[dict[str, Any]], float | None]:
    """Draw the mean score of a judge along u; return its rank correlation with u, too."""
    us = np.array(list(columns))
    by_prompt: dict[str, list[list[Cell]]] = {}  # prompt -> its images, by column
    for number, own in enumerate(columns.values()):
        for cell in own:
            empty = [[] for _ in columns]
            by_prompt.setdefault(cell["prompt"], empty)[number].append(cell)
    if lacking := [prompt for prompt, own in by_prompt.items() if not all(own)]:
        raise ValueError(
            "tradeoff with scores needs an image of each prompt at each u; "
            f"{lacking[0]!r} lacks some. Sample all prompts with the same --levels."
        )
    means = [[_mean(table, judge, cells) for cells in own] for own in by_prompt.values()]
    rows = resampled(np.array(means))
    chart = Chart(unit_axis(f"u: from {a} at 0"), fit_axis(extent(rows), "mean score"))
    points = draw_curve(chart, "a", judge, us, rows)
    slope = rank_correlation(us, rows[0])
    trend = "constant" if slope is None else f"rank correlation with u {slope:+.2f}"
    panel = Panel(judge, chart.svg(f"{judge} along u; {trend}."), (trend,))
    return panel, [{"panel": judge, **point} for point in points], slope


def _mean(table: Mapping[str, Mapping[str, Any]], judge: str, cells: Sequence[Cell]) -> float:
    return float(np.mean([_score(table, judge, cell) for cell in cells]))


def _score(table: Mapping[str, Mapping[str, Any]], judge: str, cell: Cell) -> float:
    """Return the score of an image; KeyError does not leave: the file is named."""
    file = cell["file"]
    row = table.get(file, table.get(Path(file).stem))
    if row is None or row.get(judge) in (None, ""):
        raise ValueError(
            f"the table of scores must hold {judge} of every image; it lacks {file}. Score "
            f"{cell['folder']} as a whole."
        )
    return float(row[judge])


def _judges(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the columns of scores, which are named by identities."""
    return [name for name in next(iter(table.values())) if "@" in name]


def _read_scores(path: str) -> dict[str, dict[str, Any]]:
    """Read a table of `miro-jax score`: key of the image -> row.

    Raises:
      ValueError: it is no such table.
    """
    if path.endswith(".parquet"):
        rows = parquet.read_table(path).to_pylist()
    elif path.endswith(".jsonl"):
        rows = parse_lines(read_regular(path, 1 << 30), path, dict)
    else:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows or "key" not in rows[0] or not any("@" in name for name in rows[0]):
        raise ValueError(
            f"{path} must be a table of `miro-jax score`, with a column key and a column for each "
            "reward."
        )
    return {str(row["key"]).rpartition("/")[2]: row for row in rows}
