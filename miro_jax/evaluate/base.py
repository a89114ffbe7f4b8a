"""What every evaluator shares: how it samples, how it scores, how its failure is told.

An evaluator is built from plain arguments and has `run(pipeline) -> dict` of JSON values. Letters:
N pictures, R rewards.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from miro_jax.data.shapes import world
from miro_jax.models.targets import Targets
from miro_jax.rewards.base import Reward, score_all


class Evaluator(Protocol):
    """A measurement of a trained network."""

    def run(self, pipeline) -> dict[str, Any]:
        """Sample from a `MiroPipeline`, measure, and return JSON values."""
        ...


class EvaluatorFailed(RuntimeError):
    """An evaluator raised; the text names it and the step, the cause is chained."""


@contextlib.contextmanager
def named_failure(name: str, step: int) -> Iterator[None]:
    """Raise whatever fails inside as `EvaluatorFailed` that names the evaluator and the step."""
    try:
        yield
    except Exception as error:
        raise EvaluatorFailed(
            f"Evaluator {name!r} failed on the network of step {step}: "
            f"{type(error).__name__}: {error}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How an evaluator samples; the arguments of `MiroPipeline.__call__` of the same names.

    One seed for all: pictures that differ in their targets or guidance alone start from the same
    noise, so what differs between them is what was asked for.
    """

    guidance_scale: float
    num_steps: int
    solver: str
    negative_prompt: str
    seed: int

    def sample(
        self,
        pipeline,
        prompts: Sequence[str],
        num_images: int = 1,
        targets: Targets = None,
        negative_targets: Targets = None,
        guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Return [len(prompts) * num_images, H, W, 3] uint8; None takes the default."""
        settings = dataclasses.asdict(self)
        if guidance_scale is not None:
            settings["guidance_scale"] = guidance_scale
        return pipeline(
            prompts,
            num_images,
            targets=targets,
            negative_targets=negative_targets,
            output_type="numpy",
            **settings,
        )


class Remembering:
    """A pipeline that makes each picture once: evaluators ask for the same ones again and again.

    What is asked for decides, not how it is said: {"beauty": 1.0} and nothing are the same to a
    network whose default is 1. Pictures are kept on the host as long as this object is.
    """

    def __init__(self, pipeline):
        self._pipeline, self._made = pipeline, {}
        self.reward_names = pipeline.reward_names

    def __call__(
        self, prompts, num_images=1, targets=None, negative_targets=None, **settings
    ) -> np.ndarray:
        """As `MiroPipeline.__call__`."""
        count = len(prompts) * num_images
        asked = self._pipeline.levels(targets, count, default=1.0)
        refused = self._pipeline.levels(negative_targets, count, default=0.0)
        if settings["guidance_scale"] == 0:
            refused = np.zeros_like(refused)  # there is no negative branch
        key = (
            tuple(prompts),
            num_images,
            asked.tobytes(),
            refused.tobytes(),
            tuple(sorted(settings.items())),
        )
        if key not in self._made:
            self._made[key] = self._pipeline(
                prompts, num_images, targets=asked, negative_targets=refused, **settings
            )
        return self._made[key]


def make_sampling(config) -> Sampling:
    """Build the sampling settings of `config.sample`."""
    c = config.sample
    return Sampling(c.guidance_scale, c.num_steps, c.solver, c.negative, c.seed)


def guidance_scales(default: float) -> list[float]:
    """Return the scales that tables compare: none, and the default where it differs."""
    return list(dict.fromkeys((0.0, float(default))))


def world_prompts(categories: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` prompts of the shapes world, category by category in turn."""
    each = -(-count // len(categories))
    columns = [[text for text, _ in world.prompts(name, each, seed)] for name in categories]
    return [text for row in zip(*columns, strict=True) for text in row][:count]


def category_prompts(config) -> dict[str, list[str]]:
    """Return the prompts of each of `config.evaluate.categories`."""
    c, seed = config.evaluate, config.sample.seed
    return {
        name: [text for text, _ in world.prompts(name, c.prompts_per_category, seed)]
        for name in c.categories
    }


def score(rewards: Sequence[Reward], images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return the scores [N, R] float64 of pictures [N, H, W, 3] uint8, each with its prompt."""
    return score_all(rewards, images, [{"caption": list(prompts)}])[0].astype(np.float64)


def all_targets(pipeline, level: float) -> dict[str, float]:
    """Ask every reward that the network knows for the same level."""
    return dict.fromkeys(pipeline.reward_names, float(level))
