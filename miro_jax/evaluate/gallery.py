"""Pictures to look at: the same prompts and noise at several levels of all rewards at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miro_jax.evaluate import base
from miro_jax.report import grids


def sample_levels(
    pipeline, sampling: base.Sampling, prompts: Sequence[str], num_images: int, levels
) -> np.ndarray:
    """Sample prompts with all rewards asked for at each level.

    Returns:
      [levels, prompts, num_images, H, W, 3] uint8.
    """
    columns = [
        sampling.sample(pipeline, prompts, num_images, base.all_targets(pipeline, level))
        for level in levels
    ]
    stacked = np.stack(columns)
    return stacked.reshape(len(columns), len(prompts), num_images, *stacked.shape[2:])


class Evaluator:
    """Samples prompts at levels for the report.

    Args:
      sampling: how to sample.
      prompts: texts. num_images: pictures of each. levels: asked of all rewards.
      folder: where pictures are written.
    """

    def __init__(
        self,
        sampling: base.Sampling,
        prompts: Sequence[str],
        num_images: int,
        levels: Sequence[float],
        folder: Path,
    ):
        self.folder = Path(folder)
        self.sampling, self.prompts, self.num_images = sampling, list(prompts), num_images
        self.levels = [float(level) for level in levels]

    def run(self, pipeline) -> dict[str, Any]:
        """Sample, and write the pictures of a prompt at a level together as `gallery-P-L.png`.

        Returns:
          `prompts`; `levels`, empty for a network without rewards; `guidance_scale`; `num_images`
          in a file; `files` [prompt][level], names in the folder.
        """
        # Without rewards all levels are one and the same.
        levels = self.levels if pipeline.reward_names else [1.0]
        pictures = sample_levels(pipeline, self.sampling, self.prompts, self.num_images, levels)
        self.folder.mkdir(parents=True, exist_ok=True)
        files = []
        for p, row in enumerate(pictures.swapaxes(0, 1)):
            files.append([f"gallery-{p}-{column}.png" for column in range(len(row))])
            for name, cell in zip(files[-1], row, strict=True):
                Image.fromarray(grids.tile(cell, gap=1)).save(self.folder / name, optimize=True)
        return {
            "prompts": self.prompts,
            "levels": levels if pipeline.reward_names else [],
            "guidance_scale": self.sampling.guidance_scale,
            "num_images": self.num_images,
            "files": files,
        }


def make_evaluator(config, folder, **_) -> Evaluator:
    """Build it from `config.evaluate` and `config.sample`."""
    c = config.sample
    return Evaluator(
        base.make_sampling(config), c.prompts, c.images_per_prompt, config.evaluate.levels, folder
    )
