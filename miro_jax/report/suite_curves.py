"""Curves of a run's evaluations over its checkpoints, drawn from RUN/evals/step-001000/SUITE.

A checkpoint that was not evaluated is a gap in the points, not a value.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from miro_jax.data.json_file import read_json
from miro_jax.report.charts import Chart, fit_axis

EVALS = "evals"  # folder of a run
_FILE = "evaluation.json"
_STEP = re.compile(r"step-(\d+)$")
INTERVAL = {"value": (float, None), "low?": (float, None), "high?": (float, None)}
_SCHEMA = {"result": {"metrics": {str: INTERVAL}, "order?": [str]}}


def read_curves(run: Path) -> dict[str, dict[str, dict[int, Mapping[str, Any]]]]:
    """Return suite -> metric -> step -> value, low, high of the evaluations that are finished."""
    curves: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for path in sorted((run / EVALS).glob(f"step-*/*/{_FILE}")):
        step = _STEP.search(path.parent.parent.name)
        if step is None:
            continue
        result = read_json(path, _SCHEMA)["result"]
        for name in result.get("order", sorted(result["metrics"])):
            value = result["metrics"][name]
            if value["value"] is not None:
                own = curves.setdefault(path.parent.name, {}).setdefault(name, {})
                own[int(step[1])] = value
    return curves


def draw_curves(run: Path) -> dict[str, dict[str, Markup]]:
    """Return suite -> metric -> chart, of suites that were evaluated at two steps or more."""
    drawn: dict[str, dict[str, Markup]] = {}
    for suite, metrics in read_curves(run).items():
        for name, values in metrics.items():
            if len(values) > 1:
                drawn.setdefault(suite, {})[name] = _draw(suite, name, dict(sorted(values.items())))
    return drawn


def mark_of(metric: Mapping[str, Any], divisor: float = 1.0) -> dict[str, float]:
    """Return mean, low and high of a metric; the diversity of a set has no interval."""
    mean = metric["value"]
    ends = {end: mean if metric.get(end) is None else metric[end] for end in ("low", "high")}
    return {name: one / divisor for name, one in {"mean": mean, **ends}.items()}


def _draw(suite: str, name: str, values: Mapping[int, Mapping[str, Any]]) -> Markup:
    marks = [mark_of(one) for one in values.values()]
    ends = [mark[end] for mark in marks for end in ("low", "high")]
    steps = list(values)
    chart = Chart(fit_axis(steps, "training step"), fit_axis(ends, name), width=360, height=220)
    chart.line(steps, [mark["mean"] for mark in marks], "series a")
    titles = [f"step {s:,}: {m['mean']:.4g}" for s, m in zip(steps, marks, strict=True)]
    chart.points(steps, marks, "a", titles)
    return chart.svg(f"{name} of {suite} over training steps, from {steps[0]} to {steps[-1]}")
