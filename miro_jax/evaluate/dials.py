"""Dials: does an image score what was requested?

Each reward that the network knows is requested at several levels while all others stay at the
default targets, those of the negative branch too, always with the same prompts and the same
noise. The rewards themselves measure the images: the score, and the level that training would have
given it. A dial that works rises; a perfect one achieves the requested level. The cross effects are
the same images seen by the other rewards: what turning one dial from the lowest to the highest
level does to each of them.

Letters: N images a level, R measured rewards, L levels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from miro_jax.evaluate import base
from miro_jax.evaluate.settings import check_levels
from miro_jax.report.results import Cross, Dial, Dials
from miro_jax.report.statistics import bootstrap_mean, rank_correlation


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Requests each reward at each level and measures all rewards.

    Attributes:
      judges: the R rewards that measure; those that the network knows are among them.
      sampling: how to sample.
      prompts: [N], one image of each at every level.
      levels: [L] in [0, 1], requested, ascending.
    """

    shapes_only: ClassVar[bool] = False
    judges: base.Judges
    sampling: base.Sampling
    prompts: Sequence[str]
    levels: Sequence[float]

    @classmethod
    def build(cls, inputs: base.Inputs) -> Self:
        """Build it for a run."""
        prompts, levels = inputs.prompts.per_level, check_levels(inputs.settings.levels)
        return cls(inputs.judges, inputs.sampling, prompts, levels)

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples."""
        return len(reward_names) * len(self.levels) * len(self.prompts)

    def run(self, pipeline: Any) -> Dials:
        """Measure every dial of the pipeline."""
        dials, changes = {}, []
        for name in pipeline.reward_names:
            scores = np.stack([self._score(pipeline, name, level) for level in self.levels])
            dials[name] = self._dial(scores, self.judges.names.index(name))
            # The same noise at both ends: the interval is that of paired differences.
            rises = (scores[-1] - scores[0]).T
            changes.append([bootstrap_mean(column, self.prompts) for column in rises])
        ends = (("difference", "mean"), ("low", "low"), ("high", "high"))
        cross = Cross(
            asked=list(pipeline.reward_names),
            measured=self.judges.names,
            **{key: [[change[end] for change in row] for row in changes] for key, end in ends},
        )
        return Dials(list(self.levels), len(self.prompts), dials, cross)

    def _score(self, pipeline: Any, name: str, level: float) -> np.ndarray:
        """Return the scores [N, R] of images with one reward requested at a level."""
        images = self.sampling.sample(pipeline, self.prompts, targets={name: level})
        return self.judges.score(images, self.prompts)

    def _dial(self, scores: np.ndarray, column: int) -> Dial:
        """Describe the dial of one column of scores [L, N, R]."""
        own = scores[..., column]  # [L, N]
        achieved = self.judges.levels(scores)[..., column]
        requested = np.broadcast_to(np.array(self.levels)[:, None], own.shape)
        return {
            "score": [bootstrap_mean(row, self.prompts) for row in own],
            "level": [bootstrap_mean(row, self.prompts) for row in achieved],
            "rank_of_means": rank_correlation(self.levels, np.nanmean(own, axis=1)),
            "rank_of_samples": rank_correlation(requested.ravel(), own.ravel()),
        }
