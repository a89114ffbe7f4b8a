"""The built-in conflict: what chasing one reward costs in agreement with the prompt.

In the shapes world the pictures with the highest beauty have the most wrong captions, so a network
that is asked for beauty alone should follow its prompt less, and one that is also asked for all
other rewards should not (the paper's argument for training on many rewards at once). The chased
reward is asked for at several levels, once with all others asked for at 1, once with all others not
asked for in either branch of guidance.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from miro_jax.data.shapes import world
from miro_jax.evaluate import base, dials
from miro_jax.report.statistics import bootstrap_mean, wilson
from miro_jax.rewards.names import short_name


class Evaluator:
    """Measures agreement with the prompt against the level of one chased reward.

    Args:
      rewards: those that measure; agreement is the mean of those that need a caption.
      sampling: how to sample.
      prompts: [N], one picture of each at every level.
      asked_levels: in [0, 1], at least two, ascending.
      chased: name of the chased reward.
      check: (picture, prompt) -> whether the picture shows what the prompt asks for.
    """

    def __init__(
        self,
        rewards: Sequence,
        sampling: base.Sampling,
        prompts: Sequence[str],
        asked_levels: Sequence[float],
        chased: str,
        check: Callable,
    ):
        self.asked_levels = dials.check_levels(asked_levels)
        self.rewards = [r for r in rewards if r.needs_caption]
        self.sampling, self.prompts, self.chased = sampling, list(prompts), chased
        self.check = check

    def run(self, pipeline) -> dict[str, Any]:
        """Measure both ways of asking.

        Returns:
          `chased`; `asked_levels` [L]; `agreement_of`, names of the rewards in the mean;
          `others_asked` and `others_not_asked`, each with `agreement` [L] of mean, low, high and
          `correct` [L] of shares with Wilson intervals. A network that does not know the chased
          reward gives `not_measured`, a sentence, alone.
        """
        if self.chased not in pipeline.reward_names or not self.rewards:
            return {"not_measured": f"This network is not told the reward {self.chased!r}."}
        silent = {name: None for name in pipeline.reward_names if name != self.chased}
        ways = {"others_asked": {}, "others_not_asked": silent}
        result = {
            "chased": self.chased,
            "asked_levels": self.asked_levels,
            "images_per_level": len(self.prompts),
            "agreement_of": [r.name for r in self.rewards],
        }
        for way, others in ways.items():
            measured = [
                self._measure(pipeline, level, others)
                for level in tqdm(
                    self.asked_levels, desc=f"conflict, {way}", leave=False, disable=None
                )
            ]
            result[way] = {key: [m[key] for m in measured] for key in measured[0]}
        return result

    def _measure(self, pipeline, level: float, others: dict[str, None]) -> dict[str, Any]:
        images = self.sampling.sample(
            pipeline, self.prompts, targets={**others, self.chased: level}, negative_targets=others
        )
        scores = base.score(self.rewards, images, self.prompts)
        right = sum(self.check(i, p) for i, p in zip(images, self.prompts, strict=True))
        return {
            "agreement": bootstrap_mean(scores.mean(axis=1)),
            "correct": wilson(int(right), len(images)),
        }


def make_evaluator(config, rewards, **_) -> Evaluator:
    """Build it from `config.evaluate` and `config.sample`."""
    c = config.evaluate
    prompts = base.world_prompts(c.categories, c.images_per_level, config.sample.seed)
    chased = short_name(c.conflict_reward)
    sampling = base.make_sampling(config)
    return Evaluator(rewards, sampling, prompts, c.levels, chased, world.check)
