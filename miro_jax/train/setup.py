"""What the training stage begins with: what a run reads, checked, and its first state."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from miro_jax.cli import build, processes, run_folder
from miro_jax.cli.build import Config
from miro_jax.cli.exit import note
from miro_jax.data.json_file import read_json
from miro_jax.data.records.batches import make_iterator
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest, check_encoders
from miro_jax.models import sharding
from miro_jax.train import ahead, components
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.optim import schedule_of
from miro_jax.train.settings import Optim
from miro_jax.train.state import TrainState

log = logging.getLogger("miro_jax")


def prepare(
    config: Config, workdir: Path, is_training: bool, begun: ahead.Begun | None
) -> tuple[ahead.Begun, Bins, list, Any]:
    """Return what a run reads, checked: `begun`, bins, rewards of previews, iterator of batches.

    begun: None calls `ahead.begin` here.
    """
    c = config.train
    folder = run_folder.records_folder(config, workdir)
    manifest = Manifest.load(folder)
    begun = begun or ahead.begin(config, is_training)
    parts = begun.parts
    check_encoders(parts.image_encoder, parts.caption_encoder, manifest)
    rewards = build.load_rewards(config) if c.score_samples and c.sample_every_steps else []
    bins = Bins.load(folder)
    options = components.data_options(
        config,
        latent_shape=parts.image_encoder.latent_shape,
        caption_width=parts.caption_encoder.width,
        rows=sharding.local_rows(parts.mesh, c.batch_size),
        processes_here=processes.count_here(),
    )
    data = make_iterator(folder, bins, build.reward_labels(config), options)
    _require_scores(config, bins)
    return begun, bins, rewards, data


def _require_scores(config: Config, bins: Bins) -> None:
    """Raise ValueError where a reward that the network is conditioned on has no score at all."""
    counts = zip(config.rewards, bins.counts, strict=True)
    if empty := [n for n, count in counts if not count and n in config.data.train_rewards]:
        raise ValueError(
            f"The rewards of config.data.train_rewards must have scores in the records; of "
            f"{', '.join(empty)} every score is missing. Take it out of config.data.train_rewards "
            "and config.rewards, or annotate again with a reward that scores."
        )


def begin(
    config: Config,
    parts: components.Components,
    checkpoints: Checkpoints,
    data: Any,
    make_state: Callable[[components.Components], TrainState] | None,
) -> TrainState:
    """Restore the latest usable checkpoint with its data position, or begin anew."""
    with components.mismatch_explained(config, checkpoints.folder.parent):
        restored = checkpoints.restore_latest(parts.abstract)
    if restored is None:
        init = jax.jit(parts.init, out_shardings=parts.shardings)
        state = init(jax.random.key(config.seed)) if make_state is None else make_state(parts)
        checkpoints.prepare(state)
        return state
    _, state, data_state = restored
    components.check_conditioning(config, data_state)
    components.check_network(config, checkpoints.folder.parent)
    for key in (components.CONDITIONED_ON, components.BINS):
        data_state.pop(key, None)
    data.set_state(data_state)
    note_new_length(config, checkpoints.folder.parent, int(state.step))
    return state


def note_new_length(config: Config, workdir: str | os.PathLike, step: int) -> None:
    """Say where a run resumes with another number of steps, and so at another learning rate.

    Args:
      config: of the run. workdir: its folder, with the config of before. step: updates done.
    """
    path, optim = Path(workdir) / run_folder.CONFIG, Optim(**config.optim)
    wanted = config.train.num_steps
    if not path.is_file():
        return
    before = read_json(path, {"train": {"num_steps": int}})["train"]["num_steps"]
    if before <= optim.warmup_steps:
        return  # such a run had another warm-up
    old, new = (np.asarray(schedule_of(optim, n)(step)).item() for n in (before, wanted))
    if step < wanted and old != new:
        text = (
            f"config.train.num_steps is {wanted} here and was {before}, and the learning rate "
            f"follows it: {new:.3g} after step {step}, where it would be {old:.3g}. "
            "config.optim.rate=0 keeps it constant"
        )
        log.warning("%s", text)
        if jax.process_index() == 0:
            note(f"warning: {text}")


def note_no_steps(workdir: Path, step: int, num_steps: int) -> None:
    """Print that nothing is trained, where a run has all of its steps."""
    if step >= num_steps and jax.process_index() == 0:
        note(
            f"nothing is trained: {workdir} is at step {step:,} already, and num_steps is "
            f"{num_steps:,}; a larger one trains on"
        )
