"""Signals that end a watch: the first one unwinds it, and none disturbs a deletion."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal came. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def holding_signals() -> Iterator[None]:
    """Let nothing but SIGKILL interrupt a deletion and its programs; the rest comes at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Let no further signal disturb how a watch ends."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def stop(number: int, _: object) -> None:
    """Handle the first signal by unwinding; further ones do not disturb the deletion."""
    ignore_signals()
    raise Stopped(number)


def stop_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more that came inside `__del__`, as of Popen, which raises to nobody."""
    if not isinstance(lost.exc_value, Stopped):
        return sys.__unraisablehook__(lost)
    signal.signal(number := lost.exc_value.number, stop)
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
