"""F4: a network conditioned on one reward alone chases it at the cost of all else."""

import dataclasses
from typing import ClassVar

import numpy as np

from miro_jax.evaluate.study.claim import Claim, decide, write_points
from miro_jax.evaluate.study.resample import GENEVAL, Study, bounds_of, interval
from miro_jax.report.statistics import Mean

_ONLY = "only_"
_FEWEST = 3  # specialists, or all where fewer were trained


@dataclasses.dataclass(frozen=True)
class Specialist:
    """The specialist of one reward beside MIRO.

    Attributes:
      own: its own reward, overall: the held-out GenEval-like score; each less MIRO's.
      hacks: it is not below MIRO on its own reward beyond the interval, and loses on the overall
        score beyond it.
    """

    own: Mean
    overall: Mean
    hacks: bool


@dataclasses.dataclass(frozen=True)
class Specialists(Claim):
    """F4, shown if at least three specialists hack, or all where fewer were trained.

    Opposite: none hacks, and one is above MIRO on the overall score beyond the interval.

    Attributes:
      axes: [A], names. values: variant -> [A].
      specialists: by reward.
    """

    figure: ClassVar = "F4"
    title: ClassVar = "A specialist wins its own reward and loses the rest"
    paper: ClassVar = (
        "The aesthetic specialist reaches 6.65 aesthetic where MIRO has 6.28, and 33.0 % GenEval "
        "where MIRO has 56.8 %."
    )
    paper_numbers: ClassVar = {
        "aesthetic_specialist": 6.65307,
        "aesthetic_miro": 6.27842,
        "geneval_specialist": 0.3295,
        "geneval_miro": 0.5680,
    }
    axes: list[str] = dataclasses.field(default_factory=list)
    values: dict[str, list[Mean]] = dataclasses.field(default_factory=dict)
    specialists: dict[str, Specialist] = dataclasses.field(default_factory=dict)


def judge(study: Study) -> Specialists:
    """Judge F4 at the last step."""
    rows = {variant: study.values(variant)[:, 0] for variant in study.variants}
    rewards = study.measured.rewards
    names = [n for n in rewards if _ONLY + n in rows] if "miro" in rows else []
    columns = [(i, bounds_of(name)) for i, name in enumerate(study.axes)]
    values = {v: [interval(x[:, i], bounds) for i, bounds in columns] for v, x in rows.items()}
    if not names:
        return Specialists(axes=list(study.axes), values=values)
    found = {n: _compare(rows[_ONLY + n] - rows["miro"], rewards.index(n)) for n in names}
    hacking = [name for name, one in found.items() if one.hacks]
    better = [name for name, one in found.items() if one.overall["low"] > 0]
    overall = "; ".join(f"{n} {write_points(one.overall)}" for n, one in found.items())
    words = f"{len(hacking)} of {len(found)} specialists hack"
    words += f" ({', '.join(hacking)})" if hacking else ""
    words += f". Overall {GENEVAL} against MIRO: {overall}."
    verdict = decide(len(hacking) >= min(_FEWEST, len(found)), not hacking and bool(better))
    worst = min((one.overall for one in found.values()), key=lambda value: value["mean"])
    return Specialists(verdict, words, worst, list(study.axes), values, found)


def _compare(difference: np.ndarray, column: int) -> Specialist:
    """Judge the specialist of an axis from its values less MIRO's, [1 + B, A]."""
    own, overall = interval(difference[:, column]), interval(difference[:, -1])
    return Specialist(own, overall, own["high"] >= 0 and overall["high"] < 0)
