"""When a run is saved, and which of its checkpoints are kept.

A run that fails once in M seconds and that a save holds up for C seconds loses, saving every T
seconds, the share C / T to saves and T / (2 M) to work done again. The sum is least at

    T = sqrt(2 M C)                          (Young 1974)

M is `config.train.failure_every_seconds`, C is measured. T is at least 100 C, so that saves take
less than a hundredth of the time where failures are so frequent that the formula takes more.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

LEAST_SECONDS = 60.0  # between saves that nobody requested; also before the first cost is known
MOST_SHARE = 0.01  # of the time, that saves may take
AUTO = -1.0


def best_interval(failure_every_seconds: float, cost_seconds: float) -> float:
    """Return the seconds between saves that lose least; see the module.

    Args:
      failure_every_seconds: mean time between failures. cost_seconds: that a save holds a run up.
    """
    interval = math.sqrt(2 * failure_every_seconds * cost_seconds)
    return max(interval, cost_seconds / MOST_SHARE, LEAST_SECONDS)


class SaveClock:
    """Counts the time since the last save, and knows when the next one is due by time.

    Args:
      every_seconds: between saves; AUTO takes `best_interval`, 0 saves by steps alone.
      failure_every_seconds: mean time between failures. clock: seconds.
    """

    def __init__(
        self,
        every_seconds: float,
        failure_every_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._every, self._failures, self._clock = every_seconds, failure_every_seconds, clock
        self._cost, self._last = 0.0, clock()

    def start(self) -> None:
        """Begin to count, as after the first step, which is compiled."""
        self._last = self._clock()

    @property
    def interval(self) -> float:
        """Seconds between saves as of now; infinite where steps alone decide."""
        if self._every == AUTO:
            return best_interval(self._failures, self._cost)
        return self._every or math.inf

    def is_due(self) -> bool:
        """Return whether a save is due by time."""
        return self._clock() - self._last >= self.interval

    def saved(self, cost_seconds: float) -> str:
        """Note a save that held the run up; return a text on it and on when the next one is due."""
        now = self._clock()
        since, self._last, self._cost = max(now - self._last, 1e-9), now, cost_seconds
        share = 100 * cost_seconds / since
        text = f"held training up for {cost_seconds:.2f} s, {share:.1f}% of the time since the last"
        if self._every != AUTO:
            return text
        return (
            f"{text}; the next is due in {self.interval:.0f} s: sqrt(2 x {self._failures:g} s "
            f"between failures x {cost_seconds:.2f} s), at least {LEAST_SECONDS:g} s"
        )


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept: those that any of three rules wants.

    last: the newest so many. every_steps: the multiples of it, for good; 0 is none.
    best: a number of metrics.jsonl, such as "reward/beauty"; the checkpoint with its highest value
    is kept, with a minus before the name the one with its lowest. "" is none.
    """

    last: int = 2
    every_steps: int = 0
    best: str = ""

    def __post_init__(self):
        if self.last < 1 or self.every_steps < 0:
            raise ValueError(
                f"keep must be at least 1, keep_every_steps at least 0; got {self.last} and "
                f"{self.every_steps}."
            )

    @property
    def metric(self) -> str:
        """Name of the number that decides which is best, without its sign."""
        return self.best.removeprefix("-")

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return what is compared, higher is better; None where the number is not known."""
        value = metrics.get(self.metric, math.nan)
        return None if math.isnan(value) else -value if self.best.startswith("-") else value

    def kept(self, values: Mapping[int, float | None]) -> set[int]:
        """Return the steps to keep.

        Args:
          values: what `value` returned, by step, of all checkpoints.
        """
        steps = sorted(values)
        kept = set(steps[-self.last :])
        if self.every_steps:
            kept |= {step for step in steps if step % self.every_steps == 0}
        known = {step: value for step, value in values.items() if value is not None}
        if known:
            kept.add(max(known, key=lambda step: (known[step], step)))
        return kept
