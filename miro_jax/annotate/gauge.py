"""How a run spends its time: what the devices wait for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Gauge:
    """Counts pictures, and seconds of three kinds; `images` is to be counted up.

    running: while there is work, loading models not included. busy: in calls of models, the
    splitting of captions into tokens included. waiting: for pictures.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seconds = dict.fromkeys(("running", "busy", "waiting"), 0.0)
        self.images = 0

    @contextlib.contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Time what happens inside as one of the kinds."""
        begin = self._clock()
        try:
            yield
        finally:
            self._seconds[kind] += self._clock() - begin

    @property
    def seconds(self) -> float:
        """Of work."""
        return self._seconds["running"]

    def share(self, kind: str) -> float:
        """Return a kind's share of the time of work."""
        return self._seconds[kind] / max(self.seconds, 1e-9)

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def idle(self) -> float:
        """Share of the time in which the devices had nothing to do, at least.

        While models are called they also wait for the host: for tokens, for copies.
        """
        return max(0.0, 1 - self.share("busy"))

    def __str__(self) -> str:
        if not self.images:
            return "no usable picture was left to do"
        return (
            f"{self.images} pictures in {self.seconds:.1f} s, {self.rate:.1f} a second; devices "
            f"idle at least {self.idle:.0%} of the time ({self.share('waiting'):.0%} waiting for "
            "pictures)"
        )
