"""A GenEval-like table: the share of images that show what their prompt describes, by category.

GenEval (Ghosh et al., 2023) checks images with an object detector; here the detector is that of
the shapes world, and the categories have GenEval's names. As there, the overall number is the mean
over categories, whatever their sizes. For the category `colors` a second share ignores the shape:
whether the largest object has the colour that the prompt names.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from miro_jax.data.shapes import captions, detect, world
from miro_jax.evaluate import base
from miro_jax.report.clustered import shares
from miro_jax.report.results import GenEval, GenEvalRow
from miro_jax.report.statistics import mean_of_shares


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Checks images of prompts by category, without guidance and with the default.

    Attributes:
      sampling: how to sample; its guidance scale is the default.
      prompts: category -> prompts. count: images of each prompt.
    """

    shapes_only: ClassVar[bool] = True
    sampling: base.Sampling
    prompts: Mapping[str, Sequence[str]]
    count: int

    @classmethod
    def build(cls, inputs: base.Inputs) -> Self:
        """Build it for a run."""
        count = inputs.settings.images_per_prompt
        return cls(inputs.sampling, inputs.prompts.categories, count)

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples."""
        num_prompts = sum(len(prompts) for prompts in self.prompts.values())
        return len(self.sampling.scales) * num_prompts * self.count

    def run(self, pipeline: Any) -> GenEval:
        """Fill the table."""
        rows = [self._row(pipeline, scale) for scale in self.sampling.scales]
        return GenEval(self.count, rows)

    def _row(self, pipeline: Any, scale: float) -> GenEvalRow:
        # All categories in one call: it fills batches, and other evaluators request the same.
        every = [prompt for prompts in self.prompts.values() for prompt in prompts]
        images = self.sampling.sample(pipeline, every, self.count, guidance_scale=scale)
        texts = [prompt for prompt in every for _ in range(self.count)]
        tags = [n for n, own in self.prompts.items() for _ in range(len(own) * self.count)]
        categories = shares(world.check_all(images, texts), texts, tags)
        colors = [n for n, tag in enumerate(tags) if tag == "colors"]
        named = [has_named_color(images[n], texts[n]) for n in colors]
        found = shares(named, [texts[n] for n in colors], ["colors"] * len(colors))
        return {
            "guidance_scale": scale,
            "categories": categories,
            "overall": mean_of_shares(list(categories.values())),
            "named_color": found.get("colors"),
            "unit": "prompts",
        }


def has_named_color(image: np.ndarray, prompt: str) -> bool:
    """Return whether the largest object in [H, W, 3] uint8 has the first colour named."""
    named = [phrase.color for phrase in captions.parse(prompt).objects if phrase.color]
    objects = detect.detect(image)
    return bool(named and objects and objects[0].color == named[0])
