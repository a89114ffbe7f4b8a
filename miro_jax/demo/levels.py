"""The levels that training would have given to scores, for rewards of which it knew some.

Letters: N images, R rewards.
"""

from collections.abc import Sequence

import numpy as np

from miro_jax.data.records import bins as all_bins
from miro_jax.data.records.bins import Bins
from miro_jax.rewards.base import Reward


def measured_levels(bins: Bins, rewards: Sequence[Reward], scores: np.ndarray) -> np.ndarray:
    """Return the levels [N, R] float32 in [0, 1]; NaN where the bins lack the reward.

    Args:
      bins: of training. rewards: R of them, in any order.
      scores: [N, R] on the stored scale, which bins are fitted on.
    """
    known = [n for n, reward in enumerate(rewards) if reward.identity in bins.names]
    rows = [bins.names.index(rewards[n].identity) for n in known]
    every = np.full((len(scores), len(bins.names)), np.nan)
    every[:, rows] = scores[:, known]
    levels = np.full(scores.shape, np.nan, np.float32)
    levels[:, known] = all_bins.levels(bins, every)[:, rows]
    return levels
