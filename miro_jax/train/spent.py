"""Where the time of training goes: shares of it by cause, goodput, and a profile on request."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from miro_jax.cli.build import Config
from miro_jax.models.flops import peak_tflops, training_flops
from miro_jax.train.components import Components

log = logging.getLogger("miro_jax")

# What training waits for, beside its steps. The first step is compiled, all of it counts as that.
CAUSES = ("input", "checkpoint", "evaluation", "compilation")
STEPS = "steps"


class Spent:
    """Seconds by cause. Use `with spent.on(cause)` around a wait; what is left are steps.

    Args:
      clock: seconds. at: called with each cause when a wait begins, and with STEPS when it ends.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        at: Callable[[str], None] = lambda what: None,
    ):
        self._clock, self._begin, self._at = clock, clock(), at
        self.seconds: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
        self._mark, self._at_mark = self._begin, dict(self.seconds)

    @contextlib.contextmanager
    def on(self, cause: str, held_up: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Count the time inside for a cause, where at its end the steps are `held_up` by it."""
        begin = self._clock()
        self._at(cause)
        try:
            yield
        finally:
            if held_up():
                self.seconds[cause] += self._clock() - begin
            self._at(STEPS)

    def since_mark(self) -> tuple[float, dict[str, float]]:
        """Return the seconds since the last call, all of them and by cause."""
        now = self._clock()
        parts = {cause: self.seconds[cause] - self._at_mark[cause] for cause in CAUSES}
        whole, self._mark, self._at_mark = now - self._mark, now, dict(self.seconds)
        return whole, parts

    def summary(self, steps: int) -> str:
        """Return a line on the whole of training: goodput is the share of time spent in steps."""
        whole = max(self._clock() - self._begin, 1e-9)
        shares = {cause: seconds / whole for cause, seconds in self.seconds.items()}
        waits = ", ".join(f"{100 * share:.1f}% {cause}" for cause, share in shares.items())
        good = 100 * (1 - sum(shares.values()))
        return f"{steps} steps in {whole:.1f} s: goodput {good:.1f}%, {waits}"


class Profile:
    """Trace the steps first..last of a run with JAX's profiler, for TensorBoard or Perfetto.

    Steps have the numbers of metrics.jsonl: the first of a run is 1.

    Args:
      folder: where the trace is written. steps: (first, last), both traced, or () for no trace.
      wait: returns once the devices have ended the steps before, which run while Python goes on.
    """

    def __init__(self, folder: Path, steps: Sequence[int], wait: Callable[[], None]):
        self._folder, self._steps, self._wait = folder, tuple(steps), wait
        self._from = 0  # the first step of the trace that runs; 0 is none

    def before(self, step: int) -> None:
        """Start or stop, as is due before a step; a run resumed between the two starts there."""
        if not self._steps:
            return
        if self._from and step > self._steps[1]:
            self.stop(step - 1)
        elif not self._from and self._steps[0] <= step <= self._steps[1]:
            self._wait()
            jax.profiler.start_trace(str(self._folder))
            self._from = step

    def stop(self, step: int) -> None:
        """Stop after a step; does nothing where nothing runs."""
        if not self._from:
            return
        self._wait()
        jax.profiler.stop_trace()
        if step >= self._from:  # not where a signal came before the first of them
            where = self._folder
            log.info("Profile of steps %d to %d of metrics.jsonl: %s", self._from, step, where)
        self._from = 0


def peak_seconds(config: Config, parts: Components) -> Callable[[int], float] | None:
    """Return what a step takes at the peak of all devices, in seconds, by the captions' length.

    None where the peak is unknown, as that of products in float32 is.
    """
    peak = config.train.peak_tflops
    if not peak and config.model.dtype != "float32":
        peak = peak_tflops(jax.devices()[0].device_kind)
    if not peak:
        return None
    rate = peak * 1e12 * jax.device_count() / config.train.batch_size
    return lambda tokens: training_flops(parts.network_config, tokens) / rate
