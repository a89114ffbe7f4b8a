"""One SVG picture of all rewards: a panel each with its histogram and percentiles."""

import html
from collections.abc import Mapping

from miro_jax.report.charts import Chart, fit_axis, format_number
from miro_jax.report.style import PALETTE

_WIDTH, _HEIGHT, _GAP = 460, 270, 24  # of a panel, in SVG units
_COLUMNS = 2
_TITLE = 46  # room above all
_STYLE = (
    PALETTE
    + """
rect.paper { fill: var(--paper); }
text { fill: var(--quiet); font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
text.label { fill: var(--ink); font-size: 12.5px; }
text.title { fill: var(--ink); font-size: 17px; font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis, .tick { stroke: var(--quiet); stroke-width: 1; }
.bar { fill: var(--a); opacity: .8; }
polyline { fill: none; }
.middle { stroke: var(--b); stroke-width: 2; }
.side { stroke: var(--b); stroke-width: 1.4; stroke-dasharray: 5 4; }
"""
)
# Percentile -> class of its line, and what it is called.
_MARKS = {"5": ("side", "5 %"), "50": ("middle", "median"), "95": ("side", "95 %")}


def draw(rewards: Mapping[str, dict], scale: str) -> str:
    """Draw a panel for each reward.

    Args:
        rewards: identity -> what `summary.describe` says.
        scale: what the scores are measured in, for the axes.

    Returns:
        An SVG file.
    """
    columns = min(_COLUMNS, max(len(rewards), 1))
    lines = -(-len(rewards) // columns)
    width = columns * (_WIDTH + _GAP) + _GAP
    height = _TITLE + lines * (_HEIGHT + _GAP)
    panels = []
    for number, (name, facts) in enumerate(rewards.items()):
        x = _GAP + (number % columns) * (_WIDTH + _GAP)
        y = _TITLE + (number // columns) * (_HEIGHT + _GAP)
        panels.append(
            f'<svg x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}">'
            f"{_panel(name, facts, scale)}</svg>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>'
        f'<text class="title" x="{_GAP}" y="28">Scores, with median (solid), 5th and 95th '
        "percentile (dashed)</text>"
        f"{''.join(panels)}</svg>\n"
    )


def _panel(name: str, facts: dict, scale: str) -> str:
    label = f"{name}, {scale}"
    if not facts["count"]:
        return f'<text class="label" x="2" y="13">{html.escape(name)}: no scores</text>'
    counts, edges = facts["histogram"]["counts"], facts["histogram"]["edges"]
    chart = Chart(fit_axis(edges, label), fit_axis(counts, "images", zero=True), _WIDTH, _HEIGHT)
    chart.bars(edges, counts)
    found = facts["percentiles"]
    for percentile, (kind, _) in _MARKS.items():
        chart.mark(found[percentile], kind)
    note = "   ".join(f"{text} {format_number(found[p])}" for p, (_, text) in _MARKS.items())
    mean, std = format_number(facts["mean"]), format_number(facts["std"])
    alt = f"{name}: {facts['count']} scores, mean {mean}, standard deviation {std}"
    return (
        chart.svg(alt)
        + f'<text x="{_WIDTH - 12}" y="13" text-anchor="end" xml:space="preserve">{note}</text>'
    )
