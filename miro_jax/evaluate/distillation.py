"""The stage `distil`: a trained network in, a student of it that samples in a few steps out.

    python -m miro_jax.main --config=configs/base.py --stage=distil --workdir=runs/student \\
        --config.distil.checkpoint=runs/base

The student is a run like any other: the same folder, checkpoints, evaluation and report. It begins
with the averaged weights of the teacher; of a run, it takes network, encoders, rewards and records,
too. See `train.distil` for the mathematics.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from miro_jax import evaluate
from miro_jax.cli import run_folder
from miro_jax.cli.build import Config
from miro_jax.cli.stored_checkpoint import locate
from miro_jax.data.records.manifest import Manifest
from miro_jax.evaluate.preview import Preview
from miro_jax.models import sharding
from miro_jax.rewards.names import short_name
from miro_jax.sample.sources import is_run
from miro_jax.sample.trained import Trained, load, peek, weights_name
from miro_jax.train import components, distil, extend, loop, peers
from miro_jax.train.settings import Distillation
from miro_jax.train.state import TrainState, over_leaves

log = logging.getLogger("miro_jax")


def run(config: Config, workdir: Path | str) -> None:
    """Distil `config.distil.checkpoint` until `config.distil.num_steps`, resuming where it stopped.

    Args:
      config: that `check` has passed. workdir: the run's folder.

    Raises:
      ValueError: the teacher does not fit; a student of another teacher in the folder.
      FileNotFoundError: no teacher there, or no records. FloatingPointError: see `train.loop.run`.
    """
    with peers.watched(config.mesh.heartbeat_seconds):
        source = locate(config.distil.checkpoint)
        teacher = load(config.distil.checkpoint)
        config = student_config(config, source, weights_name(teacher))
        run_folder.check_began_with(
            Path(workdir), "distil", "teacher", config.distil.teacher, "a student", "teacher"
        )
        log.info("The teacher is %s", config.distil.teacher)
        states = extend.to_host(teacher.weights)

    conditioned = tuple(map(short_name, config.data.train_rewards))
    if teacher.reward_names != conditioned:
        raise ValueError(
            "config.data.train_rewards must be those of the teacher, "
            f"{', '.join(teacher.reward_names)}; got {', '.join(conditioned)}."
        )

    def make_state(parts: components.Components) -> Any:
        return extend.start(parts, states, config.seed)

    loop.run(config, workdir, Preview, make_state, functools.partial(_make_step, teacher, states))
    if config.train.report:
        evaluate.run.run(config, workdir)


def check(config: Config, workdir: Path | str) -> None:
    """Check the config, the teacher's `config.json` and the records, before a folder is made.

    Args:
      workdir: the run's folder, or its URL.

    Raises:
      ValueError: no teacher, a student, or what does not fit. FileNotFoundError: no teacher there,
        or no records.
    """
    teacher = config.distil.checkpoint
    if not teacher:
        raise ValueError("config.distil.checkpoint must name the teacher, such as runs/base.")
    if peek(teacher).is_student:
        raise ValueError(f"The teacher must not be a student itself; got {teacher}.")
    config = student_config(config, locate(teacher, weights=False), "")
    components.validate(config)
    evaluate.run.validate(config)  # some evaluators are for teachers alone
    Manifest.load(run_folder.records_folder(config, workdir))


def student_config(config: Config, source: Path, identity: str) -> Config:
    """Return the config of a student, which is that of a run.

    Args:
      config: with `distil`. source: folder of the teacher. identity: of its weights.
    """
    c = run_folder.with_network_of(config, source).copy_and_resolve_references()
    c.unlock()
    if is_run(source):
        c.data.records = c.data.records or run_folder.records_of(source)
    d = c.distil
    d.teacher, c.model.rin.student = identity, True
    c.train.num_steps, c.train.batch_size, c.train.microbatches = d.num_steps, d.batch_size, 1
    c.optim.learning_rate, c.optim.warmup_steps = d.learning_rate, d.warmup_steps
    c.sample.num_steps, c.sample.solver, c.sample.negative_targets = d.sample_steps, "euler", ""
    if not 0 <= c.sample.guidance_scale <= d.max_guidance:
        raise ValueError(
            f"config.sample.guidance_scale must be within 0 and config.distil.max_guidance, "
            f"{d.max_guidance:g}; got {c.sample.guidance_scale:g}."
        )
    return c.lock()


def _make_step(
    teacher: Trained, states: Any, config: Config, parts: components.Components
) -> Callable:
    """Return the jitted step of a student, see `over_leaves`; the state is donated."""
    settings = Distillation(**config.distil)
    fixed = extend.start(parts, states, config.seed)
    step = distil.make_distil_step(
        parts.graphdef,
        parts.optimizer,
        parts.schedule,
        settings,
        config.train.ema_decay,
        _negative_tokens(config, teacher, parts),
        config.seed,
    )
    weights, tree = jax.tree.flatten((fixed.params, fixed.buffers))

    def distil_step(state: TrainState, batch: dict[str, Any], given: list) -> tuple:
        return step(state, batch, jax.tree.unflatten(tree, given))

    jitted = jax.jit(
        over_leaves(distil_step, jax.tree.structure(parts.abstract)),
        donate_argnums=0,
        out_shardings=(jax.tree.leaves(parts.shardings), sharding.replicated(parts.mesh)),
    )
    return lambda leaves, batch: jitted(leaves, batch, weights)


def _negative_tokens(
    config: Config, teacher: Trained, parts: components.Components
) -> np.ndarray | None:
    """Return tokens [n, E] of `config.sample.negative`; None for the prompt itself."""
    text = config.sample.negative
    if text == "same":
        return None
    if text == "empty" and teacher.empty_tokens is not None:
        used = teacher.empty_tokens
    else:
        used = parts.caption_encoder.encode(["" if text == "empty" else text])[0]
    return np.asarray(used, np.float32)[: config.encoder.caption.max_tokens]
