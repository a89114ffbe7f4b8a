"""One SVG image of all rewards: a panel each with its histogram and percentiles."""

from collections.abc import Mapping

from markupsafe import Markup

from miro_jax.report.charts import histogram, svg_file
from miro_jax.report.page import format_number

_WIDTH, _HEIGHT = 460, 270  # of a panel, in SVG units


def draw(rewards: Mapping[str, dict], scale: str) -> str:
    """Draw a panel for each reward.

    Args:
      rewards: identity -> what `statistics.describe` returns.
      scale: what the scores are measured in, for the axes.

    Returns:
      An SVG file.
    """
    title = "Scores, with median (solid), 5th and 95th percentile (dashed)"
    panels = [_panel(name, facts, scale) for name, facts in rewards.items()]
    return svg_file(title, panels, _WIDTH, _HEIGHT)


def _panel(name: str, facts: dict, scale: str) -> Markup:
    if not facts["count"]:
        return Markup('<text class="label" x="2" y="13">{}: no scores</text>').format(name)
    labels = {"5": "5 %", "50": "median", "95": "95 %"}
    note = "   ".join(f"{t} {format_number(facts['percentiles'][p])}" for p, t in labels.items())
    mean, std = format_number(facts["mean"]), format_number(facts["std"])
    alt = f"{name}: {facts['count']} scores, mean {mean}, standard deviation {std}"
    chart = histogram(facts, f"{name}, {scale}", width=_WIDTH, height=_HEIGHT).svg(alt)
    return chart + Markup(
        '<text x="{}" y="13" text-anchor="end" xml:space="preserve">{}</text>'
    ).format(_WIDTH - 12, note)
