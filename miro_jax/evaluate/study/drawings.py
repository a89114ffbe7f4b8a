"""The charts of a study, by figure: title -> SVG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from miro_jax.evaluate.study.best_of import BestOf, Catch
from miro_jax.evaluate.study.dials import Dial, Dials
from miro_jax.evaluate.study.faster import Faster, Speedup
from miro_jax.evaluate.study.specialists import Specialists
from miro_jax.evaluate.study.sweep import Sweep
from miro_jax.report.charts import Axis, Chart, fit_axis, unit_axis
from miro_jax.report.page import percent
from miro_jax.report.radar import INNER, radar
from miro_jax.report.statistics import Mean

_MOST_POINTS = 12  # with bars, on a curve
_SMALL = {"width": 260, "height": 210}


def _faster(claim: Faster) -> dict[str, Markup]:
    return {name: _curves(claim.steps, name, one) for name, one in claim.axes.items()}


def _curves(steps: Sequence[int], name: str, one: Speedup) -> Markup:
    """Draw both curves of one axis with the baseline's final value."""
    rows = {"baseline": one.baseline, "miro": one.miro}
    values = [v[end] for row in rows.values() for v in row for end in ("mean", "low", "high")]
    chart = Chart(
        fit_axis([0, *steps], "updates", zero=True), fit_axis(values, "mean score"), **_SMALL
    )
    chart.level(one.baseline[-1]["mean"], "ideal")
    for curve, kind, marker, label in _pair(**rows):
        _series(chart, steps, curve, kind, marker, label)
    ends = f"baseline {one.baseline[-1]['mean']:.3f}, MIRO {one.miro[-1]['mean']:.3f}"
    return chart.svg(f"{name} over updates; at the end {ends}.")


def _pair(baseline: Any, miro: Any) -> list[tuple[Any, str, str, str]]:
    return [(baseline, "b", "box", "baseline"), (miro, "a", "disc", "MIRO")]


def _series(
    chart: Chart, xs: Sequence[float], values: Sequence[Mean], kind: str, marker: str, label: str
) -> None:
    """Draw a line, and points with intervals on at most some of it."""
    chart.line(xs, [value["mean"] for value in values], f"series {kind}")
    every = -(-len(xs) // _MOST_POINTS)
    some = range(len(xs) - 1, -1, -every)
    titles = [_title(label, xs[i], values[i]) for i in some]
    points: list[Mapping[str, Any]] = [values[i] for i in some]
    chart.points([xs[i] for i in some], points, kind, titles, marker=marker)


def _title(label: str, x: float, value: Mean) -> str:
    return f"{label}, {x:g}: {value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _specialists(claim: Specialists) -> dict[str, Markup]:
    """Draw a radar for each specialist, with MIRO and the baseline."""
    columns = {v: [value["mean"] for value in row] for v, row in claim.values.items()}
    low = [min(column) for column in zip(*columns.values(), strict=True)]
    high = [max(column) for column in zip(*columns.values(), strict=True)]
    spans = list(zip(low, high, strict=True))
    charts = {}
    for name in claim.specialists:
        rows = {"ideal": "baseline", "series b": f"only_{name}", "series a": "miro"}
        lines = {
            kind: [_share(*pair) for pair in zip(columns[v], spans, strict=True)]
            for kind, v in rows.items()
            if v in columns
        }
        own = claim.axes.index(name)
        words = f"only_{name} {columns[f'only_{name}'][own]:.3f}, MIRO {columns['miro'][own]:.3f}"
        overall = f"{columns[f'only_{name}'][-1]:.3f}, MIRO {columns['miro'][-1]:.3f}"
        alt = f"Radar: {name} of {words}; overall of only_{name} {overall}."
        charts[name] = radar([_label(axis) for axis in claim.axes], lines, alt)
    return charts


def _label(axis: str) -> str:
    """Return a short name that tells categories from rewards."""
    return axis if "/" not in axis else axis.partition("/")[2] + " prompts"


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return 1.0 if high == low else INNER + (1 - INNER) * (value - low) / (high - low)


def _best_of(claim: BestOf) -> dict[str, Markup]:
    return {name: _catch_chart(name, one) for name, one in claim.axes.items()}


def _catch_chart(name: str, one: Catch) -> Markup:
    """Draw the best of n of the baseline and the level of one image of MIRO."""
    means, count = [value["mean"] for value in one.curve], len(one.curve)
    ticks = tuple(float(2**k) for k in range(0, count.bit_length(), 1 + (count > 16)))
    across = Axis(1, max(count, 2), ticks, "images of the baseline, log scale", log=True)
    chosen = sorted({round(count ** (i / 7)) for i in range(8)})
    points = [one.curve[n - 1] for n in chosen]
    ends = [point[end] for point in points for end in ("low", "high")]
    chart = Chart(across, fit_axis([*means, *ends, one.one["mean"]], "expected best"), **_SMALL)
    chart.level(one.one["mean"], "series a")
    chart.line(range(1, count + 1), means, "series b")
    titles = [_title("baseline", n, v) for n, v in zip(chosen, points, strict=True)]
    chart.points(chosen, points, "b", titles, marker="box")
    words = f"from {means[0]:.3f} to {means[-1]:.3f}; one of MIRO {one.one['mean']:.3f}"
    return chart.svg(f"{name}: best of n of the baseline {words}.")


def _sweep(claim: Sweep) -> dict[str, Markup]:
    axis = unit_axis(f"target of {claim.reward}")
    ends = [v[end] for row in (claim.report, claim.search) for v in row for end in ("low", "high")]
    chart = Chart(axis, fit_axis(ends, "overall score", most=1.0))
    _series(chart, claim.targets, claim.search, "b", "box", "chosen on")
    _series(chart, claim.targets, claim.report, "a", "disc", "reported on")
    highest = f"chosen target {claim.target:g}, {percent(max(claim.best_at))} of resamplings agree"
    charts = {"overall score": chart.svg(f"Overall score by the {axis.label}; {highest}.")}
    if claim.score:
        ends = [value[end] for value in claim.score for end in ("low", "high")]
        chart = Chart(axis, fit_axis(ends, f"mean {claim.reward}"))
        _series(chart, claim.targets, claim.score, "a", "disc", claim.reward)
        charts[claim.reward] = chart.svg(f"Mean {claim.reward} by its target.")
    return charts


def _dials(claim: Dials) -> dict[str, Markup]:
    return {name: _dial(name, dial) for name, dial in claim.dials.items()}


def _dial(name: str, dial: Dial) -> Markup:
    ends = [value[end] for value in dial.achieved for end in ("low", "high")]
    chart = Chart(unit_axis("level requested"), fit_axis(ends, "mean score"), **_SMALL)
    _series(chart, dial.levels, dial.achieved, "a", "disc", "requested")
    first, last = (dial.achieved[i]["mean"] for i in (0, -1))
    return chart.svg(f"Dial of {name}: mean score from {first:.3f} to {last:.3f}.")


CHARTS: dict[str, Callable[[Any], dict[str, Markup]]] = {
    "F3": _faster,
    "F4": _specialists,
    "F6": _best_of,
    "F7": _sweep,
    "F8": _dials,
}
