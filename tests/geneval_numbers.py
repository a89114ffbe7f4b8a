"""GenEval's three numbers by the benchmark's own formulas: a second opinion on `suites.measure`.

overall           unweighted mean of the accuracies of the six tags: what papers print
correct_images    share of images that are correct
correct_prompts   share of prompts with at least one correct image
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.evaluate.suites.geneval.prompts import TAGS


def summarize(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of a set of verdicts.

    Args:
      rows: one for each image: tag, prompt (of its text or number) and correct.

    Returns:
      overall, correct_images and correct_prompts in [0, 1], and tags: tag -> accuracy. `overall` is
      None unless every tag has an image.

    Raises:
      ValueError: there is no row.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("at least one image must be judged; got none.")
    tags = {
        tag: float(np.mean(own))
        for tag in TAGS
        if (own := [row["correct"] for row in rows if row["tag"] == tag])
    }
    prompts: dict[Any, list[bool]] = {}
    for row in rows:
        prompts.setdefault(row["prompt"], []).append(row["correct"])
    return {
        "overall": overall(tags),
        "correct_images": float(np.mean([row["correct"] for row in rows])),
        "correct_prompts": float(np.mean([any(own) for own in prompts.values()])),
        "tags": tags,
    }


def overall(tags: Mapping[str, float]) -> float | None:
    """Return the mean over the six tags; None where one is missing."""
    return None if missing(tags) else sum(tags[tag] for tag in TAGS) / len(TAGS)


def missing(tags: Iterable[str]) -> Sequence[str]:
    """Return the tags that are not there."""
    return [tag for tag in TAGS if tag not in set(tags)]
