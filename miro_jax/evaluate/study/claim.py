"""What all claims have in common: the paper's figure, ours, and a verdict in plain words."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from miro_jax.report.page import signed
from miro_jax.report.statistics import Mean

Verdict = Literal["shown", "not shown", "opposite", "not measured"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper (arXiv 2510.25897), judged on a study.

    Attributes:
      figure: short name. title: the claim. paper: what the paper reports, in words.
      paper_numbers: the same as numbers.
      verdict: by the rule in the docstring of the class. words: our result, in plain words.
      ours: our headline number, where there is one.
    """

    figure: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    paper_numbers: ClassVar[Mapping[str, float]]
    verdict: Verdict = "not measured"
    words: str = "The study has no images for this claim."
    ours: Mean | None = None


def decide(shown: bool, opposite: bool) -> Verdict:
    """Return the verdict of two exclusive findings."""
    return "shown" if shown else "opposite" if opposite else "not shown"


def write_interval(value: Mean, form: str = ".2f") -> str:
    """Write a number with its interval."""
    mean, low, high = (signed(value[key], form) for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def write_points(value: Mean) -> str:
    """Write a difference of shares in points, that is in hundredths."""
    hundred: Mean = {key: 100 * value[key] for key in ("mean", "low", "high")}  # type: ignore
    return f"{write_interval(hundred, '+.1f')} points"
