"""What every evaluator shares: how it samples, how it scores, what it is built from.

Letters: N images, R rewards.
"""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from miro_jax.annotate.parts import seal, unseal
from miro_jax.data.records.bins import Bins, levels
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.files import to_json
from miro_jax.evaluate.prompts import Prompts
from miro_jax.models.targets import Targets
from miro_jax.report.results import Result
from miro_jax.rewards.base import Reward, score_all
from miro_jax.sample.settings import Settings
from miro_jax.sample.usual import read_usual


class Evaluator(Protocol):
    """A measurement of a trained network.

    shapes_only: it judges images of the shapes world and nothing else.
    """

    shapes_only: ClassVar[bool]

    @classmethod
    def build(cls, inputs: "Inputs") -> Self:
        """Build it for a run."""
        ...

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples of a network with these rewards."""
        ...

    def run(self, pipeline: Any) -> Result:
        """Sample from a `MiroPipeline`, and measure."""
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
    """How an evaluator samples.

    One seed for all: images that differ in their targets or guidance alone start from the same
    noise, so what differs between them comes from these. targets, negative_targets: those of a
    request that says nothing else.
    """

    settings: Settings
    seed: int
    targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    negative_targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def sample(
        self,
        pipeline: Any,
        prompts: Sequence[str],
        num_images: int = 1,
        targets: Targets = None,
        negative_targets: Targets = None,
        guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Return [len(prompts) * num_images, H, W, 3] uint8; None takes the default, and so do
        the rewards that a mapping of targets does not name.
        """
        targets = _over(self.targets, targets)
        negative_targets = _over(self.negative_targets, negative_targets)
        settings = self.settings.to_json()
        if guidance_scale is not None:
            settings["guidance_scale"] = guidance_scale
        return pipeline(
            prompts,
            num_images,
            targets=targets,
            negative_targets=negative_targets,
            output_type="numpy",
            seed=self.seed,
            **settings,
        )

    @property
    def scales(self) -> list[float]:
        """The guidance scales that tables compare: none, and the default where it differs."""
        return list(dict.fromkeys((0.0, float(self.settings.guidance_scale))))


def make_sampling(config: Any) -> Sampling:
    """Build the sampling settings of `config.sample`."""
    usual = read_usual(config.sample)
    levels = usual.targets, usual.negative_targets
    return Sampling(usual.settings, config.sample.seed, *levels)


def _over(usual: Mapping[str, float | None], given: Targets) -> Targets:
    """Return given levels over the usual ones; all of an array or of a list count as given."""
    if given is None or isinstance(given, Mapping):
        return {**usual, **(given or {})} or None
    return given


class Remembering:
    """A pipeline that makes each image once: evaluators request the same ones again and again.

    What is requested decides, not how it is written: {"beauty": 1.0} and nothing are the same to a
    network whose default is 1. Images stay on the host as long as this object does.

    Args:
      pipeline: a `MiroPipeline`.
      folder: what is made is kept there until `clear`, for an evaluation that is stopped; or None.
      facts: what else the images depend on, see `sample.draw.describe_pipeline`.
    """

    def __init__(self, pipeline: Any, folder: Path | None = None, facts: Any = None):
        self._pipeline, self._made = pipeline, {}
        self._folder, self._facts = folder and LocalFolder(folder), facts
        self.reward_names = pipeline.reward_names
        self.on_images: Callable[[int], Any] = lambda count: None

    def __call__(
        self,
        prompts: Sequence[str],
        num_images: int = 1,
        targets: Targets = None,
        negative_targets: Targets = None,
        **settings: Any,
    ) -> np.ndarray:
        """As `MiroPipeline.__call__`; `on_images` gets the number of images of each call."""
        count = len(prompts) * num_images
        positive = self._pipeline.levels(targets, count, default=1.0)
        negative = self._pipeline.levels(negative_targets, count, default=0.0)
        if settings["guidance_scale"] == 0:
            negative = np.zeros_like(negative)  # there is no negative branch
        levels = positive.tobytes().hex(), negative.tobytes().hex()
        request = [self._facts, list(prompts), num_images, *levels, settings]
        key = hashlib.sha256(to_json(request)).hexdigest()
        if key not in self._made:
            self._made[key] = self._read(key)
        if self._made[key] is None:
            self._made[key] = self._pipeline(
                prompts, num_images, targets=positive, negative_targets=negative, **settings
            )
            self._write(key)
        self.on_images(count)
        return self._made[key]

    def _read(self, key: str) -> np.ndarray | None:
        """Return the images that an evaluation which was stopped has made, None for none."""
        part = self._folder and self._folder.intact(key, unseal)
        return part and part[0]["images"]

    def _write(self, key: str) -> None:
        if self._folder is not None:
            self._folder.write(key, seal({"images": self._made[key]}, {"name": key}))

    def clear(self) -> None:
        """Remove the files of an evaluation that is complete."""
        if self._folder is not None:
            shutil.rmtree(self._folder.path, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Judges:
    """The rewards that measure.

    Attributes:
      rewards: [R], in the order of the config.
      bins: of training, in the same order; None where no level is measured.
    """

    rewards: Sequence[Reward]
    bins: Bins | None = None

    @property
    def names(self) -> list[str]:
        """[R], as the network and pages have them: without version or file."""
        return [reward.name for reward in self.rewards]

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Return the scores [N, R] float64 of images [N, H, W, 3] uint8, each with its prompt."""
        return score_all(self.rewards, images, [{"caption": list(prompts)}])[0].astype(np.float64)

    def levels(self, scores: np.ndarray) -> np.ndarray:
        """Return the levels [..., R] that training would have given to scores [..., R]."""
        return levels(self.bins, scores)

    @property
    def of_captions(self) -> "Judges":
        """Those that need a caption; they measure no levels."""
        return Judges([reward for reward in self.rewards if reward.needs_caption])


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What evaluators are built from.

    Attributes:
      settings: `evaluate.settings.Settings`. sampling: of all evaluators.
      judges: all rewards of the config. prompts: of the evaluation.
      gallery: the prompts to look at. gallery_images: of each.
      training: reward -> mean and std of the scores that training sees.
      folder: images to look at are written there.
    """

    settings: Any
    sampling: Sampling
    judges: Judges
    prompts: Prompts
    gallery: Sequence[str]
    gallery_images: int
    training: Mapping[str, Mapping[str, float]]
    folder: Path
