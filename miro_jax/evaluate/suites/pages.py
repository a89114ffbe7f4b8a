"""Pages of evaluations: one file each, with the numbers, the manifest and images to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from miro_jax.data.printable import counted
from miro_jax.data.sources.images import BadImage, load_rgb
from miro_jax.data.storage.files import brief
from miro_jax.evaluate.suites.comparison import table_of as comparison_table
from miro_jax.evaluate.suites.identity import differing
from miro_jax.evaluate.suites.manifest import GROUPS, Evaluation
from miro_jax.evaluate.suites.tables import Cell, Table, cell_of, format_cell, table_of
from miro_jax.report import page
from miro_jax.report.grids import encode_png
from miro_jax.report.page import Tile

_SHOWN, _SIDE = 12, 160  # images on a page, and their longer side in pixels
_HIDDEN = ("result", "benchmark.tag_order")


def render_evaluation(evaluation: Evaluation) -> bytes:
    """Return the page of one evaluation."""
    result, benchmark = evaluation.manifest["result"], evaluation.manifest["benchmark"]
    table = table_of(evaluation)
    return page.render(
        "suite.html",
        title=f"miro_jax {benchmark['name']}",
        kind=f"evaluation, {benchmark['name']}",
        name=evaluation.manifest["images"]["path"],
        sections={"numbers": "Numbers", "images": "Images", "manifest": "Manifest"},
        tiles=[_tile(name, one) for name, one in list(evaluation.metrics.items())[:4]],
        table=_cells(table),
        notes=table.notes,
        partial=result["partial"],
        images=counted(result["images"], "image"),
        prompts=result["prompts"],
        groups=[(heading, _pictures(evaluation, rows)) for heading, rows in _chosen(evaluation)],
        score=benchmark["score"],
        facts=_facts(evaluation),
    )


def render_comparison(evaluations: Sequence[Evaluation], result: Mapping[str, Any]) -> bytes:
    """Return the page of evaluations side by side."""
    table = comparison_table(dict(result))
    fields = [
        (one.name, path, brief(a, 80), brief(b, 80))
        for one in evaluations[1:]
        for path, a, b in differing(_compared(evaluations[0]), _compared(one))
    ]
    return page.render(
        "suites_compared.html",
        title="miro_jax comparison",
        kind=f"comparison, {evaluations[0].manifest['benchmark']['name']}",
        name=" and ".join(one.name for one in evaluations),
        sections={"numbers": "Numbers", "fields": "What else differs"},
        tiles=[],
        table=_cells(table),
        notes=table.notes,
        first=evaluations[0].name,
        fields=fields,
        forced=any(value["forced"] for row in result["rows"] for value in row["values"]),
    )


def _compared(evaluation: Evaluation) -> dict[str, Any]:
    groups = ("judge", "rewards", "model", "sampling", "post_selection")
    kept: dict[str, Any] = {group: evaluation.manifest[group] for group in groups}
    return kept | {"images.sizes": evaluation.manifest["images"].get("sizes")}


def _tile(name: str, metric: Mapping[str, Any]) -> Tile:
    cell = cell_of(metric)
    if cell.value is None:
        return Tile("-", name)
    return Tile(cell.write(cell.value, 3), name, _interval(cell))


def _interval(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return ""
    return f"{cell.write(cell.low, 3)} to {cell.write(cell.high, 3)}"


def _cells(table: Table) -> dict[str, Any]:
    """Return heads and rows of (text, small print, bold)."""
    rows = []
    for row in table.rows:
        cells = []
        for cell in row:
            if isinstance(cell, Cell) and cell.value is not None and (small := _interval(cell)):
                cells.append((f"{cell.write(cell.value)}{cell.note}", small, cell.bold))
            else:
                cells.append((format_cell(cell).strip(), "", False))
        indented = isinstance(row[0], str) and row[0].startswith(" ")
        rows.append({"cells": cells, "indented": indented})
    return {"heads": list(table.columns), "rows": rows, "title": table.title}


def _chosen(evaluation: Evaluation) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return headings and rows: one image of a prompt, spread over the tags."""
    rows, score = evaluation.rows, evaluation.manifest["benchmark"]["score"]
    if not score:
        return [("", _spread(rows))]
    right = _spread([row for row in rows if row[score]])
    return [("correct", right), ("not correct", _spread([row for row in rows if not row[score]]))]


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a few rows of different prompts, evenly over the list."""
    firsts = list({row["key"]: row for row in reversed(rows)}.values())[::-1]
    count = min(_SHOWN, len(firsts))
    return [firsts[index * len(firsts) // count] for index in range(count)]


def _pictures(
    evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]
) -> list[tuple[Any, str, str]]:
    """Return (data URI, prompt, what is said) of the images that are still there."""
    shown = []
    for row in rows:
        try:
            pixels = load_rgb(evaluation.path_of(row).read_bytes(), min_side=1)
        except (OSError, BadImage):
            continue
        image = Image.fromarray(pixels)
        image.thumbnail((_SIDE, _SIDE))
        if (times := _SIDE // max(image.size)) > 1:  # of the bench: pixels that can be seen
            image = image.resize(
                (image.width * times, image.height * times), Image.Resampling.NEAREST
            )
        reasons = "; ".join(_reason(one) for one in row.get("reasons", []))
        shown.append((page.data_uri(encode_png(np.asarray(image))), row["prompt"], reasons))
    return shown


def _reason(one: Any) -> str:
    if isinstance(one, Mapping):
        return " ".join(str(one[key]) for key in ("rule", "class") if key in one)
    return str(one)


def _facts(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Return the groups of the manifest as name -> field -> text."""
    groups = {}
    for group in GROUPS:
        if group in _HIDDEN:
            continue
        values = evaluation.manifest[group].items()
        groups[group] = {k: brief(v) for k, v in values if f"{group}.{k}" not in _HIDDEN}
    return groups
