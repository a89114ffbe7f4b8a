"""The section on training: losses and the rewards of previews over steps."""

import html
import math

from miro_jax.report.charts import Axis, Chart, fit_axis, format_number, smooth, thin
from miro_jax.report.facts import Facts
from miro_jax.report.page import Section, figure

_MOST_POINTS = 300
# name of the metric -> (what the axis says, logarithmic if all values are above 0, what it is)
_CURVES = {
    "mse": (
        "velocity error, mean square",
        True,
        "How far the predicted velocity is from the true one.",
    ),
    "loss": (
        "loss",
        False,
        "The same error, weighted by what the network expects at each noise level.",
    ),
    "grad_norm": ("gradient norm", True, "Length of the gradient, before clipping."),
    "images_per_second": ("pictures per second", False, "Speed of training steps."),
}


def training(facts: Facts) -> Section:
    """Show the curves of `metrics.jsonl`."""
    charts = [_curve(facts, name) for name in _CURVES if facts.series(name)[0]]
    body = '<div class="pair">' + "".join(charts) + "</div>" if charts else _nothing()
    return Section(
        "training",
        "Training",
        "Each point of a thin line is one logged batch; the thick line is the mean of its "
        "neighbours.",
        body + _reward_curves(facts),
    )


def _nothing() -> str:
    return '<p class="missing">This folder holds no training metrics.</p>'


def _curve(facts: Facts, name: str) -> str:
    label, log, caption = _CURVES[name]
    steps, values = thin(*facts.series(name), _MOST_POINTS)
    log = log and all(v > 0 for v in values if math.isfinite(v))
    soft = smooth(values, max(1, len(values) // 15))
    label += ", log scale" if log else ""
    chart = Chart(
        _step_axis(steps), fit_axis(values, label, log=log, zero=name == "images_per_second")
    )
    chart.line(steps, values, "raw")
    chart.line(steps, soft, "series a")
    alt = (
        f"{label} over training steps, from {format_number(soft[0])} to {format_number(soft[-1])}."
    )
    return figure(chart.svg(alt), caption)


def _step_axis(steps: list[float]) -> Axis:
    return fit_axis([0, *steps], "step", zero=True)


def _reward_curves(facts: Facts) -> str:
    """Return small multiples of the previews' rewards, with the training data's mean."""
    shown = [name for name in facts.rewards if facts.series(f"reward/{name}")[0]]
    if not shown:
        return ""
    known = facts.evaluation["training"]["rewards"] if facts.evaluation else {}
    cells = []
    for name in shown:
        steps, values = facts.series(f"reward/{name}")
        mean = known.get(name, {}).get("mean")
        extra = [mean] if mean is not None else []
        chart = Chart(
            _step_axis(steps), fit_axis([*values, *extra], "mean score"), width=260, height=180
        )
        if mean is not None:
            chart.level(mean, "ideal")
        chart.line(steps, values, "series a")
        points = [{"mean": v, "low": v, "high": v} for v in values]
        titles = [f"step {s:g}: {v:.3f}" for s, v in zip(steps, values, strict=True)]
        chart.points(steps, points, "a", titles)
        alt = f"{name} of preview pictures, from {values[0]:.3f} to {values[-1]:.3f}" + (
            f"; training data {mean:.3f}." if mean is not None else "."
        )
        cells.append(f'<div class="cell"><h4>{html.escape(name)}</h4>{chart.svg(alt)}</div>')
    caption = "Mean reward of the preview pictures made during training with all targets at 1." + (
        " The dashed line is the mean of the training data." if known else ""
    )
    return "<h3>Rewards of previews</h3>" + figure(
        f'<div class="multiples">{"".join(cells)}</div>', caption
    )
