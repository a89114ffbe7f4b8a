"""Which numbers may stand in one column, and which may be subtracted.

A column needs the same benchmark, judge, number of images of each prompt and estimator. A
difference needs the same prompts as well, and the per-image files of both. What the judge of a
number is depends on the metric: of a reward the towers it was computed with, of a suite's score the
judge.
"""

from collections.abc import Mapping
from typing import Any

from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation

_ABSENT = "absent"


def differing(first: Any, second: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return the fields in which two JSON values differ: (path, first, second)."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return [
            found
            for key in sorted({*first, *second})
            for found in differing(
                first.get(key, _ABSENT), second.get(key, _ABSENT), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if first == second else [(name, first, second)]


def judge_of(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    """Return the identity of what a metric was judged by, a field of the manifest each."""
    towers = evaluation.manifest["rewards"]
    if metric in towers:
        return {f"rewards.{metric}": towers[metric]}
    return {"judge": evaluation.manifest["judge"]}


def why_no_column(first: Evaluation, second: Evaluation, metric: str) -> list[tuple[str, Any, Any]]:
    """Return the fields that keep two numbers out of one column; none where they may share it.

    What is unknown in a judge keeps them apart too.
    """
    leaves = _leaves(judge_of(first, metric))
    unknown = [(path, value, value) for path, value in leaves if value == UNKNOWN]
    return differing(*(_column(one, metric) for one in (first, second))) or unknown


def why_no_difference(first: Evaluation, second: Evaluation) -> list[tuple[str, Any, Any]]:
    """Return what keeps two evaluations from being subtracted prompt by prompt."""
    fields = ("prompts_sha256", "prompts")
    sides = [{f: one.manifest["benchmark"].get(f) for f in fields} for one in (first, second)]
    found = differing(*({"benchmark": side} for side in sides))
    for one in (first, second):
        if not one.manifest["result"].get("file"):
            found.append(("result.file", one.name, _ABSENT))
    return found


def describe(fields: list[tuple[str, Any, Any]]) -> str:
    """Write differing fields as one line."""
    shown = [f"{path}: {shorten(a)} and {shorten(b)}" for path, a, b in fields[:3]]
    return "; ".join(shown) + (f"; {len(fields) - 3} more" if len(fields) > 3 else "")


def _column(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    benchmark = evaluation.manifest["benchmark"]
    return {
        "benchmark": {key: benchmark.get(key) for key in ("name", "score", "samples_per_prompt")},
        "estimator": evaluation.metrics.get(metric, {}).get("estimator"),
        "partial": bool(evaluation.manifest["result"].get("partial")),
        **judge_of(evaluation, metric),
    }


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [one for key in value for one in _leaves(value[key], f"{name}.{key}".lstrip("."))]
    return [(name, value)]


def shorten(value: Any, most: int = 48) -> str:
    """Return a value as a text of at most so many characters."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
