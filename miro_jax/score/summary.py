"""What all the scores together say: per reward moments and percentiles, failures by cause, speed.

Percentiles are exact: the scores of one reward at a time, four bytes each, are read from the parts.
"""

from __future__ import annotations

import collections
import platform
from collections.abc import Sequence
from importlib import metadata

from miro_jax import __version__
from miro_jax.report.charts import format_number
from miro_jax.report.statistics import PERCENTILES, describe
from miro_jax.score.parts import Parts

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "simplejpeg", "pyarrow", "tokenizers")


def summarize(parts: Parts, identities: Sequence[str]) -> dict:
    """Describe all parts: the rewards, the failures, the speed, the versions."""
    causes: collections.Counter[str] = collections.Counter()
    num_scored, seconds = 0, 0.0
    for part in parts:
        num_scored += part.count
        seconds += part.seconds
        causes.update(failure["cause"] for failure in part.failures)
    num_failures = causes.total()
    speed = (num_scored + num_failures) / seconds if seconds else None
    return {
        "num_images": num_scored + num_failures,
        "num_scored": num_scored,
        "num_failures": num_failures,
        "failures": dict(causes.most_common()),
        "rewards": {name: describe(parts.column(name)) for name in identities},
        "seconds": round(seconds, 3),
        "images_per_second": None if speed is None else round(speed, 3),
        "versions": {
            "miro_jax": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    }


def as_text(summary: dict) -> str:
    """Return the summary as a table for the eyes, one line a reward, then the failures."""
    head = ["reward", "count", "mean", "std", "min", *(f"{p}%" for p in PERCENTILES), "max"]
    lines = [head]
    for name, facts in summary["rewards"].items():
        numbers = []
        if facts["count"]:
            numbers = [facts["mean"], facts["std"], facts["min"]]
            # By name: in a file they are sorted as texts.
            numbers += [*(facts["percentiles"][str(p)] for p in PERCENTILES), facts["max"]]
        lines.append([name, str(facts["count"]), *map(_number, numbers)])
    widths = [
        max(map(len, column)) for column in zip(*(_filled(x, head) for x in lines), strict=True)
    ]
    text = [_aligned(line, widths) for line in lines]
    text.append("")
    speed = summary["images_per_second"]
    pace = "" if speed is None else f", {_number(speed)} images/s"
    text.append(f"{summary['num_scored']} of {summary['num_images']} images scored{pace}")
    if causes := summary["failures"]:
        text.append("failed: " + ", ".join(f"{cause} ({n})" for cause, n in causes.items()))
    return "\n".join(text)


def _number(value: float) -> str:
    return format_number(value).replace("\N{MINUS SIGN}", "-")


def _filled(line: Sequence[str], head: Sequence[str]) -> list[str]:
    return [*line, *[""] * (len(head) - len(line))]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=False)]
    return "  ".join(cells).rstrip()
