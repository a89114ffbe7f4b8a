"""F3: MIRO learns faster. Curves over updates, and two readings of the speed-up.

With the smoothed curves b(t) of the baseline and m(t) of MIRO, and first(f, v) the updates after
which f first reaches v, by straight lines between the measured steps:

    reading 1:  T / first(m, b(T)),  T the last step: the rule of the paper's figure
    reading 2:  first(b, v) / first(m, v), at v* = min(max b, max m), and as the median over values
                from the larger of both starts up to v*

Letters: B resamplings, T steps, A axes.
"""

import dataclasses
from typing import ClassVar, TypedDict

import numpy as np

from miro_jax.evaluate.study.claim import Claim, Verdict, decide
from miro_jax.evaluate.study.resample import ANY, GENEVAL, Study, bounds_of, interval, intervals
from miro_jax.report.speedup import first_reach
from miro_jax.report.statistics import Mean

_WIDTH = 3  # measured steps in a mean of neighbours
_VALUES = 33  # between start and v*, of the median
_FEWEST = 4  # axes besides the overall score


class Ratio(TypedDict):
    """A speed-up. at_least: MIRO stands there at the first measured step, so it may be larger.

    0 stands for a value that MIRO never reaches: the speed-up is then below 1.
    """

    ratio: Mean
    at_least: bool


@dataclasses.dataclass(frozen=True)
class Speedup:
    """The speed-up on one axis.

    Attributes:
      baseline, miro: smoothed values at `Faster.steps`.
      rises: the baseline rises from the first to the last step beyond the interval; else there is
        no learning to compare, and the axis has no verdict.
      to_final: reading 1. at_best, median: reading 2.
      verdict: of reading 1: "shown" if its interval is above 1, "opposite" if below.
    """

    baseline: list[Mean]
    miro: list[Mean]
    rises: bool
    to_final: Ratio
    at_best: Ratio
    median: Ratio
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Faster(Claim):
    """F3, shown if reading 1 has its interval above 1 on the overall score and on four more axes.

    Opposite: its interval on the overall score is below 1. Axes on which the baseline does not rise
    count for nothing.

    Attributes:
      steps: [T], updates. axes: by name.
    """

    figure: ClassVar = "F3"
    title: ClassVar = "MIRO learns faster than the baseline"
    paper: ClassVar = (
        "MIRO reaches the baseline's final value 19.1 (aesthetic), 6.3 (HPSv2), 3.5 (PickScore) "
        "and 3.5 (ImageReward) times faster, from its curves by straight lines."
    )
    paper_numbers: ClassVar = {
        "aesthetic": 19.1,
        "hpsv2": 6.30,
        "pick_score": 3.54,
        "image_reward": 3.46,
    }
    steps: list[int] = dataclasses.field(default_factory=list)
    axes: dict[str, Speedup] = dataclasses.field(default_factory=dict)


def judge(study: Study) -> Faster:
    """Judge F3."""
    steps = [s for s in study.steps("miro") if s > 0 and s in study.steps("baseline")]
    if len(steps) < 2:
        return Faster()
    curves = (study.values(v, steps=steps) for v in ("baseline", "miro"))
    baseline, miro = map(smooth, curves)  # [1 + B, T, A]
    axes = {
        name: compare(np.array(steps, float), baseline[..., i], miro[..., i], bounds_of(name))
        for i, name in enumerate(study.axes)
    }
    faster = [name for name, one in axes.items() if one.verdict == "shown"]
    overall = axes[GENEVAL]
    others = len([name for name in faster if name != GENEVAL])
    shown = overall.verdict == "shown" and others >= _FEWEST
    ours = overall.to_final if overall.rises else None
    words = f"Overall {write_ratio(ours) if ours else 'the baseline does not rise'}; faster "
    words += f"beyond the interval on {len(faster)} of {len(axes)} axes"
    flat = len([one for one in axes.values() if not one.rises])
    words += f"; the baseline does not rise on {flat}." if flat else "."
    verdict = decide(shown, overall.verdict == "opposite")
    return Faster(verdict, words, ours and ours["ratio"], steps, axes)


def smooth(curves: np.ndarray) -> np.ndarray:
    """Return the mean of neighbours of curves [..., T, A].

    Fewer towards the ends, as many to either side, so that a straight line stays what it is.
    """
    count, out = curves.shape[-2], np.empty_like(curves)
    for i in range(count):
        half = min(_WIDTH // 2, i, count - 1 - i)
        out[..., i, :] = curves[..., i - half : i + half + 1, :].mean(axis=-2)
    return out


def compare(
    steps: np.ndarray,
    baseline: np.ndarray,
    miro: np.ndarray,
    bounds: tuple[float, float] = ANY,
) -> Speedup:
    """Return the speed-up of curves [1 + B, T] at steps [T]; bounds: of their values."""
    final, best = baseline[:, -1], np.minimum(baseline.max(axis=1), miro.max(axis=1))
    start = np.minimum(np.maximum(baseline[:, 0], miro[:, 0]), best)
    between = np.linspace(start, best, _VALUES, axis=1)[:, 1:]
    rises = interval(final - baseline[:, 0])["low"] > 0
    to_final = _ratio(steps[-1] / first_reach(steps, miro, final[:, None]))
    ratio = to_final["ratio"]
    decided = decide(ratio["low"] > 1, ratio["high"] < 1)
    reaches = (first_reach(steps, c, best[:, None]) for c in (baseline, miro))
    at_best = np.divide(*reaches)
    values = first_reach(steps, baseline, between) / first_reach(steps, miro, between)
    at_least = bool(miro[0, 0] >= final[0])
    return Speedup(
        intervals(baseline, bounds),
        intervals(miro, bounds),
        rises,
        {**to_final, "at_least": at_least},
        {**_ratio(at_best), "at_least": bool(miro[0, 0] >= best[0])},
        _ratio(np.median(values, axis=1, keepdims=True)),
        decided if rises else "not measured",
    )


def _ratio(rows: np.ndarray) -> Ratio:
    return {"ratio": interval(rows[:, 0]), "at_least": False}


def write_ratio(value: Ratio) -> str:
    """Write a speed-up with its interval."""
    mean, low, high = (
        f"{value['ratio'][key]:.1f}x" if value["ratio"][key] else "< 1x"
        for key in ("mean", "low", "high")
    )
    return f"{'at least ' * value['at_least']}{mean} ({low} to {high})"
