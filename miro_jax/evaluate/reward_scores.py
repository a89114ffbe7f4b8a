"""Mean reward of generated images, without guidance and with the default, beside that of the
training data.

All targets are at the run's defaults, so a network that uses its rewards should pass the mean of
the data it was trained on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from miro_jax.evaluate import base
from miro_jax.report.results import RewardScores
from miro_jax.report.statistics import Mean, bootstrap_mean


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Scores images of prompts with every reward.

    Attributes:
      judges: the R rewards that measure.
      sampling: how to sample; its guidance scale is the default.
      prompts: texts. count: images of each.
      training: reward -> mean and std of the scores that training sees.
    """

    shapes_only: ClassVar[bool] = False
    judges: base.Judges
    sampling: base.Sampling
    prompts: Sequence[str]
    count: int
    training: Mapping[str, Mapping[str, float]]

    def __post_init__(self):
        measured = {name: dict(self.training[name]) for name in self.judges.names}
        object.__setattr__(self, "training", measured)

    @classmethod
    def build(cls, inputs: base.Inputs) -> Self:
        """Build it for a run."""
        count = inputs.settings.images_per_prompt
        return cls(inputs.judges, inputs.sampling, inputs.prompts.texts, count, inputs.training)

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples."""
        return len(self.sampling.scales) * len(self.prompts) * self.count

    def run(self, pipeline: Any) -> RewardScores:
        """Sample and score."""
        texts = [p for p in self.prompts for _ in range(self.count)]
        rows = []
        for scale in self.sampling.scales:
            images = self.sampling.sample(pipeline, self.prompts, self.count, guidance_scale=scale)
            rows.append({"guidance_scale": scale, "rewards": self._means(images, texts)})
        return RewardScores(len(texts), rows, self.training)

    def _means(self, images: np.ndarray, texts: Sequence[str]) -> dict[str, dict[str, Mean]]:
        scores = self.judges.score(images, texts)
        achieved = self.judges.levels(scores)
        return {
            name: {
                "score": bootstrap_mean(scores[:, column], texts),
                "level": bootstrap_mean(achieved[:, column], texts),
            }
            for column, name in enumerate(self.judges.names)
        }
