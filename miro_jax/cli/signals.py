"""Signals that end a command: each one unwinds it as Ctrl-C does, so that finished work is kept.

Python answers a signal between two of its own instructions. During a compilation there are none for
many seconds: meanwhile a thread says that the signal has come, and obeys a second one. Where the
answer falls into what cannot raise, as the callback of a garbage collection, it comes once more;
so it does during an import, since packages in C crash where one is raised while they are loaded.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAITING = "stopping when what is under way ends, such as a compilation; again to end at once"
_PATIENCE = 0.5  # seconds that an answer may take before a line is printed
_TWICE = 1.0  # seconds between two signals, at least: shells and make hand on what we got, too
_AFTER = 0.05  # seconds until a signal that had no effect comes once more


class Stopped(KeyboardInterrupt):
    """A signal came. status: with which the process ends, as a shell counts: 128 and its number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number, self.status = number, 128 + number


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Raise Stopped in the main thread at the first of ENDING; the second one ends the process.

    Signals that are ignored, as SIGHUP below nohup, stay so; other threads change nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    answered, again, comes = False, None, False
    outer = _imports(sys._getframe())
    ours = queue.SimpleQueue[int]()  # signals that come once more, nobody having sent them

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal answered
        if _imports(frame) > outer:
            if not comes:
                repeat(number)
            return
        if again is not None:
            again.cancel()
        answered = True
        for one in handled:
            signal.signal(one, signal.SIG_DFL)
        raise Stopped(number)

    def send(main: int, number: int) -> None:
        nonlocal comes
        comes = False
        ours.put(number)
        signal.pthread_kill(main, number)

    def repeat(number: int) -> None:
        nonlocal again, comes
        again = threading.Timer(_AFTER, send, (threading.get_ident(), number))
        again.daemon = comes = True
        again.start()

    def once_more(failed: "sys.UnraisableHookArgs") -> None:
        nonlocal answered
        if not isinstance(failed.exc_value, Stopped):
            return hook(failed)
        answered = False
        repeat(failed.exc_value.number)
        for one in handled:
            signal.signal(one, stop)

    with announced(handled, lambda: answered, ours):
        before = {number: signal.signal(number, stop) for number in handled}
        hook, sys.unraisablehook = sys.unraisablehook, once_more
        try:
            yield
        finally:
            sys.unraisablehook = hook
            if again is not None:  # what was to be stopped has ended
                again.cancel()
                again.join()
            for number, handler in before.items():
                signal.signal(number, handler)


def _imports(frame: FrameType | None) -> int:
    """Return how many frames of Python's import a frame has around it."""
    found = 0
    while frame is not None:
        found += frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    return found


@contextlib.contextmanager
def announced(
    numbers: Sequence[int],
    is_answered: Callable[[], bool],
    ours: "queue.SimpleQueue[int] | None" = None,
) -> Iterator[None]:
    """Print a line where a signal is not answered at once, and end the process at a second one.

    In the main thread; a nested call replaces the outer one.

    Args:
      numbers: of the signals, which have handlers. is_answered: whether a handler has run, and
        what it raised was not lost. ours: one entry for each signal that nobody sent.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    outer = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended = threading.Event()
    given = read, numbers, is_answered, ours or queue.SimpleQueue(), ended
    thread = threading.Thread(target=_watch, args=given, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
        ended.set()
        os.close(write)  # ends the thread
        thread.join()
        os.close(read)


def _watch(
    read: int,
    numbers: Sequence[int],
    is_answered: Callable[[], bool],
    ours: "queue.SimpleQueue[int]",
    ended: threading.Event,
) -> None:
    """Read the numbers of signals as they come, until the other end of the pipe is closed."""
    first = None
    while data := os.read(read, 1):
        if data[0] not in numbers:
            continue
        with contextlib.suppress(queue.Empty):
            ours.get_nowait()
            continue
        if first is None:
            first = time.monotonic()
            if not ended.wait(_PATIENCE) and not is_answered():
                print(WAITING, file=sys.stderr, flush=True)
        elif not is_answered() and time.monotonic() - first > _TWICE:
            os._exit(128 + data[0])
