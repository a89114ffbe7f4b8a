"""A glance at a network in training: a labelled grid and the rewards of what it shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate import base, gallery
from miro_jax.report import grids
from miro_jax.rewards.base import Reward
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import of_parts
from miro_jax.sample.usual import read_usual
from miro_jax.train.components import Components

LEVELS = (0.0, 0.5, 1.0)  # requested of all rewards; columns of the grid


class Preview:
    """Samples `config.sample.prompts` at three levels of all rewards, always with the same noise.

    Args:
      config: of the run.
      parts: of the run. rewards: all rewards of the config, in order, loaded; or none.
      workdir: `samples/step-XXXXXX.png` is written there.
    """

    def __init__(self, config: Any, parts: Components, rewards: Sequence[Reward], workdir: Path):
        c = config.sample
        self.judges = base.Judges(rewards)
        self.prompts = list(c.prompts)
        self.num_images, self.sampling = c.images_per_prompt, base.make_sampling(config)
        self.levels = LEVELS if parts.reward_names else LEVELS[-1:]
        self.folder = Path(workdir) / "samples"
        # No more than is requested at once, in whole rows of the mesh: a preview should be cheap.
        rows = parts.mesh.shape["data"]
        needed = -(-len(self.prompts) * self.num_images // rows) * rows
        trained = of_parts(parts, (), usual=read_usual(c))
        self.pipeline = MiroPipeline(trained, min(c.batch_size, needed))

    def __call__(self, params: Any, buffers: Any, step: int) -> tuple[dict[str, float], np.ndarray]:
        """Sample with these parameters.

        Args:
          params, buffers: nnx.State, as in `TrainState`; the EMA is meant.
          step: updates done.

        Returns:
          ({"reward/<name>": mean score of the images requested at level 1}, the grid [H, W, 3]
          uint8).
        """
        self.pipeline.weights = (params, buffers)
        try:
            with base.named_failure("preview", step):
                return self._sample(step)
        finally:
            self.pipeline.weights = ()  # the step donates them

    def _sample(self, step: int) -> tuple[dict[str, float], np.ndarray]:
        images = gallery.sample_levels(
            self.pipeline, self.sampling, self.prompts, self.num_images, self.levels
        )
        grid = grids.labelled_grid(
            images.swapaxes(0, 1),
            self.prompts,
            [f"all rewards at {level:g}" for level in self.levels]
            if self.pipeline.reward_names
            else ["no rewards"],
            f"step {step}, guidance {self.sampling.settings.guidance_scale:g}",
        )
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / f"step-{step:06d}.png", grids.encode_png(grid))
        if not self.judges.names:
            return {}, grid
        texts = [p for p in self.prompts for _ in range(self.num_images)]
        scores = self.judges.score(images[-1].reshape(-1, *images.shape[3:]), texts)
        names = [f"reward/{name}" for name in self.judges.names]
        return dict(zip(names, np.nanmean(scores, axis=0).tolist(), strict=True)), grid
