"""The built-in conflict: what chasing one reward costs in agreement with the prompt.

In the shapes world the images with the highest beauty have the most wrong captions, so a network
with beauty as its only target should follow its prompt less, and one with high targets for all
rewards should not (the paper's argument for training on many rewards at once). The chased reward is
requested at several levels, once with all others at 1, once with all others missing in both
branches of guidance.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from miro_jax.data.shapes import world
from miro_jax.evaluate import base
from miro_jax.evaluate.settings import check_levels
from miro_jax.report.clustered import shares
from miro_jax.report.results import Conflict, Way
from miro_jax.report.statistics import bootstrap_mean
from miro_jax.rewards.names import short_name


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Measures agreement with the prompt against the level of one chased reward.

    Attributes:
      judges: agreement is the mean of their scores.
      sampling: how to sample.
      prompts: [N], one image of each at every level.
      levels: requested, ascending. chased: name of the chased reward.
      check: (images [N, H, W, 3], prompts) -> whether each image shows its prompt.
    """

    shapes_only: ClassVar[bool] = True
    judges: base.Judges
    sampling: base.Sampling
    prompts: Sequence[str]
    levels: Sequence[float]
    chased: str
    check: Callable

    @classmethod
    def build(cls, inputs: base.Inputs) -> Self:
        """Build it for a run."""
        return cls(
            inputs.judges.of_captions,
            inputs.sampling,
            inputs.prompts.per_level,
            check_levels(inputs.settings.levels),
            short_name(inputs.settings.conflict_reward),
            world.check_all,
        )

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples."""
        return 2 * len(self.levels) * len(self.prompts) if self._can_measure(reward_names) else 0

    def _can_measure(self, reward_names: Sequence[str]) -> bool:
        return self.chased in reward_names and bool(self.judges.names)

    def run(self, pipeline: Any) -> Conflict:
        """Measure both ways of requesting the reward."""
        if not self._can_measure(pipeline.reward_names):
            return Conflict(
                not_measured=f"This network is not conditioned on the reward {self.chased!r}."
            )
        missing = {name: None for name in pipeline.reward_names if name != self.chased}
        return Conflict(
            self.chased,
            list(self.levels),
            len(self.prompts),
            self.judges.names,
            self._way(pipeline, {}),
            self._way(pipeline, missing),
        )

    def _way(self, pipeline: Any, others: dict[str, None]) -> Way:
        way = Way(agreement=[], correct=[])
        for level in self.levels:
            targets = {**others, self.chased: level}
            images = self.sampling.sample(
                pipeline, self.prompts, targets=targets, negative_targets=others
            )
            scores = self.judges.score(images, self.prompts)
            right = self.check(images, self.prompts)
            way["agreement"].append(bootstrap_mean(np.nanmean(scores, axis=1), self.prompts))
            way["correct"].append(shares(right, self.prompts, [""] * len(images))[""])
        return way
