"""Checkpoints of a run as they appear; see `miro-jax evaluate RUN --suite=NAME --watch`."""

from pathlib import Path

from miro_jax.train.checkpoint import Checkpoints


def steps_of(run: Path) -> list[int]:
    """Return the steps of a run's finished checkpoints, ascending.

    Raises:
      FileNotFoundError: there is no folder of checkpoints.
    """
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()
