"""F8: the rewards of MIRO are dials.

Controllability is a rank correlation over pairs of images that differ in the level of a dial alone
(same run, same prompt, same noise):

    share of pairs in which the higher level scores higher - share in which it scores lower

1 is a dial that always works, 0 one that does nothing, whatever the scale of the reward. Letters: L
levels, S seeds, P prompts, R rewards, A axes.
"""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from miro_jax.evaluate.study.claim import Claim, decide, write_interval
from miro_jax.evaluate.study.measured import DEFAULT
from miro_jax.evaluate.study.resample import DIFFERENCE, Study, interval, intervals
from miro_jax.report.results import rises
from miro_jax.report.statistics import Mean, rank_correlation


@dataclasses.dataclass(frozen=True)
class Dial:
    """One dial: the requested levels [L], the achieved mean scores, and what comes with them.

    Attributes:
      rank: rank correlation of levels and mean scores; None where these are constant.
      range: score at the highest level less that at the lowest.
      controllability: see the module.
      cross: the change of each axis from the lowest to the highest level, [R + 1]: the rewards in
        standard deviations of images at the default targets, then the overall score.
      rises: by rank (0.9 or more), and the range is above 0 with its interval.
    """

    levels: list[float]
    achieved: list[Mean]
    rank: float | None
    range: Mean
    controllability: Mean
    cross: list[Mean]
    rises: bool


@dataclasses.dataclass(frozen=True)
class Dials(Claim):
    """F8, shown if all dials but one rise, or all where there are fewer than three.

    Opposite: none rises, and at least half fall beyond the interval.

    Attributes:
      measured: [R + 1], names of the columns of `Dial.cross`. dials: by reward.
    """

    figure: ClassVar = "F8"
    title: ClassVar = "Every reward is a dial"
    paper: ClassVar = (
        "The aesthetic score rises with its target at each of nine levels, from 3.69 at 0 to 6.28 "
        "at 1."
    )
    paper_numbers: ClassVar = {"aesthetic_at_0": 3.69179, "aesthetic_at_1": 6.27910}
    measured: list[str] = dataclasses.field(default_factory=list)
    dials: dict[str, Dial] = dataclasses.field(default_factory=dict)


def judge(study: Study) -> Dials:
    """Judge F8 for the variant "miro" at the last step."""
    settings = {n: study.settings("miro", f"dial:{n}=") for n in study.measured.rewards}
    dials = {n: _dial(study, n, levels) for n, levels in settings.items() if len(levels) > 1}
    if not dials:
        return Dials()
    rising = [name for name, dial in dials.items() if dial.rises]
    falling = [name for name, dial in dials.items() if dial.range["high"] < 0]
    numbers = "; ".join(f"{n} {write_interval(d.controllability)}" for n, d in dials.items())
    words = f"{len(rising)} of {len(dials)} dials rise. Controllability: {numbers}."
    fewest = len(dials) - (len(dials) > 2)
    verdict = decide(len(rising) >= fewest, not rising and len(falling) >= len(dials) / 2)
    return Dials(verdict, words, None, [*study.measured.rewards, study.axes[-1]], dials)


def _dial(study: Study, name: str, settings: dict[float, str]) -> Dial:
    """Measure one dial; settings: level -> name of the setting."""
    levels, names = list(settings), list(settings.values())
    rewards = study.measured.rewards
    column, count = rewards.index(name), len(rewards)
    rows = study.values("miro", names)  # [1 + B, L, A]
    own = rows[..., column]
    change = rows[:, -1] - rows[:, 0]
    scaled = np.concatenate([change[:, :count] / _deviations(study), change[:, -1:]], axis=1)
    rank, size = rank_correlation(np.array(levels), own[0]), interval(change[:, column])
    return Dial(
        levels,
        intervals(own),
        rank,
        size,
        _controllability(study, column, names),
        intervals(scaled),
        rises(rank, size["low"]),
    )


def _controllability(study: Study, column: int, names: list[str]) -> Mean:
    """Return how often a higher level scores higher, less how often lower."""
    scores, seeds = study.scores("miro", names)  # [L, S, P, R]
    pairs = itertools.combinations(scores[..., column], 2)
    signs = np.mean([np.sign(high - low) for low, high in pairs], axis=0)  # [S, P]
    prompts = study.measured.prompt_set(names[0])
    return interval(study.resample(signs[..., None], "miro", prompts, seeds)[:, 0], DIFFERENCE)


def _deviations(study: Study) -> np.ndarray:
    """Return the standard deviations [R] over images at the default targets; 1 for a constant."""
    found = [v for v in ("baseline", "miro") if v in study.variants][0]
    scores, _ = study.scores(found, [DEFAULT])
    std = scores[0].std(axis=(0, 1), dtype=np.float64)
    return np.where(std > 0, std, 1.0)
