"""F6: one image of MIRO against the best of n of the baseline.

The expectation of the best of n out of N images is exact, see `sample.curve`. Letters: N images,
R rewards.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from miro_jax.evaluate.study.claim import Claim, decide
from miro_jax.evaluate.study.measured import BEST_OF
from miro_jax.evaluate.study.resample import GENEVAL, Study, bounds_of, interval, intervals
from miro_jax.report.statistics import Mean

_FEWEST = 8  # images: what the paper's baseline needs at least


@dataclasses.dataclass(frozen=True)
class Catch:
    """The baseline's best of n on one axis.

    Attributes:
      one: one image of MIRO. curve: [N], best of n of the baseline.
      catches_up: the least n whose best is not below `one`, with its interval; N + 1 stands for
        more than the N that were drawn.
      ahead: `one` less one image of the baseline.
    """

    one: Mean
    curve: list[Mean]
    catches_up: Mean
    ahead: Mean


@dataclasses.dataclass(frozen=True)
class BestOf(Claim):
    """F6, shown if the baseline needs at least 8 images to catch up for half of the rewards.

    8 is the least number in the paper; the lower end of the interval counts, or N + 1 where fewer
    were drawn. Opposite: one image of MIRO is below one of the baseline, beyond the interval, for
    half of the rewards. The GenEval-like axis (at least one of n right) has no part in it.

    Attributes:
      num_images: N. axes: by name, the rewards and "geneval".
    """

    figure: ClassVar = "F6"
    title: ClassVar = "One image of MIRO is worth many of the baseline"
    paper: ClassVar = (
        "One image of MIRO beats the best of 128 of the baseline by aesthetic and HPSv2; the "
        "baseline catches up with the best of 16 by PickScore and of 8 by ImageReward."
    )
    paper_numbers: ClassVar = {
        "aesthetic": 129,
        "hpsv2": 129,
        "pick_score": 16,
        "image_reward": 8,
    }
    num_images: int = 0
    axes: dict[str, Catch] = dataclasses.field(default_factory=dict)


def judge(study: Study) -> BestOf:
    """Judge F6 at the last step; MIRO's cell may hold one image a prompt."""
    if not (study.has("miro", BEST_OF) and study.has("baseline", BEST_OF)):
        return BestOf()
    miro, baseline = study.best("miro"), study.best("baseline")
    rewards, size = study.measured.rewards, baseline.shape[-1]
    names = (*rewards, GENEVAL)
    axes = {n: _catch(miro[:, i, 0], baseline[:, i], bounds_of(n)) for i, n in enumerate(names)}
    many = [n for n in rewards if axes[n].catches_up["low"] >= min(_FEWEST, size + 1)]
    behind = [n for n in rewards if axes[n].ahead["high"] < 0]
    half = len(rewards) / 2
    numbers = "; ".join(f"{n} {write_catch(axes[n].catches_up, size)}" for n in rewards)
    words = f"Images of which the baseline's best equals one of MIRO: {numbers}."
    verdict = decide(len(many) >= half, len(behind) >= half)
    return BestOf(verdict, words, None, size, axes)


def _catch(one: np.ndarray, curve: np.ndarray, bounds: tuple[float, float]) -> Catch:
    """Compare one image [1 + B] with the best of n [1 + B, N]; bounds: of both."""
    # The curve of a resampling may fall: its weights may be negative.
    rising = np.maximum.accumulate(curve, axis=1)
    needed = 1 + (rising < one[:, None]).sum(axis=1)
    ahead = interval(one - curve[:, 0])
    return Catch(interval(one, bounds), intervals(curve, bounds), interval(needed), ahead)


def write_catch(value: Mean, size: int) -> str:
    """Write a number of images with its interval."""
    mean, low, high = (
        f"{value[key]:.0f}" if value[key] <= size else f"more than {size}"
        for key in ("mean", "low", "high")
    )
    return mean if mean == low == high else f"{mean} ({low} to {high})"
