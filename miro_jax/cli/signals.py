"""Signals that end a command: each one unwinds it as Ctrl-C does, so that finished work is kept."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal came. status: with which the process ends, as a shell counts: 128 and its number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Raise Stopped in the main thread at the first of ENDING; the second one ends the process.

    Signals that are ignored, as SIGHUP below nohup, stay so; other threads change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]

    def stop(number: int, _: Any) -> None:
        for one in handled:
            signal.signal(one, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
