"""Images to look at: the same prompts and noise at several levels of all rewards at once."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np

from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate import base
from miro_jax.report import grids
from miro_jax.report.results import Gallery


def sample_levels(
    pipeline: Any,
    sampling: base.Sampling,
    prompts: Sequence[str],
    num_images: int,
    levels: Sequence[float],
) -> np.ndarray:
    """Sample prompts with all rewards requested at each level.

    Returns:
      [levels, prompts, num_images, H, W, 3] uint8.
    """
    targets = [dict.fromkeys(pipeline.reward_names, float(level)) for level in levels]
    columns = [sampling.sample(pipeline, prompts, num_images, each) for each in targets]
    stacked = np.stack(columns)
    return stacked.reshape(len(columns), len(prompts), num_images, *stacked.shape[2:])


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Samples prompts at levels for the report.

    Attributes:
      sampling: how to sample.
      prompts: texts. count: images of each. levels: requested of all rewards.
      folder: where images are written.
    """

    shapes_only: ClassVar[bool] = False
    sampling: base.Sampling
    prompts: Sequence[str]
    count: int
    levels: Sequence[float]
    folder: Path

    @classmethod
    def build(cls, inputs: base.Inputs) -> Self:
        """Build it for a run."""
        levels = inputs.settings.levels
        return cls(inputs.sampling, inputs.gallery, inputs.gallery_images, levels, inputs.folder)

    def num_images(self, reward_names: Sequence[str]) -> int:
        """Return how many images it samples."""
        return len(self.prompts) * self.count * len(self._columns(reward_names))

    def _columns(self, reward_names: Sequence[str]) -> list[float]:
        """Return the levels; without rewards all are the same."""
        return list(map(float, self.levels)) if reward_names else [1.0]

    def run(self, pipeline: Any) -> Gallery:
        """Sample, and write the images of a prompt at a level together as `gallery-P-L.png`."""
        levels = self._columns(pipeline.reward_names)
        images = sample_levels(pipeline, self.sampling, self.prompts, self.count, levels)
        writes = jax.process_index() == 0  # of several processes that sample together
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        files, digests = [], {}
        for number, row in enumerate(images.swapaxes(0, 1)):
            files.append([f"gallery-{number}-{column}.png" for column in range(len(row))])
            for name, cell in zip(files[-1], row, strict=True):
                data = grids.encode_png(grids.tile(cell, gap=1), optimize=True)
                if writes:
                    write_atomic(self.folder / name, data)
                digests[name] = hashlib.sha256(data).hexdigest()
        shown = levels if pipeline.reward_names else []
        scale = self.sampling.settings.guidance_scale
        return Gallery(list(self.prompts), shown, scale, self.count, files, digests)
