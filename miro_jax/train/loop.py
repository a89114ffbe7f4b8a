"""The training stage, and the loop around its step.

The loop: sample a preview if due, save if due, next batch, step, read the metrics of the step
before.
"""

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from flax import nnx

from miro_jax.cli import build, run_folder, signals
from miro_jax.cli.build import Config
from miro_jax.cli.exit import note
from miro_jax.cli.progress import Progress
from miro_jax.cli.stored_run import share_checkpoint
from miro_jax.data.records.examples import pad_captions
from miro_jax.data.storage.mirror import origin
from miro_jax.models import sharding
from miro_jax.train import ahead, components, peers, setup
from miro_jax.train.agreement import Agreement, check_same_records
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.metrics import MetricsWriter
from miro_jax.train.saving import Keep, SaveClock
from miro_jax.train.spent import STEPS, Profile, Spent, peak_seconds
from miro_jax.train.state import TrainState, check_structure
from miro_jax.train.trackers import Trackers, run_name

Array = jax.Array
log = logging.getLogger("miro_jax")


def run(
    config: Config,
    workdir: Path | str,
    make_preview: Callable[..., Callable],
    make_state: Callable[[components.Components], TrainState] | None = None,
    make_step: Callable[[Config, components.Components], Callable] | None = None,
    begun: ahead.Begun | None = None,
) -> None:
    """Train until `config.train.num_steps`, resuming from the latest checkpoint if there is one.

    Args:
      config: of the run. workdir: its folder.
      make_preview: (config, components, rewards, workdir) -> a callable that samples, as
        `evaluate.preview.Preview`.
      make_state: makes the state that a run without a checkpoint begins with; None initialises it.
      make_step: makes the jitted step, see `state.over_leaves`; None is training's, compiled ahead.
      begun: what `ahead.begin` gave for this config; None calls it here.

    Raises:
      FileNotFoundError: no complete record set. ValueError: it does not fit the config.
      FloatingPointError: the loss is not finite; names the step and the batch's keys.
    """
    workdir = Path(workdir)
    c, mesh = config.train, config.mesh
    prepare = functools.partial(setup.prepare, config, workdir, make_step is None, begun)
    with peers.watched(mesh.heartbeat_seconds):
        in_turn = build.reads_weights(config)
        begun, bins, rewards, data = peers.first("the weights", prepare) if in_turn else prepare()
        check_same_records(bins.manifest_digest)
        keep = Keep(c.keep_checkpoints, c.keep_every_steps, c.keep_best)
        opened = Checkpoints(workdir / "checkpoints", keep, shared=not origin(workdir))
    parts = begun.parts
    with contextlib.ExitStack() as stack, sharding.use_mesh(parts.mesh):
        stack.callback(data.close)
        checkpoints = stack.enter_context(opened)
        # Ends before the checkpoints, which may wait for the others.
        here = stack.enter_context(peers.watched(mesh.heartbeat_seconds, mesh.behind_seconds))
        begun_with = setup.begin(config, parts, checkpoints, data, make_state)
        state = check_structure(begun_with, parts.abstract)
        first = int(state.step)
        trained_by = workdir / run_folder.CONFIG  # which a run that has all of its steps keeps
        if jax.process_index() == 0 and (first < c.num_steps or not trained_by.exists()):
            run_folder.write_config(config, trained_by)
        sizes = jax.eval_shape(lambda: nnx.to_pure_dict(state.params))
        log.info("\n%s", parameter_overview.get_parameter_overview(sizes, include_stats=False))
        start = functools.partial(Trackers, c.trackers, run_name(workdir), config.to_dict())
        metrics = stack.enter_context(MetricsWriter(workdir, first, start if c.trackers else None))
        log.info("Training from step %d to step %d", first, max(first, c.num_steps))
        setup.note_no_steps(workdir, first, c.num_steps)
        preview = make_preview(config, parts, rewards, workdir)
        described = components.describe_training(config, bins)
        loop = Loop(config, parts, data, described, checkpoints, metrics, preview)
        loop.here = here
        loop.profile = Profile(workdir / "profile", c.profile_steps, loop._read_pending)
        if make_step is not None:
            loop.peak_seconds = None  # known for steps of training alone
            loop.run(make_step(config, parts), state, first)
        else:
            program = ahead.step_of(config, begun, data, first)
            empty_tokens, loop.program = ahead.put_empty_tokens(parts), program
            loop.run(lambda leaves, batch: program(leaves, batch, empty_tokens), state, first)
    share_checkpoint(workdir)


class Loop:
    """The loop of one run; holds what it reads and writes, not the state."""

    def __init__(
        self,
        config: Config,
        parts: components.Components,
        data: Any,
        described: dict[str, Any],
        checkpoints: Checkpoints,
        metrics: MetricsWriter,
        preview: Callable,
    ):
        """Take what a run reads from and writes to.

        Args:
          data: the iterator of batches. described: what a checkpoint stores beside its position.
          preview: (ema_params, buffers, step) -> (scalars, labelled grid).
        """
        self.config, self.parts, self.data, self.described = config, parts, data, described
        self.checkpoints, self.metrics, self.preview = checkpoints, metrics, preview
        self.columns = [config.rewards.index(n) for n in config.data.train_rewards]
        self.pending: tuple[int, dict, dict] | None = None
        self.stop_signal: int | None = None
        self.spent, self.since = Spent(), 0
        self.profile = Profile(Path(), (), self._read_pending)
        self.clock = SaveClock(
            config.train.checkpoint_every_seconds, config.train.failure_every_seconds
        )
        self.newest: dict[str, float] = {}  # metrics, by which the best checkpoint is chosen
        self.peak_seconds = peak_seconds(config, parts)
        self.at_peak = 0.0  # seconds of the steps since the last line of metrics
        self.length = 0  # of the captions of the next batch, where processes agree on it
        self.agreement = Agreement(at_every_step=bool(config.data.caption_buckets))
        self.here = peers.Position()
        self.program: ahead.Ahead | None = None  # of the first step, where it is compiled ahead

    def run(self, step_fn: Callable, state: TrainState, first: int) -> TrainState:
        """Train from step `first` by `step_fn(leaves, batch)`; returns the final state."""
        c = self.config.train
        leaves, self.structure = jax.tree.flatten(state)
        self.spent, self.since, self.status = Spent(at=self.here.at), first, ""
        lengths: set[int] = set()
        self.clock.start()
        last = max(first, c.num_steps)  # as of a run that was longer before
        progress = Progress("train", "steps", last, first, silent=jax.process_index() != 0)
        with self._watched_signals(), progress:
            for step in range(first, last):
                self._before_step(step, leaves, first)
                with self.spent.on("input", self._is_idle):
                    arrays, facts = self._next_batch()
                new = facts["length"] not in lengths  # for which a program is compiled
                lengths.add(facts["length"])
                if step == first:
                    self._wait_for_program(step)
                compilation = self.spent.on("compilation") if new else contextlib.nullcontext()
                with compilation, jax.transfer_guard("disallow"):
                    leaves, values = step_fn(leaves, arrays)
                self._read_pending(in_turn=True)
                self.pending = (step + 1, values, facts)
                if step == first:
                    self.clock.start()
                progress.update(1, self.status)
            self._finish(last, leaves, first)
        return jax.tree.unflatten(self.structure, leaves)

    def _before_step(self, step: int, leaves: list[Array], first: int) -> None:
        """Preview and save when due; leave when a signal came."""
        c = self.config.train
        self.profile.before(step + 1)
        if step != first:
            if c.sample_every_steps and step % c.sample_every_steps == 0:
                self._read_pending()
                self._sample(step, leaves)
            number, due = self._agreed(step, self.clock.is_due())
            if number or due or step % c.checkpoint_every_steps == 0:
                self._save(step, leaves)
        else:
            number, _ = self._agreed(step, False)
        if number:
            self._leave(step, number, "the state is saved" if step > first else "nothing is new")

    def _wait_for_program(self, step: int) -> None:
        """Wait for what is compiled ahead; leave at a signal that no other process must hear of."""
        with self.spent.on("compilation"):
            while self.program is not None and not self.program.is_ready(0.1):
                if self.stop_signal and jax.process_count() == 1:
                    self._leave(step, self.stop_signal, "nothing is new")

    def _finish(self, step: int, leaves: list[Array], first: int) -> None:
        """Do what is due at the last step: the preview, then the checkpoint."""
        self.profile.stop(step)
        if step > first:
            self._read_pending()
            if self.config.train.sample_every_steps:
                self._sample(step, leaves)
            self._save(step, leaves)
        with self.spent.on("checkpoint"):
            self.checkpoints.wait()
        log.info("Training: %s", self.spent.summary(step - first))
        if number := self._stop_requested(step):  # the next stage must not begin
            self._leave(step, number, "the state is saved")

    def _leave(self, step: int, number: int, state: str) -> None:
        self.profile.stop(step)
        self.checkpoints.wait()
        name = signal.Signals(number).name
        log.info("Stopped by %s after step %d; %s", name, step, state)
        if jax.process_index() == 0:
            note(f"stopped by {name} after step {step:,}; the same command resumes from there.")
        raise SystemExit(128 + number)

    def _sample(self, step: int, leaves: list[Array]) -> None:
        with self.spent.on("evaluation"):
            state = jax.tree.unflatten(self.structure, leaves)
            scalars, grid = self.preview(state.ema_params, state.buffers, step)
            self.newest |= scalars
            if jax.process_index() == 0:
                self.metrics.scalars(step, scalars)
                self.metrics.images(step, "samples", grid)

    def _save(self, step: int, leaves: list[Array]) -> None:
        self._read_pending()  # a state that is not finite must not replace a good one
        begin = time.perf_counter()
        with self.spent.on("checkpoint"):
            described = self.described | self.data.get_state()
            state = jax.tree.unflatten(self.structure, leaves)
            saved = self.checkpoints.save(step, state, described, self.newest)
        best = self.config.train.keep_best.removeprefix("-")
        if best and best not in self.newest:
            known = ", ".join(sorted(self.newest))
            log.warning("Step %d has no %s to be the best of; it has %s", step, best, known)
        if saved:
            log.info("Saving step %d %s", step, self.clock.saved(time.perf_counter() - begin))

    def _next_batch(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays of the next step, and the indices and the length of its captions."""
        batch = next(self.data)
        index = batch.pop("index")
        if self.length:
            batch = pad_captions(batch, self.length)
        batch["levels"] = np.ascontiguousarray(batch["levels"][:, self.columns])
        layout = sharding.batch_sharding(self.parts.mesh)
        size = self.config.train.batch_size
        arrays = {
            k: jax.make_array_from_process_local_data(layout, v, (size, *v.shape[1:]))
            for k, v in batch.items()
        }
        return arrays, {"index": index, "length": batch["caption_mask"].shape[1]}

    def _is_idle(self) -> bool:
        """Return whether the devices have ended the last step, and nothing to do."""
        return self.pending is None or all(value.is_ready() for value in self.pending[1].values())

    def _read_pending(self, in_turn: bool = False) -> None:
        """Read the metrics of the last step; with a speed where the next one is under way."""
        if self.pending is None:
            return
        step, values, facts = self.pending
        self.pending, index = None, facts["index"]
        if self.peak_seconds:
            self.at_peak += self.peak_seconds(facts["length"])
        values = {k: float(v) for k, v in jax.device_get(values).items()}
        if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
            keys = [self.data.key(int(i)) for i in index[:8]]
            raise FloatingPointError(
                f"The loss must be finite; step {step} gave loss {values['loss']} and "
                f"gradient norm {values['grad_norm']} on the batch of {keys} (first 8 of "
                f"{len(index)}). The last checkpoint is finite: lower "
                "config.optim.learning_rate and run again."
            )
        self.newest |= values
        if step % self.config.train.log_every_steps == 0 or step == self.config.train.num_steps:
            values |= self._speed(step) if in_turn or step > self.since + 1 else {}
            if jax.process_index() == 0:
                self.metrics.scalars(step, values)
            if rate := values.get("images_per_second"):
                self.status = f"loss {values['loss']:.3f}, {rate:.0f} images/s"

    def _speed(self, step: int) -> dict[str, float]:
        """Images a second and what training waited for, since the last line of metrics.

        The speed is that of the steps and of what they wait for at each: input, checkpoints.
        """
        whole, waits = self.spent.since_mark()
        images = (step - self.since) * self.config.train.batch_size
        self.since = step
        apart = waits["evaluation"] + waits["compilation"]
        speed = {"images_per_second": images / max(whole - apart, 1e-9)}
        for cause in ("input", "checkpoint", "evaluation"):
            speed[f"{cause}_share"] = waits[cause] / max(whole, 1e-9)
        if waits["compilation"]:
            speed["compilation_seconds"] = waits["compilation"]
        if self.program is not None:
            speed["compiler_seconds"], self.program = self.program.seconds, None
        if self.peak_seconds:
            speed["mfu"], self.at_peak = self.at_peak / max(whole - apart, 1e-9), 0.0
        return speed

    @contextlib.contextmanager
    def _watched_signals(self) -> Iterator[None]:
        """Save and leave at the first signal, at once at the second; `nohup` keeps its way."""
        in_main = threading.current_thread() is threading.main_thread()
        watched = [n for n in signals.ENDING if in_main and signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, self._on_signal) for number in watched}
        said = signals.announced(watched, lambda: self.stop_signal is not None)
        try:
            with said if in_main else contextlib.nullcontext():
                yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self.stop_signal is None:
            self.stop_signal, self.stopped_at = number, time.monotonic()
            for other in {*signals.ENDING} - {number}:
                if signal.getsignal(other) != signal.SIG_IGN:  # as SIGHUP below nohup
                    signal.signal(other, signal.SIG_DFL)
        elif time.monotonic() - self.stopped_at > 1:  # shells and make hand on what we got, too
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _stop_requested(self, step: int) -> int:
        """Return the signal that any process got, or 0; all call this after the last step."""
        if jax.process_count() == 1:
            return self.stop_signal or 0
        return self.agreement.exchange(step, self.stop_signal or 0, False, 0)[0]

    def _agreed(self, step: int, due: bool) -> tuple[int, bool]:
        """Return the signal that any process got, or 0, and whether a save is due.

        Of several processes the first one decides on saves, and captions of the next batch get the
        length that the longest of all needs.
        """
        if jax.process_count() == 1:
            return self.stop_signal or 0, due
        return self._agree(step, due) if step >= self.agreement.next_step else (0, False)

    def _agree(self, step: int, due: bool) -> tuple[int, bool]:
        """Exchange what `_agreed` returns."""
        if self.pending is not None:  # on CPUs, collectives of two programs can block another
            self.here.at(STEPS)
            jax.block_until_ready(self.pending[1])
        length = 0
        if self.config.data.caption_buckets:
            with self.spent.on("input"):
                length = self.data.caption_length
        number, due, self.length = self.agreement.exchange(step, self.stop_signal or 0, due, length)
        return number, due
