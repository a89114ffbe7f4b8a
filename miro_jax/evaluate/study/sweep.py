"""F7: a lowered target of the conflict reward composes better than the highest."""

import dataclasses
from typing import ClassVar

from miro_jax.evaluate.study.claim import Claim, Verdict, decide, write_points
from miro_jax.evaluate.study.resample import SHARE, Study, interval, intervals
from miro_jax.report.statistics import Mean, shares_of_best

_SURE = 0.95  # share of resamplings


@dataclasses.dataclass(frozen=True)
class Sweep(Claim):
    """F7, shown if the gain of the chosen target over the target 1 is above 0 with its interval.

    The target is chosen on the prompts of "search" by the overall score, the gain measured on those
    of "report", paired over prompts and runs. Opposite: the target 1 is best in 95 % of the
    resamplings, or the gain is below 0 with its interval.

    Attributes:
      reward: whose target is swept. target: the chosen one.
      targets: ascending. report, search: overall score at each target.
      score: the reward itself on "report".
      best_at: share of resamplings (seeds and search prompts) in which each target is best.
    """

    figure: ClassVar = "F7"
    title: ClassVar = "A lowered target of the conflict reward composes better"
    paper: ClassVar = (
        "GenEval is 74.9 % at the aesthetic target 0.625 and 67.7 % at 1; chosen and reported on "
        "the same prompts, one seed."
    )
    paper_numbers: ClassVar = {"target": 0.625, "geneval": 0.7487, "geneval_at_1": 0.6767}
    reward: str = ""
    target: float | None = None
    targets: list[float] = dataclasses.field(default_factory=list)
    report: list[Mean] = dataclasses.field(default_factory=list)
    search: list[Mean] = dataclasses.field(default_factory=list)
    score: list[Mean] = dataclasses.field(default_factory=list)
    best_at: list[float] = dataclasses.field(default_factory=list)


def judge(study: Study) -> Sweep:
    """Judge F7 for the variant "miro" at the last step."""
    kinds = [study.settings("miro", kind) for kind in ("search:", "sweep:")]
    targets = sorted(set(kinds[0]) & set(kinds[1]))
    if len(targets) < 2 or targets[-1] != 1:
        return Sweep()
    search, report = (study.values("miro", [kind[t] for t in targets]) for kind in kinds)
    reward = study.measured.conflict_reward
    best = int(search[0, :, -1].argmax())
    shares = shares_of_best(search[1:, :, -1])
    gain = interval(report[:, best, -1] - report[:, -1, -1])
    target = targets[best]
    words = f"Chosen target of {reward}: {target:g}, best in {100 * shares[best]:.0f} % of the "
    words += f"resamplings. Gain over the target 1 on other prompts: {write_points(gain)}."
    columns = study.measured.rewards
    score = report[..., columns.index(reward)] if reward in columns else report[:, :0, 0]
    return Sweep(
        _decide(gain, float(shares[-1])),
        words,
        gain,
        reward,
        target,
        targets,
        intervals(report[..., -1], SHARE),
        intervals(search[..., -1], SHARE),
        intervals(score),
        shares.tolist(),
    )


def _decide(gain: Mean, share_of_1: float) -> Verdict:
    return decide(gain["low"] > 0, gain["high"] < 0 or share_of_1 >= _SURE)
