"""Mean reward of generated pictures, without guidance and with the default, beside that of the
training data.

All targets are at their defaults (1), so a network that uses its rewards should pass the mean of
the data it was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.data.records.bins import Bins, levels
from miro_jax.evaluate import base
from miro_jax.report.statistics import bootstrap_mean


class Evaluator:
    """Scores pictures of prompts with every reward.

    Args:
      rewards: the R rewards that measure.
      bins: their bins, in the same order.
      sampling: how to sample; its guidance scale is the default.
      prompts: texts. num_images: pictures of each.
      training: reward name -> summary of the training data's scores (mean, std, percentiles).
    """

    def __init__(
        self,
        rewards: Sequence,
        bins: Bins,
        sampling: base.Sampling,
        prompts: Sequence[str],
        num_images: int,
        training: Mapping[str, Mapping[str, Any]],
    ):
        self.rewards, self.bins, self.sampling = list(rewards), bins, sampling
        self.prompts, self.num_images = list(prompts), num_images
        self.training = {r.name: dict(training[r.name]) for r in self.rewards}

    def run(self, pipeline) -> dict[str, Any]:
        """Score.

        Returns:
          `rows`, one for each guidance scale: `guidance_scale`, `rewards`: name -> `score` and
          `level` (mean, low, high each); `training`: name -> the summary given; `num_images` a row.
        """
        texts = [p for p in self.prompts for _ in range(self.num_images)]
        rows = []
        for scale in base.guidance_scales(self.sampling.guidance_scale):
            images = self.sampling.sample(
                pipeline, self.prompts, self.num_images, guidance_scale=scale
            )
            rows.append({"guidance_scale": scale, "rewards": self._means(images, texts)})
        return {"num_images": len(texts), "rows": rows, "training": self.training}

    def _means(self, images: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
        scores = base.score(self.rewards, images, texts)
        achieved = levels(self.bins, scores)
        return {
            reward.name: {
                "score": bootstrap_mean(scores[:, column]),
                "level": bootstrap_mean(achieved[:, column]),
            }
            for column, reward in enumerate(self.rewards)
        }


def make_evaluator(config, rewards, bins: Bins, training, **_) -> Evaluator:
    """Build it from `config.evaluate` and `config.sample`."""
    prompts = [text for texts in base.category_prompts(config).values() for text in texts]
    num_images = config.evaluate.images_per_prompt
    return Evaluator(rewards, bins, base.make_sampling(config), prompts, num_images, training)
