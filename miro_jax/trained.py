"""From a run's folder to a pipeline: what sampling and evaluation start with."""

import functools
from pathlib import Path

from miro_jax import runs, sharding
from miro_jax.checkpoint import Checkpoints
from miro_jax.pipeline import MiroPipeline


def load_pipeline(config, workdir, batch_key: str) -> tuple[MiroPipeline, int]:
    """Restore the averaged weights of a run; nothing in its folder is changed.

    Args:
      config: of the run, as it was trained.
      workdir: the run's folder.
      batch_key: the config's key of the pipeline's batch size, as "sample.batch_size".

    Returns:
      (pipeline, step of the checkpoint).

    Raises:
      FileNotFoundError: there is no checkpoint. ValueError: it is not of this config.
    """
    folder = Path(workdir) / "checkpoints"
    with Checkpoints(folder, read_only=True) as checkpoints:
        if not checkpoints.steps():
            raise FileNotFoundError(f"{folder} holds no checkpoint; the train stage writes them.")
        parts = runs.build_parts(config)
        batch_size = functools.reduce(getattr, batch_key.split("."), config)
        runs.check_batch(batch_size, batch_key, parts.mesh)
        wanted = {"ema_params": parts.abstract.ema_params, "buffers": parts.abstract.buffers}
        with sharding.use_mesh(parts.mesh):
            step, weights, _ = checkpoints.restore_latest(wanted)
    pipeline = MiroPipeline(
        parts.graphdef,
        weights["ema_params"],
        weights["buffers"],
        parts.image_encoder,
        parts.caption_encoder,
        parts.reward_names,
        parts.mesh,
        batch_size,
    )
    return pipeline, step
