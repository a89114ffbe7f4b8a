"""The training stage: one step of flow matching under reward levels, and the loop around it.

The step (reference section 4): draw t and noise, run the network once without gradient for its
latent tokens, run it again with them (zeroed for some samples), weigh the squared error of the
velocity by the learned log-variance, clip, LAMB, EMA. The condition is encoded once for both runs:
it depends on neither.

The loop: sample a preview if due, save if due, next batch, step, read the metrics of the step
before.
"""

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from flax import nnx
from jax.experimental import multihost_utils

from miro_jax.cli.progress import Progress
from miro_jax.data.records.batches import make_iterator
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.evaluate.preview import Preview
from miro_jax.models import flow, sharding
from miro_jax.train import parts
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.metrics import MetricsWriter
from miro_jax.train.state import TrainState, update_ema

Array = jax.Array
log = logging.getLogger("miro_jax.train.loop")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Numbers of the loss and of the EMA; see `config.train`."""

    time_mean: float
    time_std: float
    self_condition_rate: float
    reward_dropout: float
    caption_dropout: float
    ema_decay: float


def make_loss(graphdef, recipe: Recipe, normalize, empty_tokens: np.ndarray):
    """Return `loss(params, buffers, batch, key) -> (scalar, metrics)`.

    Args:
      graphdef: structure of the network.
      recipe: numbers of the loss.
      normalize: image latents as stored -> as the network sees them.
      empty_tokens: [n, E] caption tokens of "", put in place of dropped captions.
    """

    def loss(params, buffers, batch, key):
        model = nnx.merge(graphdef, params, buffers)
        keys = dict(zip(KEY_NAMES, jax.random.split(key, len(KEY_NAMES)), strict=True))
        mean, std = (batch[k].astype(jnp.float32) for k in ("image_mean", "image_std"))
        x = normalize(mean + std * jax.random.normal(keys["latents"], mean.shape))
        t = flow.sample_time(keys["time"], x.shape[0], recipe.time_mean, recipe.time_std)
        noise = jax.random.normal(keys["noise"], x.shape)
        keep = jax.random.bernoulli(keys["self"], recipe.self_condition_rate, t.shape)

        tokens, mask = _drop_captions(keys["captions"], batch, empty_tokens, recipe.caption_dropout)
        drop = jax.random.bernoulli(keys["rewards"], recipe.reward_dropout, batch["levels"].shape)
        levels = jnp.where(drop, jnp.nan, batch["levels"])
        error, log_variance = velocity_error(model, x, noise, t, keep, tokens, mask, levels)
        weight = batch["weight"]
        total = jnp.maximum(jnp.sum(weight), 1.0)
        value = jnp.sum(weight * flow.weigh_by_log_variance(error, log_variance)) / total
        return value, {
            "loss": value,
            "mse": jnp.sum(weight * error) / total,
            "log_variance": jnp.mean(log_variance),
            "damaged_records": jnp.sum(weight == 0),
        }

    return loss


def velocity_error(model, x, noise, t, keep, caption_tokens, caption_mask, levels):
    """Run the network twice at x_t and compare its velocity with the target; nothing is drawn here.

    Args:
      model: the network.
      x, noise: [B, H, W, C] float32. t: [B] float32 in [0, 1].
      keep: [B] bool, which samples see their own latent tokens of the first run (zeros otherwise).
      caption_tokens, caption_mask, levels: see `RIN.encode_condition`.

    Returns:
      error [B] float32, mean squared error of the velocity; log_variance [B] float32.
    """
    x_t = flow.interpolate(x, noise, t)
    condition, mask = model.encode_condition(caption_tokens, caption_mask, levels)
    _, z = model(x_t, t, jax.lax.stop_gradient(condition), mask)
    z = jax.lax.stop_gradient(z * keep[:, None, None])
    velocity_pred, _ = model(x_t, t, condition, mask, z)
    return flow.squared_error(velocity_pred, flow.velocity_target(x, noise)), model.logvar(t)


KEY_NAMES = ("latents", "time", "noise", "self", "rewards", "captions")


def _drop_captions(key, batch, empty_tokens, share):
    """Put the empty caption in place of a share of captions: tokens [B, L, E], mask [B, L]."""
    tokens, mask = batch["caption_tokens"], batch["caption_mask"]
    if share == 0:
        return tokens, mask
    drop = jax.random.bernoulli(key, share, (tokens.shape[0],))
    length = len(empty_tokens)
    empty = jnp.zeros(tokens.shape[1:], tokens.dtype).at[:length].set(empty_tokens)
    empty_mask = jnp.arange(tokens.shape[1]) < length
    tokens = jnp.where(drop[:, None, None], empty[None], tokens)
    return tokens, jnp.where(drop[:, None], empty_mask[None], mask)


def make_train_step(loss, optimizer, schedule, recipe: Recipe, seed: int):
    """Return the pure `train_step(state, batch) -> (state, metrics)`.

    The key of a step is `fold_in(key(seed), step)`, so a resumed run draws what an uninterrupted
    one would. Metrics are float32 scalars of the batch that the step consumed.
    """

    def train_step(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, metrics = jax.grad(loss, has_aux=True)(state.params, state.buffers, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "learning_rate": schedule(state.step),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=update_ema(state.ema_params, params, recipe.ema_decay),
            buffers=state.buffers,
            opt_state=opt_state,
        )
        return new_state, metrics

    return train_step


def run(config, workdir) -> None:
    """Train until `config.train.num_steps`, continuing from the latest checkpoint if there is one.

    Raises:
      FileNotFoundError: no complete record set. ValueError: it does not fit the config.
      FloatingPointError: the loss is not finite; names the step and the batch's keys.
    """
    workdir = Path(workdir)
    c = config.train
    folder = parts.records_folder(config, workdir)
    manifest = Manifest.load(folder)
    rewards = parts.load_rewards(config) if c.score_samples and c.sample_every_steps else []
    parts = parts.build_parts(config)
    parts.check_encoders(parts, manifest)
    data = make_iterator(
        folder,
        Bins.load(folder),
        c.batch_size,
        config.seed,
        config.data.synthetic_caption_prob,
        config.encoder.caption.max_tokens,
        parts.reward_labels(config),
        config.data.read_threads,
        config.data.prefetch_batches,
        parts.image_encoder.latent_shape,
        parts.caption_encoder.width,
    )
    recipe = Recipe(**{f.name: c[f.name] for f in dataclasses.fields(Recipe)})
    loss = make_loss(
        parts.graphdef,
        recipe,
        parts.image_encoder.normalize,
        parts.caption_encoder.encode([""])[0],
    )
    train_step = make_train_step(loss, parts.optimizer, parts.schedule, recipe, config.seed)
    with contextlib.ExitStack() as stack, sharding.use_mesh(parts.mesh):
        stack.callback(data.close)
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", c.checkpoint_every_steps, c.keep_checkpoints)
        )
        state = _start(config, parts, checkpoints, data)
        if jax.process_index() == 0:
            parts.write_config(config, workdir / parts.CONFIG)
        step_fn = jax.jit(
            train_step,
            donate_argnums=0,
            out_shardings=(parts.shardings, sharding.replicated(parts.mesh)),
        )
        first = int(state.step)
        sizes = jax.eval_shape(lambda: nnx.to_pure_dict(state.params))
        log.info("\n%s", parameter_overview.get_parameter_overview(sizes, include_stats=False))
        metrics = stack.enter_context(MetricsWriter(workdir, first))
        log.info("Training from step %d to step %d", first, c.num_steps)
        preview = Preview(config, parts, rewards, workdir)
        Loop(config, parts, data, checkpoints, metrics, preview).run(step_fn, state, first)


def _start(config, parts, checkpoints, data) -> TrainState:
    """Restore the latest usable checkpoint with its data position, or initialise."""
    restored = checkpoints.restore_latest(parts.abstract)
    if restored is None:
        return jax.jit(parts.init, out_shardings=parts.shardings)(jax.random.key(config.seed))
    _, state, data_state = restored
    parts.check_told(config, data_state)
    data_state.pop(parts.TOLD, None)
    data.set_state(data_state)
    return state


class Loop:
    """The loop of one run; holds what it reads and writes, not the state."""

    def __init__(self, config, parts, data, checkpoints, metrics, preview):
        self.config, self.parts, self.data = config, parts, data
        self.checkpoints, self.metrics, self.preview = checkpoints, metrics, preview
        self.columns = [config.rewards.index(n) for n in config.data.train_rewards]
        self.pending: tuple[int, dict, np.ndarray] | None = None
        self.stop_signal: int | None = None

    def run(self, step_fn, state: TrainState, first: int) -> TrainState:
        """Train from step `first` to the end; returns the final state."""
        c = self.config.train
        previous = signal.signal(signal.SIGTERM, self._on_signal) if _in_main_thread() else None
        self.clock, self.since, self.said = time.perf_counter(), first, ""
        silent = jax.process_index() != 0
        try:
            with Progress("train", "steps", c.num_steps, first, silent=silent) as progress:
                for step in range(first, c.num_steps):
                    self._before_step(step, state, first)
                    batch = self._next_batch()
                    with jax.transfer_guard("disallow"):
                        state, values = step_fn(state, batch["arrays"])
                    self._read_pending()
                    self.pending = (step + 1, values, batch["index"])
                    progress.update(1, self.said)
                self._finish(c.num_steps, state, first)
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)
        return state

    def _before_step(self, step, state, first):
        """Preview and save when due; leave when asked to stop."""
        c = self.config.train
        if step != first:
            if c.sample_every_steps and step % c.sample_every_steps == 0:
                self._read_pending()
                self._sample(step, state)
            if step % c.checkpoint_every_steps == 0:
                self._save(step, state)
        if self._asked_to_stop():
            if step != first and step % c.checkpoint_every_steps:
                self._save(step, state, force=True)
            self._leave(step)

    def _finish(self, step, state, first):
        """Do what is due at the last step, in the loop's order: what is saved was shown before."""
        if step > first:
            self._read_pending()
            if self.config.train.sample_every_steps:
                self._sample(step, state)
            self._save(step, state, force=True)
        self.checkpoints.wait()
        if self._asked_to_stop():  # the next stage must not begin
            self._leave(step)

    def _leave(self, step):
        self.checkpoints.wait()
        log.info("Stopped by a signal after step %d; the state is saved", step)
        raise SystemExit(128 + signal.SIGTERM)

    def _sample(self, step, state):
        scalars, grid = self.preview(state.ema_params, state.buffers, step)
        if jax.process_index() == 0:
            self.metrics.scalars(step, scalars)
            self.metrics.images(step, "samples", grid)
        self.clock, self.since = time.perf_counter(), step

    def _save(self, step, state, force=False):
        self._read_pending()  # a state that is not finite must not replace a good one
        told = {parts.TOLD: list(self.config.data.train_rewards)}
        self.checkpoints.save(step, state, told | self.data.get_state(), force=force)

    def _next_batch(self):
        batch = next(self.data)
        index = batch.pop("index")
        batch["levels"] = np.ascontiguousarray(batch["levels"][:, self.columns])
        place = sharding.batch_sharding(self.parts.mesh)
        arrays = {k: jax.make_array_from_process_local_data(place, v) for k, v in batch.items()}
        return {"arrays": arrays, "index": index}

    def _read_pending(self):
        """Read the metrics of the last step, now that the next one is under way."""
        if self.pending is None:
            return
        step, values, index = self.pending
        self.pending = None
        values = {k: float(v) for k, v in jax.device_get(values).items()}
        if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
            keys = [self.data.key(int(i)) for i in index[:8]]
            raise FloatingPointError(
                f"The loss must be finite; step {step} gave loss {values['loss']} and "
                f"gradient norm {values['grad_norm']} on the batch of {keys} (first 8 of "
                f"{len(index)}). The last checkpoint is finite: lower "
                "config.optim.learning_rate and run again."
            )
        if step % self.config.train.log_every_steps == 0 or step == self.config.train.num_steps:
            now = time.perf_counter()
            images = (step - self.since) * self.config.train.batch_size
            values["images_per_second"] = images / max(now - self.clock, 1e-9)
            self.clock, self.since = now, step
            if jax.process_index() == 0:
                self.metrics.scalars(step, values)
            rate = values["images_per_second"]
            self.said = f"loss {values['loss']:.3f}, {rate:.0f} images/s"

    def _on_signal(self, number, _frame):
        self.stop_signal = number

    def _asked_to_stop(self) -> bool:
        if jax.process_count() == 1:
            return self.stop_signal is not None
        from_any = multihost_utils.process_allgather(np.array(self.stop_signal is not None))
        return bool(np.any(from_any))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


if __name__ == "__main__":
    raise SystemExit("This is a stage of python -m miro_jax.main: see its --help.")
