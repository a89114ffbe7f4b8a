"""How far a long job is: a bar on a terminal, a line each minute and at the end in a log file."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from miro_jax.data.printable import printable

SECONDS_BETWEEN_LINES = 60.0
_FIRST_LINE_AFTER = 10.0


class Progress:
    """Count units of work and report the pace; a context manager.

    The pace is that of the units after the first update: the first one also loads and compiles.

    Args:
      name: of the job.
      unit: what is counted, in the plural.
      total: how many there are, None where that is not known; may be set again at any time.
      done: that were done before.
      stream: None is stderr.
      silent: print nothing.
      clock: seconds.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        total: float | None = None,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        silent: bool = False,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._name, self._unit, self._clock = name, unit, clock
        self._before, self.done, self._total = done, done, total
        self._begin = clock()
        self._measured_from: tuple[float, int] | None = None  # time and count at the first update
        self._next = self._begin + _FIRST_LINE_AFTER
        self._bar, self._where, self._silent, self._closing = None, "", silent, False
        if self._stream.isatty() and not silent:
            self._bar = tqdm(
                total=total,
                initial=done,
                unit=f" {unit}",
                desc=name,
                mininterval=1,
                file=self._stream,
            )

    @property
    def total(self) -> float | None:
        """How many there are, perhaps about."""
        return self._total

    @total.setter
    def total(self, value: float | None) -> None:
        self._total = value
        if self._bar is not None:
            self._bar.total = value

    def update(self, count: int, where: str = "") -> None:
        """Count some more; `where` the job is, in a few words."""
        first = self._measured_from is None
        self.done, self._where = self.done + count, printable(where)
        if first:
            self._measured_from = (self._clock(), self.done)
        if self._bar is not None:
            self._bar.set_description_str(f"{self._name} {self._where}".strip(), refresh=False)
            if first:
                self._bar.initial = self._bar.last_print_n = self._bar.n = self.done
                self._bar.unpause()
                self._bar.refresh()
            else:
                self._bar.update(count)
        elif self._clock() >= self._next:
            self._next = self._clock() + SECONDS_BETWEEN_LINES
            self._print()

    def line(self, where: str = "") -> str:
        """Return how far the job is, in one line."""
        text = f"{self._name} {printable(where)}".rstrip() + f": {self.done:,}"
        if self._total is not None:
            text += f" of {round(self._total):,}"
        text += f" {self._unit}"
        rate = self._rate()
        if rate is None:
            return text
        text += f", {_pace(rate)}"
        if self._total is not None and rate and self.done < self._total:
            left = max(self._total - self.done, 0) / rate
            text += f", {tqdm.format_interval(left)} left"
        return text

    def _rate(self) -> float | None:
        """Return units a second; None as long as the first update is the only one."""
        if self._measured_from is not None and self.done > self._measured_from[1]:
            begin, before = self._measured_from
        elif self._closing or self._measured_from is None:
            begin, before = self._begin, self._before
        else:
            return None
        return (self.done - before) / max(self._clock() - begin, 1e-9)

    def _print(self) -> None:
        if not self._silent:
            print(self.line(self._where), file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self._closing = True
        if self._bar is None and kind is None and self.done > self._before:
            self._print()
        self.close()

    def close(self) -> None:
        """End the bar; nothing more is printed."""
        if self._bar is not None:
            self._bar.close()


def _pace(rate: float) -> str:
    return f"{1 / rate:,.1f} s each" if 0 < rate < 1 else f"{rate:,.1f} a second"
