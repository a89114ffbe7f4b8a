"""Dials: does a picture score what was asked for?

Each reward that the network knows is asked for at several levels while all others are asked for at
1 (negative targets 0), always with the same prompts and the same noise. Measured is what the
rewards themselves say of the pictures: the score, and the level that training would have given it.
A dial that works rises; a perfect one achieves the level asked for. The cross effects are the same
pictures seen by the other rewards: what turning one dial from the lowest to the highest level does
to each of them.

Letters: N pictures a level, R measured rewards, L levels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from miro_jax.data.records.bins import Bins, levels
from miro_jax.evaluate import base
from miro_jax.report.statistics import bootstrap_mean, rank_correlation


class Evaluator:
    """Asks each reward for each level and measures all rewards.

    Args:
      rewards: the R rewards that measure.
      bins: their bins, in the same order.
      sampling: how to sample.
      prompts: [N], one picture of each at every level.
      asked_levels: [L] in [0, 1], at least two, ascending.
    """

    def __init__(
        self,
        rewards: Sequence,
        bins: Bins,
        sampling: base.Sampling,
        prompts: Sequence[str],
        asked_levels: Sequence[float],
    ):
        self.asked_levels = check_levels(asked_levels)
        self.rewards, self.bins, self.sampling = list(rewards), bins, sampling
        self.prompts = list(prompts)

    def run(self, pipeline) -> dict[str, Any]:
        """Measure every dial of the pipeline.

        Returns:
          `asked_levels` [L]; `images_per_level` N; `dials`: for each asked reward `score` and
          `level` ([L] of mean, low, high), `rank_of_means` and `rank_of_samples` (Spearman of asked
          level against mean score and against all scores; null where undefined); `cross`: `asked`
          and `measured` names, `difference`, `low`, `high` [asked][measured] of the mean score
          between the highest and the lowest asked level.
        """
        names = [r.name for r in self.rewards]
        dials, cross = {}, {"difference": [], "low": [], "high": []}
        scores_of = self._score_all(pipeline)
        for asked in pipeline.reward_names:
            scores = np.stack([scores_of[asked, level] for level in self.asked_levels])  # [L, N, R]
            dials[asked] = self._dial(scores, names.index(asked))
            # The same noise at both ends: the interval is that of paired differences.
            change = [bootstrap_mean(column) for column in (scores[-1] - scores[0]).T]
            for key, part in (("difference", "mean"), ("low", "low"), ("high", "high")):
                cross[key].append([c[part] for c in change])
        return {
            "asked_levels": self.asked_levels,
            "images_per_level": len(self.prompts),
            "dials": dials,
            "cross": {"asked": list(pipeline.reward_names), "measured": names, **cross},
        }

    def _score_all(self, pipeline) -> dict[tuple[str, float], np.ndarray]:
        """Return {(asked reward, level): scores [N, R]}."""
        found: dict[tuple[str, float], np.ndarray] = {}
        asked = [(name, level) for name in pipeline.reward_names for level in self.asked_levels]
        for name, level in tqdm(asked, desc="dials", unit="level", leave=False, disable=None):
            images = self.sampling.sample(pipeline, self.prompts, targets={name: level})
            found[name, level] = base.score(self.rewards, images, self.prompts)
        return found

    def _dial(self, scores: np.ndarray, column: int) -> dict[str, Any]:
        own = scores[..., column]  # [L, N]
        achieved = levels(self.bins, scores)[..., column]
        asked = np.broadcast_to(np.array(self.asked_levels)[:, None], own.shape)
        return {
            "score": [bootstrap_mean(row) for row in own],
            "level": [bootstrap_mean(row) for row in achieved],
            "rank_of_means": rank_correlation(self.asked_levels, own.mean(axis=1)),
            "rank_of_samples": rank_correlation(asked.ravel(), own.ravel()),
        }


def check_levels(asked_levels: Sequence[float]) -> list[float]:
    """Return the levels as ascending floats; ValueError unless two or more, distinct, in [0, 1]."""
    found = sorted({float(level) for level in asked_levels})
    if len(found) < 2 or len(found) != len(asked_levels) or found[0] < 0 or found[-1] > 1:
        raise ValueError(
            f"config.evaluate.levels must be two or more different numbers in [0, 1]; got "
            f"{tuple(asked_levels)}."
        )
    return found


def make_evaluator(config, rewards, bins: Bins, **_) -> Evaluator:
    """Build it from `config.evaluate` and `config.sample`."""
    c = config.evaluate
    prompts = base.world_prompts(c.categories, c.images_per_level, config.sample.seed)
    return Evaluator(rewards, bins, base.make_sampling(config), prompts, c.levels)
