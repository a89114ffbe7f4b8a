"""A GenEval-like table: the share of pictures that show what their prompt asks for, by category.

GenEval (Ghosh et al., 2023) checks pictures with an object detector; here the detector is that of
the shapes world, and the categories have GenEval's names. As there, the overall number is the mean
over categories, whatever their sizes. For the category `colors` a second share ignores the shape:
whether the largest thing found has the colour that the prompt names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.data.shapes import captions, detect, world
from miro_jax.evaluate import base
from miro_jax.report.statistics import mean_of_shares, wilson


class Evaluator:
    """Checks pictures of prompts by category, without guidance and with the default.

    Args:
      sampling: how to sample; its guidance scale is the default.
      prompts: category -> prompts.
      num_images: pictures of each prompt.
    """

    def __init__(
        self, sampling: base.Sampling, prompts: Mapping[str, Sequence[str]], num_images: int
    ):
        self.sampling, self.prompts, self.num_images = sampling, dict(prompts), num_images

    def run(self, pipeline) -> dict[str, Any]:
        """Fill the table.

        Returns:
          `rows`, one for each guidance scale: `guidance_scale`; `categories`: name -> share of
          pictures (correct, total, accuracy, low, high: Wilson, pictures taken as independent);
          `overall` (accuracy, low, high); `named_color`: a share, null without the category colors.
        """
        return {
            "images_per_prompt": self.num_images,
            "rows": [
                self._row(pipeline, scale)
                for scale in base.guidance_scales(self.sampling.guidance_scale)
            ],
        }

    def _row(self, pipeline, scale: float) -> dict[str, Any]:
        # All categories in one call: it fills batches, and other evaluators ask for the same.
        every = [prompt for prompts in self.prompts.values() for prompt in prompts]
        images = self.sampling.sample(pipeline, every, self.num_images, guidance_scale=scale)
        categories, named_color = {}, None
        for name, prompts in self.prompts.items():
            texts = [p for p in prompts for _ in range(self.num_images)]
            own, images = images[: len(texts)], images[len(texts) :]
            categories[name] = _share(world.check, own, texts)
            if name == "colors":
                named_color = _share(has_named_color, own, texts)
        return {
            "guidance_scale": scale,
            "categories": categories,
            "overall": mean_of_shares(list(categories.values())),
            "named_color": named_color,
        }


def has_named_color(image: np.ndarray, prompt: str) -> bool:
    """Tell whether the largest thing found in [H, W, 3] uint8 has the first colour named."""
    named = [phrase.color for phrase in captions.parse(prompt).objects if phrase.color]
    found = detect.detect(image)
    return bool(named and found and found[0].color == named[0])


def _share(check, images: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    right = sum(bool(check(i, t)) for i, t in zip(images, texts, strict=True))
    return wilson(right, len(images))


def make_evaluator(config, **_) -> Evaluator:
    """Build it from `config.evaluate` and `config.sample`."""
    prompts = base.category_prompts(config)
    return Evaluator(base.make_sampling(config), prompts, config.evaluate.images_per_prompt)
