"""What a search maximises: a score of images with their prompts.

An objective has `identity` and `score(images, prompts) -> [N]`. Here are those that the command
line names; a search from Python takes any other, as one of an evaluator.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from miro_jax import rewards
from miro_jax.data.near import near_name
from miro_jax.data.shapes import captions, world
from miro_jax.rewards.base import Reward, require_built, score_all
from miro_jax.sample.search_options import Search

GENEVAL = "geneval"
_LEAST_STD = 1e-6


class Objective(Protocol):
    """A score of images, higher is better. identity: changes whenever its scores do."""

    identity: str

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Return the scores [N] float64 of images [N, H, W, 3] uint8, each with its prompt."""
        ...


class RewardMean:
    """One reward as it is, or the mean of several, each in standard deviations.

    Args:
      members: loaded. images, prompts: those that give mean and standard deviation; for several
        members alone.

    Raises:
      TypeError: no list, or a member is a name. ValueError: there is none, or one of several gives
        all of these images the same score.
    """

    def __init__(
        self,
        members: Sequence[Reward],
        images: np.ndarray | None = None,
        prompts: Sequence[str] = (),
    ):
        if not isinstance(members, Iterable):
            raise TypeError(f"members must be a list of rewards; got {members!r:.60}.")
        self.rewards = list(members)
        for reward in self.rewards:
            require_built(reward)
        if not self.rewards:
            raise ValueError("at least one reward is needed for a mean; got none.")
        self.identity = " + ".join(reward.identity for reward in self.rewards)
        self._mean, self._std = 0.0, 1.0
        if len(self.rewards) > 1:
            scores = self._scores(images, prompts)
            self._mean = np.nanmean(scores, axis=0)
            self._std = np.nanstd(scores, axis=0)
            for reward, std in zip(self.rewards, self._std, strict=True):
                if not std > _LEAST_STD:
                    raise ValueError(
                        f"a reward of several must differ between images; {reward.identity} gives "
                        f"all {len(scores)} images the same score. Take other prompts, or leave "
                        "it out."
                    )

    def _scores(self, images: np.ndarray | None, prompts: Sequence[str]) -> np.ndarray:
        scores = score_all(self.rewards, images, [{"caption": list(prompts)}])[0]
        return scores.astype(np.float64)

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Return the scores [N] float64; see `Objective`."""
        return ((self._scores(images, prompts) - self._mean) / self._std).mean(axis=1)


class ShapesCheck:
    """1 where the detector of the shapes world finds what the prompt describes, else 0.

    Its mean over prompts of all categories alike is the overall score of `evaluate.geneval`.
    """

    identity = "geneval@shapes"

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Return the scores [N] float64; see `Objective`."""
        return np.array(world.check_all(images, prompts), np.float64)


def check_search(verb: Search, prompts: Sequence[Any], seed: int) -> list[str]:
    """Check the objective of a search; return the prompts of the shapes world that it names.

    Args:
      verb: options. prompts: `Prompt`s that are given besides. seed: of the prompts returned.

    Raises:
      ValueError: an unknown reward or category, weights of another reward, or a prompt that the
        objective cannot judge. FileNotFoundError: see `rewards.check_names`.
    """
    weights = read_weights(verb)
    if verb.objective == (GENEVAL,):
        if weights:
            raise ValueError(f"--reward-weights: the objective {GENEVAL} has no weights.")
    elif not verb.objective:
        raise ValueError(f"--objective must name a reward, several, or {GENEVAL}; got nothing.")
    elif GENEVAL in verb.objective:
        names = ", ".join(verb.objective)
        raise ValueError(f"--objective: {GENEVAL} must stand alone; got {names}.")
    else:
        try:
            rewards.check_names(verb.objective)
        except ValueError as error:
            near = near_name(verb.objective[0], (GENEVAL,), "") if len(verb.objective) == 1 else ""
            text = f"{str(error).rstrip('.')}{near}" if near else f"{error} Or {GENEVAL} alone."
            raise ValueError(f"--objective: {text}") from error
        rewards.check_weights(verb.objective, weights)
    for prompt in prompts if verb.objective == (GENEVAL,) else ():
        if not captions.parse(prompt.text).objects:
            raise ValueError(
                f"--objective={GENEVAL} judges prompts of the shapes world, which name a circle, a "
                f"square or a triangle; got {prompt.text!r}."
            )
    count = verb.prompts_per_category
    return [text for name in verb.categories for text, _ in world.prompts(name, count, seed)]


def read_weights(verb: Search) -> dict[str, str]:
    """Return the weights that a search names for rewards."""
    pairs = [text.partition("=") for text in verb.reward_weights]
    if wrong := [name for name, _, path in pairs if not path]:
        raise ValueError(f"--reward-weights must read NAME=DIR_OR_ID; got {wrong[0]!r}.")
    return {name: path for name, _, path in pairs}
