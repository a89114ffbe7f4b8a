"""What the processes of a run tell each other between steps: a signal, a save, a caption's length.

They do so about once a second, at steps that process 0 sets, and every few steps at least, for the
next ones may be slow. Each exchange waits for the step under way, after which the devices wait for
the next batch: at every step that would cost a short step a share of its time.
"""

import time
import zlib
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from miro_jax.cli import processes

SECONDS, MOST_STEPS = 1.0, 8  # between two exchanges


class Agreement:
    """Exchanges at steps that all processes know.

    Args:
      at_every_step: because each step needs what is exchanged. clock: seconds.

    Attributes:
      next_step: of the next exchange.
    """

    def __init__(self, at_every_step: bool, clock: Callable[[], float] = time.monotonic):
        self._every, self._clock = at_every_step, clock
        self.next_step = 0
        self._last: tuple[int, float] | None = None  # step and time of the last exchange

    def exchange(self, step: int, number: int, due: bool, length: int) -> tuple[int, bool, int]:
        """Return what holds for all; every process calls it before the same step.

        Args:
          step: that comes next. number: of a signal that this process got, or 0.
          due: whether a save is due by time; that of process 0 counts, for clocks differ.
          length: that the captions of this process need.

        Returns:
          The greatest number, what process 0 said, the greatest length.
        """
        ours = np.array([number, due, length, self._steps_between(step)])
        if jax.process_index() != 0:
            ours[[1, 3]] = 0
        ours = np.max(multihost_utils.process_allgather(ours), axis=0)
        self.next_step = step + int(ours[3])
        self._last = step, self._clock()
        return int(ours[0]), bool(ours[1]), int(ours[2])

    def _steps_between(self, step: int) -> int:
        """Return how many steps, by the last exchanges, a second takes; one to the most."""
        if self._every or self._last is None or step <= self._last[0]:
            return 1
        of_one = (self._clock() - self._last[1]) / (step - self._last[0])
        return max(1, min(MOST_STEPS, int(SECONDS / max(of_one, 1e-3))))


def check_same_records(digest: str) -> None:
    """Raise ValueError unless all processes read records of one digest."""
    every = multihost_utils.process_allgather(np.array(zlib.crc32(digest.encode()), np.uint32))
    if others := np.flatnonzero(every != every[0]).tolist():
        raise ValueError(
            f"all processes must have the same records; {' and '.join(map(processes.name, others))}"
            f" and {processes.name(0)} have different ones."
        )


def longest(length: int) -> int:
    """Return the greatest of what all processes say; each of them calls it."""
    return int(np.max(multihost_utils.process_allgather(np.array(length))))


def processes_that(hold: bool) -> list[int]:
    """Return the processes that call this with True; each of them calls it."""
    return np.flatnonzero(multihost_utils.process_allgather(np.array(hold))).tolist()
