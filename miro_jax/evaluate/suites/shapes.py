"""The bench world as a suite: prompts and detector of `evaluate.geneval`, in six categories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.data.shapes import detect, scene, world
from miro_jax.evaluate.settings import Settings
from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.report.clustered import TAGS

NAME = "shapes@1"


class ShapesJudge:
    """The detector of the shapes world; see `data.shapes.detect`."""

    batch_size = 64
    identity = {"name": "shapes-detector@1"}

    def judge(
        self, images: Sequence[np.ndarray], prompts: Sequence[SuitePrompt]
    ) -> list[dict[str, Any]]:
        """Say of each image whether it shows what its prompt describes, and what is seen."""
        rows = []
        for image, prompt in zip(images, prompts, strict=True):
            (correct,) = world.check_all(image[None], [prompt.text])
            seen = [f"{one.color} {one.shape}" for one in detect.detect(image)]
            rows.append({"correct": bool(correct), "seen": seen})
        return rows


def make_suite(
    categories: Sequence[str] = scene.CATEGORIES,
    count: int = Settings.prompts_per_category,
    seed: int = 0,
) -> Suite:
    """Return the suite with `count` prompts of each category, those that `seed` gives."""
    prompts = [(name, text) for name in categories for text, _ in world.prompts(name, count, seed)]
    return Suite(
        NAME,
        tuple(SuitePrompt(f"{n:05d}", text, tag) for n, (tag, text) in enumerate(prompts)),
        samples_per_prompt=Settings.images_per_prompt,
        score="correct",
        estimator=TAGS,
        open_judge=_open_judge,
        check_judge=_open_judge,
    )


def _open_judge(options: Mapping[str, str]) -> ShapesJudge:
    if options:
        raise ValueError(f"the judge of shapes has no options; got {', '.join(options)}.")
    return ShapesJudge()
