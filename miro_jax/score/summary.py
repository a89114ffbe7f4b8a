"""What all scores together show: moments, percentiles, histograms, failures by cause, speed."""

import collections
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from markupsafe import Markup

from miro_jax import __version__
from miro_jax.data.sources import causes
from miro_jax.report.charts import histogram, svg_file
from miro_jax.report.page import format_number
from miro_jax.report.statistics import PERCENTILES, describe

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "simplejpeg", "pyarrow", "tokenizers")
_WIDTH, _HEIGHT = 460, 270  # of the panel of a histogram, in SVG units
# Of what `as_text` and the request of a finished table are read; see `data.json_file`.
_REWARD = {"count": int, "mean?": float, "std?": float, "min?": float, "max?": float}
SCHEMA = {
    "num_images": int,
    "num_scored": int,
    "failures": {str: int},
    "rewards": {str: _REWARD | {"percentiles?": {str: float}}},
    "images_per_second": (float, None),
    "without_caption?": {str: int},
    "need_captions?": [str],
    "captions?": {"without_image": int, "first_without_image": str},
    "command": {"input": dict, "captions": (dict, list, None)},
}
_BESIDE = {  # kind of an input -> where else its captions may stand
    "folder": "KEY.txt beside KEY.jpg",
    "tar": "KEY.txt beside KEY.jpg",
    "table": "a column of the table (?caption=NAME)",
    "rows": "a column of the table (--caption-column=NAME)",
}


def summarize(
    pieces: Sequence[Mapping[str, Any]],
    columns: Mapping[str, np.ndarray],
    failures: Sequence[Mapping[str, Any]],
    reading: Sequence[str],
) -> dict[str, Any]:
    """Describe all pieces: the rewards, the failures, the speed, the versions.

    Args:
      pieces: facts of each. columns: identity of a reward -> all scores, [N] float32, NaN is
        missing. failures: of all pieces. reading: identities of the rewards that need captions.
    """
    num_scored = len(next(iter(columns.values())))
    by_cause = collections.Counter(failure["cause"] for failure in failures)
    num_failures = by_cause.total() - sum(by_cause[cause] for cause in causes.OF_A_PIECE)
    seconds = sum(piece["seconds"] for piece in pieces)
    number = num_scored + num_failures
    without = collections.Counter(c for piece in pieces for c in piece["causes"] if c and reading)
    return {
        "num_images": number,
        "num_scored": num_scored,
        "num_failures": num_failures,  # of images; damage of a piece is none
        "failures": dict(by_cause.most_common()),
        "without_caption": dict(without.most_common()),
        "need_captions": list(reading),
        "rewards": {name: describe(scores) for name, scores in columns.items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(number / seconds, 3) if seconds else None,
        "versions": {
            "miro_jax": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    }


def as_text(summary: Mapping[str, Any]) -> str:
    """Return the summary as a table to read, one line a reward, then the failures."""
    head = ["reward", "count", "mean", "std", "min", *(f"{p}%" for p in PERCENTILES), "max"]
    lines = [head]
    for name, facts in summary["rewards"].items():
        numbers = []
        if facts["count"]:
            numbers = [facts["mean"], facts["std"], facts["min"]]
            # By name: in a file they are sorted as texts.
            numbers += [*(facts["percentiles"][str(p)] for p in PERCENTILES), facts["max"]]
        numbers = [str(facts["count"]), *map(_number, numbers)]
        lines.append([name, *numbers, *[""] * (len(head) - 1 - len(numbers))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_aligned(line, widths) for line in lines]
    text.append("")
    speed = summary["images_per_second"]
    pace = "" if speed is None else f", {_number(speed)} images/s"
    text.append(f"{summary['num_scored']} of {summary['num_images']} images scored{pace}")
    if without := summary.get("without_caption"):  # tables of older versions have no such key
        text.append(
            f"without a caption, so without {', '.join(summary['need_captions'])}: "
            f"{_counted(without)}. {where_captions_stand(summary['command']['input'])}"
        )
    if unused := summary.get("captions", {}).get("without_image"):
        first = summary["captions"]["first_without_image"]
        text.append(f"names in --captions that are of no image: {unused}, the first is {first}")
    damage = {c: count for c, count in summary["failures"].items() if c in causes.OF_A_PIECE}
    failed = {c: count for c, count in summary["failures"].items() if c not in damage}
    if failed:
        text.append(f"failed: {_counted(failed)}")
    if damage:
        text.append(f"damaged, and not all of it read: {_counted(damage)}")
    return "\n".join(text)


def where_captions_stand(given: Mapping[str, Any]) -> str:
    """Return what gives captions to the images of an input; `given` are its facts."""
    kinds = {"rows" if given["kind"] == "table" else given["kind"]}
    if given["kind"] == "pieces":
        kinds = {source["kind"] for source in given["facts"]}
    places = dict.fromkeys(_BESIDE[kind] for kind in sorted(kinds) if kind in _BESIDE)
    return f"{' or '.join(['--captions=FILE (a table of path and caption)', *places])} gives them"


def _counted(by_cause: Mapping[str, int]) -> str:
    return ", ".join(f"{cause} ({count})" for cause, count in by_cause.items())


def _number(value: float) -> str:
    return format_number(value).replace("\N{MINUS SIGN}", "-")


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()


def draw_histograms(rewards: Mapping[str, dict], scale: str) -> str:
    """Draw a panel for each reward, with its histogram and percentiles.

    Args:
      rewards: identity -> what `statistics.describe` returns.
      scale: what the scores are measured in, for the axes.

    Returns:
      An SVG file.
    """
    title = "Scores, with median (solid), 5th and 95th percentile (dashed)"
    panels = [_panel(name, facts, scale) for name, facts in rewards.items()]
    return svg_file(title, panels, _WIDTH, _HEIGHT)


def _panel(name: str, facts: dict, scale: str) -> Markup:
    if not facts["count"]:
        return Markup('<text class="label" x="2" y="13">{}: no scores</text>').format(name)
    labels = {"5": "5 %", "50": "median", "95": "95 %"}
    note = "   ".join(f"{t} {format_number(facts['percentiles'][p])}" for p, t in labels.items())
    chart = histogram(name, facts, f"{name}, {scale}", _WIDTH, _HEIGHT)
    return chart + Markup(
        '<text x="{}" y="13" text-anchor="end" xml:space="preserve">{}</text>'
    ).format(_WIDTH - 12, note)
