"""Curves: convergence, best of n, the sweep of a target.

Letters: B resamplings, T steps, P prompts, N candidates.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.evaluate.plots import facts
from miro_jax.evaluate.plots.facts import Source, measure
from miro_jax.evaluate.plots.figure import MARKERS, Figure, Panel, legend_of
from miro_jax.report.charts import Axis, Chart, fit_axis, unit_axis
from miro_jax.report.speedup import first_reach, first_step, speedup, write_speedup
from miro_jax.report.statistics import ENDS, draw, shares_of_best
from miro_jax.rewards.names import short_name
from miro_jax.sample.curve import expected_best

_RESAMPLES = 1000
_SWEPT = "aesthetic"  # the paper's, where none is named
# measure -> model -> (xs [T], values [1 + B, T])
Curves = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def resampled(values: np.ndarray) -> np.ndarray:
    """Return the mean over prompts of values [P, T], and means of resampled prompts: [1 + B, T]."""
    drawn = draw(np.random.default_rng(0), len(values), _RESAMPLES)
    return np.concatenate([values.mean(axis=0)[None], values[drawn].mean(axis=1)])


def interval(rows: np.ndarray) -> np.ndarray:
    """Return the ends [2, T] of the intervals of a curve [1 + B, T]; the curve where B is 0."""
    return np.percentile(rows[1:], ENDS, axis=0) if len(rows) > 1 else rows[[0, 0]]


def extent(*curves: np.ndarray) -> list[float]:
    """Return all that an axis must hold: the values of curves [1 + B, T] and their intervals."""
    return [float(v) for rows in curves for part in (rows[:1], interval(rows)) for v in part.flat]


def _fit(name: str, values: list[float]) -> Axis:
    """Return the axis of a measure; its name is the panel's heading."""
    if measure(name).label.endswith("%"):
        return fit_axis(values, "share, %", most=100.0)
    return fit_axis(values, "mean score")


def draw_curve(
    chart: Chart, kind: str, label: str, xs: np.ndarray, rows: np.ndarray
) -> list[dict[str, Any]]:
    """Draw a curve [1 + B, T] with intervals where B > 0; return its points for the table."""
    low, high = interval(rows)
    points = [
        {"mean": float(v), "low": float(a), "high": float(b)}
        for v, a, b in zip(rows[0], low, high, strict=True)
    ]
    chart.line(xs.tolist(), rows[0].tolist(), f"series {kind}")
    titles = [f"{label}, {x:g}: {p['mean']:.4g}" for x, p in zip(xs, points, strict=True)]
    chart.points(xs.tolist(), points, kind, titles, marker=MARKERS[kind])
    return [
        {"series": label, "x": float(x), "value": p["mean"], "low": p["low"], "high": p["high"]}
        for x, p in zip(xs, points, strict=True)
    ]


def convergence(sources: Sequence[Source]) -> Figure:
    """Draw scores over training steps, and both readings of the speed-up over the first model.

    Raises:
      ValueError: no source has curves of two models.
    """
    curves = _read_convergence(sources)
    models = list(dict.fromkeys(model for one in curves.values() for model in one))
    curves = {name: one for name, one in curves.items() if len(one) > 1}
    if not curves:
        raise ValueError(
            "convergence needs curves of two models, the baseline first; got "
            f"{', '.join(models) or 'none'}. Give BASELINE=FOLDER and MODEL=FOLDER, folders with "
            "an evaluation for each checkpoint, or published."
        )
    legend, kinds = legend_of(models)
    panels, rows, numbers = [], [], {}
    for name, one in curves.items():
        panel, points, found = _convergence_panel(name, one, kinds)
        panels.append(panel)
        rows += points
        numbers[name] = found
    bases = {name: next(iter(one)) for name, one in curves.items()}
    warnings = [
        f"{measure(name).label}: {models[0]} has no such curve; the final value is that of {base}."
        for name, base in bases.items()
        if base != models[0]
    ]
    return Figure(
        "convergence",
        "Convergence: mean score over training steps",
        f"Dashed: the final value of {models[0]}. The arrow runs back from its last step to where "
        "the other curve first reaches that value. Two readings: by straight lines between "
        "checkpoints, and by the first checkpoint at or above.",
        panels,
        legend,
        rows,
        {"baseline": models[0], "speedup": numbers},
        tuple(warnings),
    )


def _add_published(curves: Curves, source: Source, section: str, key: str) -> None:
    """Add the curves of a section of a file of numbers, whose xs stand under `key`."""
    found = source.section(section) or {"curves": {}, key: []}
    for name, models in found["curves"].items():
        for model, row in models.items():
            xs = np.array(found[key], float)
            curves.setdefault(name, {})[model] = (xs, np.array([row], float))


def _read_convergence(sources: Sequence[Source]) -> Curves:
    curves: Curves = {}
    every = [one for source in sources for one in source.evaluations]
    facts.check_alike(every)
    facts.check_labels(sources, "convergence")
    prompts = facts.prompts_of(every)
    for source in sources:
        _add_published(curves, source, "convergence", "steps")
        for suite in dict.fromkeys(map(facts.suite_of, source.evaluations)):
            own = [one for one in source.evaluations if facts.suite_of(one) == suite]
            steps = [facts.step_of(one) for one in own]
            if None in steps or len(set(steps)) < max(len(steps), 2):
                raise ValueError(
                    f"{source.path} must hold an evaluation for each of two or more checkpoints, "
                    f"with their steps; it has {suite} at the steps {steps}."
                )
            for name, rows in facts.by_measure(own, prompts).items():
                if facts.suite_for(name, sources) != suite:
                    continue
                curves.setdefault(name, {})[source.label] = (np.array(steps, float), rows)
    return curves


def _convergence_panel(
    name: str, one: Mapping[str, tuple[np.ndarray, np.ndarray]], kinds: Mapping[str, str]
) -> tuple[Panel, list[dict[str, Any]], dict[str, Any]]:
    every = [x for xs, _ in one.values() for x in xs]
    up = _fit(name, extent(*(rows for _, rows in one.values())))
    chart = Chart(fit_axis([0, *every], "training step", zero=True), up)
    (base, (base_steps, base_rows)), *others = one.items()
    final, last = float(base_rows[0, -1]), float(base_steps[-1])
    chart.level(final, "ideal")
    rows, lines, numbers = [], [], {}
    for model, (steps, values) in one.items():
        points = draw_curve(chart, kinds[model], model, steps, values)
        rows += [{"panel": name, **point} for point in points]
    for model, (steps, values) in others:
        found = speedup(base_rows, last, steps, values)
        numbers[model] = found
        lines.append(f"{model}: {write_speedup(found)}")
        if found["step"] is not None and found["step"] < last:
            chart.arrow(final, last, found["step"])
    alt = f"{measure(name).label} over training steps. {base} ends at {final:.4g}. "
    return Panel(measure(name).label, chart.svg(alt + " ".join(lines)), tuple(lines)), rows, numbers


def test_time(sources: Sequence[Source]) -> Figure:
    """Draw the expected best of n, exactly, and how many samples of one model equal another's.

    Raises:
      ValueError: no source has several samples of a prompt.
    """
    curves = _read_test_time(sources)
    models = list(dict.fromkeys(model for one in curves.values() for model in one))
    if not curves:
        raise ValueError(
            "test-time needs evaluations with rewards and several samples of each prompt, or "
            "published; got none."
        )
    legend, kinds = legend_of(models)
    panels, rows, numbers = [], [], {}
    for name, one in curves.items():
        most = max(x for xs, _ in one.values() for x in xs)
        ticks = tuple(2.0**k for k in range(int(math.log2(most)) + 1))
        across = Axis(1, max(most, 2), ticks, "candidates n, log scale", log=True)
        up = fit_axis(extent(*(rows for _, rows in one.values())), "expected best")
        chart = Chart(across, up)
        for model, (ns, values) in one.items():
            # All candidates of a file of numbers; of images powers of two, and all of them.
            shown = (len(values) == 1) | (np.log2(ns) % 1 == 0) | (ns == ns[-1])
            points = draw_curve(chart, kinds[model], model, ns[shown], values[:, shown])
            rows += [{"panel": name, **point} for point in points]
        (base, (base_ns, base_rows)), *others = one.items()
        lines, found = [], {}
        for model, (ns, values) in others:
            best = float(base_rows[0, -1])
            need = first_step(ns, values[0], best)
            between = first_reach(np.log2(ns), values[:1], np.array([[best]]))[0, 0]
            reached = math.isfinite(need)
            found[model] = {
                "of_baseline": float(base_ns[-1]),
                "needs": need if reached else None,
                "log2_interpolated": float(between) if reached else None,
            }
            lines.append(_match(model, base, need if reached else None, ns[-1], base_ns[-1]))
            if reached and need < base_ns[-1]:
                chart.arrow(best, float(base_ns[-1]), need)
        numbers[name] = found
        label = measure(name).label
        panels.append(Panel(label, chart.svg(f"{label}. {'; '.join(lines)}."), tuple(lines)))
    return Figure(
        "test-time",
        "Test-time scaling: the best of n samples, chosen by the reward itself",
        "The expectation is exact over all choices of n of the samples of a prompt, and then the "
        "mean over prompts. The arrow runs from the largest n of the first model to the least n of "
        "the other whose value is at least as high.",
        panels,
        legend,
        rows,
        {"matches": numbers},
    )


def _match(model: str, base: str, need: float | None, most: float, of_base: float) -> str:
    """Write how many samples of a model are as good as the best of a baseline's."""
    count = most if need is None else need
    samples = f"{count:g} {'sample' if count == 1 else 'samples'} of {model}"
    verb = "stay below" if need is None else "reaches" if count == 1 else "reach"
    return f"{samples} {verb} the best of {of_base:g} of {base}"


def _read_test_time(sources: Sequence[Source]) -> Curves:
    curves: Curves = {}
    facts.check_alike([one for source in sources for one in source.evaluations])
    facts.check_labels(sources, "test_time")
    for source in sources:
        _add_published(curves, source, "test_time", "candidates")
        for one in source.latest:
            for name, best in _best_by_prompt(one).items():
                if facts.suite_for(name, sources) != facts.suite_of(one):
                    continue
                ns = np.arange(1.0, best.shape[1] + 1)
                rows = resampled(best) / measure(name).divisor
                curves.setdefault(name, {})[source.label] = (ns, rows)
    return curves


def _best_by_prompt(evaluation: facts.Evaluation) -> dict[str, np.ndarray]:
    """Return measure -> expected best [P, N] of rewards with N > 1 samples; see `clusters_of`."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in evaluation.rows:
        name = row["prompt"], row["key"]
        for identity, score in (row.get("rewards") or {}).items():
            if score is not None:
                found.setdefault(identity, {}).setdefault(name, []).append(score)
    tables = {}
    for identity, prompts in found.items():
        sizes = {len(scores) for scores in prompts.values()}
        if len(sizes) > 1:
            raise ValueError(
                f"{evaluation.name} must have as many scores of {identity} for each prompt; it has "
                f"{min(sizes)} to {max(sizes)}. Evaluate the missing images."
            )
        if sizes != {1}:
            name = facts.measure_name(evaluation, identity)
            best = expected_best(np.array(list(prompts.values())))
            texts = np.array([text for text, _ in prompts])  # prompts of one text are one prompt
            own = [best[texts == text].mean(axis=0) for text in dict.fromkeys(texts)]
            tables[name or identity] = np.array(own)
    return tables


def _read_sweep(
    sources: Sequence[Source], reward: str | None
) -> tuple[str, list[float], dict[str, Any]]:
    """Return the swept reward, its targets and measure -> [1 + B, targets]."""
    known = [source.label for source in sources if source.section("sweep")]
    if known and (others := [s.label for s in sources if s.evaluations] + known[1:]):
        raise ValueError(
            f"a sweep is of one model; {known[0]} has one, and so may {', '.join(others)}. Draw "
            "each in a plot of its own."
        )
    evaluations = [one for source in sources for one in source.evaluations]
    facts.check_alike(evaluations)
    for source in sources:
        if section := source.section("sweep"):
            if reward not in (None, section["reward"]):
                raise ValueError(
                    f"reward must be {section['reward']}, whose sweep {source.path} has; got "
                    f"{reward}."
                )
            columns = {n: np.array([row], float) for n, row in section["columns"].items()}
            return section["reward"], section["targets"], columns
    reward = reward or _SWEPT
    targets = [_target(one, reward) for one in evaluations]
    if len(set(targets)) < 2 or len(set(targets)) < len(targets):
        raise ValueError(
            f"a sweep needs evaluations that differ in the target of {reward}; got the targets "
            f"{targets}. Give them all, and --reward=NAME for another reward."
        )
    order = np.argsort(targets)
    columns = facts.by_measure([evaluations[i] for i in order], facts.prompts_of(evaluations))
    return reward, [targets[i] for i in order], columns


def _target(evaluation: facts.Evaluation, reward: str) -> float:
    targets = evaluation.manifest["sampling"].get("targets")
    value = targets.get(reward) if isinstance(targets, Mapping) else None
    if not isinstance(value, int | float):
        raise ValueError(
            f"{evaluation.name} must say which target of {reward} its images were sampled with; "
            f"sampling.targets is {targets!r}."
        )
    return float(value)


def _sweep_panel(
    reward: str, targets: list[float], name: str, rows: np.ndarray
) -> tuple[Panel, list[dict[str, Any]], dict[str, Any]]:
    """Draw one measure by the target, its maximum marked."""
    chart = Chart(unit_axis(f"target of {reward}"), _fit(name, extent(rows)))
    points = draw_curve(chart, "a", measure(name).label, np.array(targets), rows)
    best = int(rows[0].argmax())
    value, top = float(rows[0, best]), chart.y.high
    chart.line([targets[best]] * 2, [chart.y.low, top], "ideal")
    found: dict[str, Any] = {"best_target": targets[best], "best": value}
    line = f"highest at {targets[best]:g}: {value:.4g}"
    if len(rows) > 1:
        shares = shares_of_best(rows[1:])
        found["best_in"] = dict(zip(map(str, targets), shares.tolist(), strict=True))
        line += f", best in {shares[best]:.0%} of the resamplings of prompts"
    panel = Panel(
        measure(name).label, chart.svg(f"{measure(name).label} by the target, {line}."), (line,)
    )
    return panel, [{"panel": name, **point} for point in points], found


def sweep(sources: Sequence[Source], reward: str | None = None) -> Figure:
    """Draw the score of a suite, and the reward itself, by the reward's target."""
    reward, targets, columns = _read_sweep(sources, reward)
    first = [name for name in columns if name == "geneval"] or list(columns)[:1]
    own = [name for name in columns if short_name(name) == reward]
    return _sweep_figure("sweep", reward, targets, columns, [*first, *own])


def sweep_grid(sources: Sequence[Source], reward: str | None = None) -> Figure:
    """Draw every measure by a reward's target."""
    reward, targets, columns = _read_sweep(sources, reward)
    names = [name for name in columns if name != "geneval"]
    return _sweep_figure("sweep-grid", reward, targets, columns, names)


def _sweep_figure(
    kind: str,
    reward: str,
    targets: list[float],
    columns: Mapping[str, np.ndarray],
    names: list[str],
) -> Figure:
    names = [name for name in dict.fromkeys(names) if name in columns]
    made = [_sweep_panel(reward, targets, name, columns[name]) for name in names]
    resampled = any(len(columns[name]) > 1 for name in names)
    warning = (
        "these are numbers without images, or of one prompt: how sure a maximum is cannot be "
        f"estimated. The highest of {len(targets)} settings stands above the others by luck too; "
        "confirm it on fresh seeds."
    )
    return Figure(
        kind,
        f"Sweep: what the target of {reward} does, all other targets as they are",
        "Dashed: the target with the highest value. Where images are known, bars are 95 % "
        "intervals over prompts, and the share of resamplings says how sure the maximum is.",
        [panel for panel, _, _ in made],
        {},
        [row for _, rows, _ in made for row in rows],
        {"reward": reward, "maxima": dict(zip(names, (n for _, _, n in made), strict=True))},
        () if resampled else (warning,),
        columns=3 if len(names) > 2 else 2,
    )
