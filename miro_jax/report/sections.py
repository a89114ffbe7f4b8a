"""The values of a run's page: its charts, headline numbers and facts; `templates/run.html` has the
words around them."""

import math
from typing import Any

from markupsafe import Markup

from miro_jax.data.printable import counted
from miro_jax.report import page
from miro_jax.report.charts import Axis, Chart, fit_axis, smooth, thin, unit_axis
from miro_jax.report.facts import Facts, in_order
from miro_jax.report.page import Tile, format_number, percent
from miro_jax.report.results import Conflict, Dials, Gallery, GenEval, RewardScores
from miro_jax.report.suite_curves import draw_curves

SECTIONS = {
    "pictures": "Pictures",
    "geneval": "Does it follow the prompt?",
    "rewards": "Better than its data?",
    "dials": "Dials",
    "cross": "Cross effects",
    "conflict": "The built-in conflict",
    "training": "Training",
    "run": "The run",
}
OF_SHAPES = ("geneval", "conflict")  # judge the shapes world only
_MOST_POINTS = 300  # of a curve
_LITTLE = 0.1  # of the achieved level: a dial that rises by less is named
# Metric -> (axis label, logarithmic if all values are above 0, what it is).
_CURVES = {
    "mse": ("velocity error, mean square", True, "Error of the predicted velocity."),
    "loss": (
        "loss",
        False,
        "The same error, weighted by what the network expects at each noise level.",
    ),
    "grad_norm": ("gradient norm", True, "Length of the gradient, before clipping."),
    "images_per_second": ("images per second", False, "Speed of training steps."),
}


def values(facts: Facts) -> dict[str, Any]:
    """Return what `templates/run.html` reads."""
    scores, dials = facts.result(RewardScores), facts.result(Dials)
    conflict, table = facts.result(Conflict), facts.result(GenEval)
    refused = facts.config["sample"].get("negative_targets", "")
    shown = table.rows[0]["categories"] if table else ()
    name = facts.folder.resolve().name
    return {
        "title": f"miro_jax run: {name}",
        "kind": "report of a run",
        "name": name,
        "sections": {k: v for k, v in SECTIONS.items() if facts.is_shapes or k not in OF_SHAPES},
        "facts": facts,
        "tiles": headline(facts),
        "gallery": facts.result(Gallery),
        "refused": f"{refused}, other rewards at 0" if refused else "all rewards at 0",
        "geneval": table,
        "categories": in_order(shown, facts.config["evaluate"]["categories"]),
        "scores": scores,
        "score_names": in_order(scores.training, facts.rewards) if scores else [],
        "strips": _strips(scores) if scores else {},
        "dials": dials,
        "dial_charts": {n: dial_chart(dials, n) for n in dials.cross["asked"]} if dials else {},
        "conflict": conflict,
        "conflict_charts": _conflict(conflict) if conflict and conflict.others_asked else {},
        "curves": {_CURVES[n][2]: _curve(facts, n) for n in _CURVES if facts.series(n)[0]},
        "previews": _previews(facts),
        "suite_curves": draw_curves(facts.folder),
        "run_facts": _run_facts(facts),
    }


def headline(facts: Facts) -> list[Tile]:
    """Return the few numbers that matter most."""
    tiles = []
    if table := facts.result(GenEval):
        first, last = table.rows[0]["overall"], table.rows[-1]["overall"]
        note = f"{percent(last['low'])} to {percent(last['high'])}"
        if len(table.rows) > 1:
            note += f"; without guidance {percent(first['accuracy'])}"
        if facts.beside is not None:
            other, shares = facts.beside
            note += f"; {other} {percent(shares.rows[-1]['overall']['accuracy'])}"
        tiles.append(Tile(percent(last["accuracy"]), "of images show what was requested", note))
    scores = facts.result(RewardScores)
    if (dials := facts.result(Dials)) and dials.dials:
        count = f"{len(dials.rising)} of {len(dials.dials)}"
        note = "rank correlation 0.9 or more, and beyond chance" + _by_little(dials)
        tiles.append(Tile(count, "dials rise when turned up", note))
    if scores and dials and dials.dials:
        count = f"{len(dials.reaching(scores.training))} of {len(dials.dials)}"
        note = f"each requested at {dials.asked_levels[-1]:g}"
        tiles.append(Tile(count, "rewards reach the mean of the training data", note))
    elif scores:
        count = f"{len(scores.above_training)} of {len(scores.training)}"
        tiles.append(Tile(count, "rewards above the training data", "at the default targets"))
    _, errors = facts.series("mse")
    if errors:
        last = errors[-max(1, len(errors) // 10) :]
        final = format_number(float(f"{sum(last) / len(last):.3g}"))
        tiles.append(Tile(final, "velocity error at the end", "mean square"))
    return tiles


def _by_little(dials: Dials) -> str:
    """Say by how much those dials rise that move the achieved level by less than 0.1."""
    levels = {name: dials.dials[name]["level"] for name in dials.rising}
    moves = {name: level[-1]["mean"] - level[0]["mean"] for name, level in levels.items()}
    small = [f"{name} {move:+.2f}" for name, move in moves.items() if move < _LITTLE]
    return f"; by little: {', '.join(small)} of the level" if small else ""


def _strips(scores: RewardScores) -> dict[str, Markup]:
    """Return for each reward its means as marks on a line, in standard deviations of the data."""
    kinds = ["b", "a"][-len(scores.rows) :]
    strips = {}
    for name, data in scores.training.items():
        means = [row["rewards"][name]["score"]["mean"] for row in scores.rows]
        deviations = [(mean - data["mean"]) / (data["std"] or 1.0) for mean in means]
        strips[name] = page.draw("strip", name, dict(zip(kinds, deviations, strict=True)))
    return strips


def dial_chart(dials: Dials, name: str) -> Markup:
    """Draw achieved against requested levels of one reward."""
    chart = Chart(unit_axis("level requested"), unit_axis("level achieved"), width=260, height=250)
    chart.line([0, 1], [0, 1], "ideal")
    dial, levels = dials.dials[name], dials.asked_levels
    means = [value["mean"] for value in dial["level"]]
    chart.line(levels, means, "series a")
    titles = [
        f"requested {level:g}: achieved {a['mean']:.2f} ({a['low']:.2f} to {a['high']:.2f}), "
        f"score {s['mean']:.3f}"
        for level, a, s in zip(levels, dial["level"], dial["score"], strict=True)
    ]
    chart.points(levels, dial["level"], "a", titles)
    pairs = zip(levels, means, strict=True)
    return chart.svg(
        f"Dial of {name}: " + "; ".join(f"requested {x:g}, achieved {m:.2f}" for x, m in pairs)
    )


def _conflict(conflict: Conflict) -> dict[str, Markup]:
    """Draw agreement and the share of right images against the level of the chased reward."""
    ways = (
        (conflict.others_asked, "all others at 1", "a", "disc", -3.0),
        (conflict.others_not_asked, "others missing", "b", "box", 3.0),
    )
    charts = {}
    for key, label, center, most in (
        ("agreement", "mean score of caption rewards", "mean", None),
        ("correct", "share of images that are right", "accuracy", 1.0),
    ):
        ends = [value[end] for way, *_ in ways for value in way[key] for end in ("low", "high")]
        across = unit_axis(f"level of {conflict.chased} requested")
        axes = across, fit_axis(ends, label, most=most)
        chart, words = Chart(*axes), []
        for way, name, kind, marker, shift in ways:
            means = [value[center] for value in way[key]]
            chart.line(conflict.asked_levels, means, f"series {kind}")
            titles = [
                f"{conflict.chased} {x:g}, {name}: {v[center]:.2f} ({v['low']:.2f} to "
                f"{v['high']:.2f})"
                for x, v in zip(conflict.asked_levels, way[key], strict=True)
            ]
            chart.points(conflict.asked_levels, way[key], kind, titles, shift, marker)
            words.append(f"{name}: from {means[0]:.2f} to {means[-1]:.2f}")
        charts[key] = chart.svg(f"{label}, by the {axes[0].label}; {'; '.join(words)}.")
    return charts


def _curve(facts: Facts, name: str) -> Markup:
    label, log, _ = _CURVES[name]
    steps, points = thin(*facts.series(name), _MOST_POINTS)
    log = log and all(v > 0 for v in points if math.isfinite(v))
    soft = smooth(points, max(1, len(points) // 15))
    label += ", log scale" if log else ""
    chart = Chart(
        _step_axis(steps), fit_axis(points, label, log=log, zero=name == "images_per_second")
    )
    chart.line(steps, points, "raw")
    chart.line(steps, soft, "series a")
    ends = f"from {format_number(soft[0])} to {format_number(soft[-1])}"
    return chart.svg(f"{label} over training steps, {ends}.")


def _step_axis(steps: list[float]) -> Axis:
    return fit_axis([0, *steps], "step", zero=True)


def _previews(facts: Facts) -> dict[str, Markup]:
    """Draw for each reward its mean in the previews, with the training data's mean."""
    charts = {}
    for name in facts.rewards:
        steps, points = facts.series(f"reward/{name}")
        if not steps:
            continue
        mean = facts.training.get(name, {}).get("mean")
        shown = points if mean is None else [*points, mean]
        chart = Chart(_step_axis(steps), fit_axis(shown, "mean score"), width=260, height=180)
        if mean is not None:
            chart.level(mean, "ideal")
        chart.line(steps, points, "series a")
        bare = [{"mean": v, "low": v, "high": v} for v in points]
        titles = [f"step {s:g}: {v:.3f}" for s, v in zip(steps, points, strict=True)]
        chart.points(steps, bare, "a", titles)
        alt = f"{name} of preview images, from {points[0]:.3f} to {points[-1]:.3f}"
        charts[name] = chart.svg(alt + ("." if mean is None else f"; training data {mean:.3f}."))
    return charts


def _run_facts(facts: Facts) -> dict[str, str]:
    run, train, sample = facts.run, facts.config["train"], facts.config["sample"]
    evaluation, seconds = facts.evaluation, facts.training_seconds
    _, speeds = facts.series("images_per_second")
    records = evaluation.get("training", {}).get("num_records")
    devices = run.get("devices", [])
    return {
        "Steps": f"{facts.step:,} of batch {train['batch_size']}",
        "Parameters": f"{evaluation['num_parameters']:,}" if evaluation else "",
        "Training time": _duration(seconds) if seconds else "",
        "Throughput": f"{sorted(speeds)[len(speeds) // 2]:,.0f} images/s" if speeds else "",
        "Training set": counted(records, "image") if records else "",
        "Prompts": evaluation.get("prompts", {}).get("source", ""),
        "Sampling": f"{sample['num_steps']} {sample['solver']} steps, guidance "
        f"{sample['guidance_scale']:g}, negative prompt {sample['negative']!r}",
        "Command": run.get("command", ""),
        "Revision": run.get("git_revision", ""),
        "Devices": f"{len(devices)}, {devices[0]} to {devices[-1]}"
        if devices[1:]
        else "".join(devices),
        "Versions": ", ".join(f"{k} {v}" for k, v in run.get("packages", {}).items()),
        "Rewards": ", ".join(evaluation.get("rewards", facts.rewards)),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s in steps"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min in steps"
    return f"{seconds / 3600:.1f} h in steps"
