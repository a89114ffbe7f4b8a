"""F5: MIRO composes better than the baseline, and synthetic captions add to it."""

import dataclasses
from typing import ClassVar

from miro_jax.evaluate.study.claim import Claim, decide, write_points
from miro_jax.evaluate.study.measured import DEFAULT
from miro_jax.evaluate.study.resample import DIFFERENCE, Study, intervals
from miro_jax.report.statistics import Mean

# First variant, second variant: what the difference shows.
_PAIRS = (
    ("miro", "baseline"),
    ("synth", "miro"),
    ("synth", "baseline"),
    ("synth", "synth_baseline"),
    ("synth_baseline", "baseline"),
)


@dataclasses.dataclass(frozen=True)
class Composition(Claim):
    """F5, shown if MIRO's overall score is above the baseline's beyond the interval.

    Both at the last step with the study's default targets and the same prompts. Opposite: it is
    below. What synthetic captions and a lowered target of the conflict reward add stands beside
    it and has no part in the verdict.

    Attributes:
      axes: [C + 1], categories and the overall score.
      differences: "first against second" -> [C + 1].
    """

    figure: ClassVar = "F5"
    title: ClassVar = "MIRO composes better; synthetic captions add to it"
    paper: ClassVar = (
        "GenEval rises from 52.2 % to 56.8 % with real captions, and from 57.0 % to 67.7 % with "
        "half of them synthetic."
    )
    paper_numbers: ClassVar = {
        "baseline": 0.5217,
        "miro": 0.5680,
        "synth_baseline": 0.5697,
        "synth": 0.6767,
    }
    axes: list[str] = dataclasses.field(default_factory=list)
    differences: dict[str, list[Mean]] = dataclasses.field(default_factory=dict)


def judge(study: Study, target: float | None) -> Composition:
    """Judge F5.

    Args:
      target: of the conflict reward, chosen on other prompts; None where there is no sweep.
    """
    compared = {f"{a} against {b}": (a, DEFAULT, b) for a, b in _PAIRS}
    reward = study.measured.conflict_reward
    setting = study.settings("miro", "sweep:").get(-1.0 if target is None else target)
    if setting and target != 1:
        name = f"miro, {reward} at {target:g} against baseline"
        compared[name] = ("miro", setting, "baseline")
    start = len(study.measured.rewards)
    found = {}
    for name, (first, setting, second) in compared.items():
        if study.has(first, setting) and study.has(second):
            difference = study.values(first, [setting]) - study.values(second)
            found[name] = intervals(difference[:, 0, start:], DIFFERENCE)
    axes = list(study.axes[start:])
    if "miro against baseline" not in found:
        return Composition(axes=axes, differences=found)
    ours = found["miro against baseline"][-1]
    words = "; ".join(f"{name}: {write_points(values[-1])}" for name, values in found.items())
    return Composition(
        decide(ours["low"] > 0, ours["high"] < 0), f"Overall, {words}.", ours, axes, found
    )
