"""The row of one image: what was detected, what was decided, and why. About 1 kB of JSON.

    correct   the verdict                       margins  how near its decisions were
    reasons   what failed, see `verdict`        size     [width, height] in pixels
    objects   class -> [[x0, y0, x1, y1, score], ...], the best first, scores above 0.05
    colors    class -> [[logit of each of the ten colours], ...] of its best objects

Scores and logits are written so that they are read back as the same float32: a row can be judged
again, with other thresholds from 0.05 on, without the detector (`judge_again`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from miro_jax.data.json_file import check_fields
from miro_jax.evaluate.suites.geneval import verdict
from miro_jax.evaluate.suites.geneval.prompts import COLORS, Prompt, class_names

NEAR = 0.01  # of a score to its threshold
LEAST_SCORE = 0.05  # objects at or below are not in the row
SCHEMA = {
    "correct": bool,
    "reasons": [{"clause": int, "class": str, "rule": str}],
    "margins": {str: float},
    "size": [int],
    "objects": {str: [[float]]},
    "colors": {str: [[float]]},
}


def make_row(
    prompt: Prompt, size: tuple[int, int], objects: verdict.Objects, colors: verdict.Logits
) -> dict[str, Any]:
    """Judge an image and return its row.

    Args:
      prompt: of the image. size: (width, height). objects, colors: see `verdict.judge`.
    """
    result = verdict.judge(prompt, objects, colors)
    shown = {name: visible(objects[name]) for name in class_names() if name in objects}
    return {
        "correct": result.correct,
        "reasons": list(result.reasons),
        "margins": {name: _short(np.float32(value)) for name, value in result.margins.items()},
        "size": list(size),
        "objects": {
            name: [[*map(int, box[:4]), _short(box[4])] for box in boxes]
            for name, boxes in shown.items()
            if len(boxes)
        },
        "colors": {
            name: [[_short(value) for value in logits] for logits in colors[name]]
            for name in sorted(colors)
            if len(colors[name])
        },
    }


def visible(objects: np.ndarray) -> np.ndarray:
    """Return those of `[n, 5]` objects whose score is in a row, the best first."""
    best = verdict.ranked(objects)
    return best[best[:, 4] > np.float32(LEAST_SCORE)]


def read_row(value: Any, name: str) -> tuple[verdict.Objects, verdict.Logits]:
    """Check a row and return its objects and colour logits.

    Args:
      value: parsed JSON. name: of the file and line, for messages.

    Raises:
      ValueError: it is no row of GenEval.
    """
    check_fields(value, SCHEMA, name)
    for field, width in (("objects", 5), ("colors", len(COLORS))):
        if any(len(one) != width for own in value[field].values() for one in own):
            raise ValueError(f"{name}: {field} must have rows of {width} numbers.")
    objects, colors = (
        {key: np.array(own, np.float32).reshape(len(own), -1) for key, own in value[field].items()}
        for field in ("objects", "colors")
    )
    return objects, colors


def judge_again(value: Any, prompt: Prompt, rules: verdict.Rules) -> verdict.Verdict:
    """Judge a row by other thresholds, without detector or colour classifier.

    Raises:
      ValueError: it is no row, or a threshold is below what rows hold.
    """
    for what in ("score", "counting"):
        if getattr(rules, what) < LEAST_SCORE:
            raise ValueError(
                f"the threshold {what} must be at least {LEAST_SCORE}, the least that rows hold; "
                f"got {getattr(rules, what)}."
            )
    return verdict.judge(prompt, *read_row(value, "the row"), rules)


def identity() -> dict[str, Any]:
    """Return the rules as a manifest has them."""
    return {**dataclasses.asdict(verdict.OFFICIAL), "overlap": 1.0, "position": 0.1}


def is_near(row: Mapping[str, Any]) -> bool:
    """Return whether a row has a decisive score within NEAR of its threshold."""
    return row.get("margins", {}).get("score", np.inf) <= NEAR


def _short(value: np.float32) -> float:
    """Return a float32 as the shortest decimal number that is read back as it."""
    return float(str(value))
