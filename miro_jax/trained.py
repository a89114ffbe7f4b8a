"""From a run's folder to a pipeline: what sampling and evaluation start with."""

from pathlib import Path

from miro_jax import runs, sharding
from miro_jax.checkpoint import Checkpoints
from miro_jax.pipeline import MiroPipeline


def load_pipeline(config, workdir) -> tuple[MiroPipeline, int]:
    """Restore the averaged weights of a run; nothing in its folder is changed.

    Args:
      config: of the run, as it was trained.
      workdir: the run's folder.

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
        config.sample.batch_size,
    )
    return pipeline, step
