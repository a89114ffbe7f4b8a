"""Processes of one run watch each other: when one is gone, the others say so and leave.

Without this a step waits for the dead process in native code, until JAX aborts it with a stack of
C++ frames. Each process counts in the key-value store of `jax.distributed`, which process 0 keeps:
when that one is killed, JAX itself ends the others within a second. One that fails, or that a
signal stops, says so there. Beside its count stands what each one is at, so that one which the
others wait for is named.
"""

import atexit
import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax._src import distributed  # no public name gives the key-value store

from miro_jax.cli import processes
from miro_jax.cli.exit import FAILED, INTERRUPTED, TRY_AGAIN, TryAgain, note, status_of
from miro_jax.cli.processes import REMEDY

KEY, ONCE = "miro_jax/alive", "miro_jax/once"
SECONDS_BETWEEN_LOOKS = 1.0
DONE, FAILING, STOPPED = "done", "failing", "stopped"  # how a process ended
BEHIND_SECONDS = 60.0
UNWIND_SECONDS = 5.0
_COLLECTIVES = ("gloo", "nccl", "coordination service")  # in the texts of JAX when one breaks off
T = TypeVar("T")
log = logging.getLogger("miro_jax")


@dataclasses.dataclass
class Position:
    """How far a process is, and at what: all processes of a run pass the same positions.

    number: of positions passed. what: it does now. behind_seconds: one that others wait for so long
    is named.
    """

    number: int = 0
    what: str = "start"
    behind_seconds: float = BEHIND_SECONDS

    def at(self, what: str) -> None:
        """Pass on to the next position."""
        self.number, self.what = self.number + 1, what


@contextlib.contextmanager
def watched(timeout_seconds: float, behind_seconds: float = BEHIND_SECONDS) -> Iterator[Position]:
    """Watch the other processes of this run; does nothing where there are none.

    Args:
      timeout_seconds: a process that does not count for so long is gone. The process then ends
        with one line and status 75, try again, whatever its main thread waits for.
      behind_seconds: a process that the others wait for so long is named.

    Yields:
      What the caller says its position to.
    """
    client, here = distributed.global_state.client, Position(behind_seconds=behind_seconds)
    if client is None or jax.process_count() == 1:  # asked last: it starts the devices
        yield here
        return
    ended = threading.Event()
    run = (client, jax.process_index(), jax.process_count())
    arguments = (*run, timeout_seconds, ended, _leave, here)
    thread = threading.Thread(target=watch, args=arguments, name="peers", daemon=True)
    thread.start()
    result = DONE
    try:
        yield here
    except Exception as error:
        result = FAILING
        known = _of_others(error, client)
        # At exit JAX waits for the others, and aborts with their timeout; this comes first.
        atexit.register(os._exit, status_of(known or error))
        if known is not None:
            # What unwinds, such as a save, may wait for the one that is gone.
            what = str(known).removesuffix(f"; {REMEDY}")
            late = threading.Timer(UNWIND_SECONDS, processes.leave, [what, status_of(known)])
            late.daemon = True
            late.start()
            raise known from error
        raise
    except KeyboardInterrupt as stop:  # where the loop does not hear signals, as in its set-up
        result = STOPPED
        atexit.register(os._exit, getattr(stop, "status", INTERRUPTED))
        raise
    finally:
        ended.set()
        thread.join(10 * SECONDS_BETWEEN_LOOKS)
        with contextlib.suppress(Exception):  # the store is gone: then so are the others
            client.key_value_set(f"{KEY}/{jax.process_index()}", result, True)
        if result != DONE and jax.process_index() == 0:  # the store ends with us
            time.sleep(3 * SECONDS_BETWEEN_LOOKS)


def _of_others(error: Exception, client: Any) -> RuntimeError | None:
    """What to raise where a collective broke off because another process is gone; else None."""
    text = str(error)  # JAX raises both classes, by the status that a collective broke off with
    if not isinstance(error, RuntimeError | ValueError):
        return None
    if not any(name in text.lower() for name in _COLLECTIVES):
        return None
    values: list[tuple[str, str]] = []
    with contextlib.suppress(Exception):  # the store may be gone, too
        values = client.key_value_dir_get(KEY)
    for key, value in values:
        if value == FAILING:
            who = processes.name(int(key.rpartition("/")[2]))
            return RuntimeError(f"{who} of this run failed, see what it printed; {REMEDY}")
    return TryAgain(f"another process of this run is gone ({text.splitlines()[0]}); {REMEDY}")


def first_alone(work: Callable[[], object], timeout_seconds: float) -> None:
    """Let process 0 make the records for all; the others wait for its end.

    Args:
      work: what process 0 calls. timeout_seconds: see `watched`.
    """
    what = "the records"
    with watched(timeout_seconds):
        if _is_first(what):
            work()
            _tell_made(what)


def first(what: str, work: Callable[[], T]) -> T:
    """Let process 0 do something before the others do it, too; returns what it gives.

    So one of them fetches what all read, and the others find it in the cache that they share, or
    fetch it where they share none. Call it inside of `watched`.

    Args:
      what: is made or fetched, for messages.
    """
    is_first = _is_first(what)
    made = work()
    if is_first:
        _tell_made(what)
    return made


def _is_first(what: str) -> bool:
    """Whether this is process 0; returns in the others once it has made something and said so."""
    client = distributed.global_state.client
    if jax.process_index() == 0 or client is None:
        return True
    looks = 0
    while f"{ONCE}/{what}" not in dict(client.key_value_dir_get(ONCE)):
        if looks == 2:  # where it is there already, there is nothing to say
            note(f"process {jax.process_index()} waits for process 0, which makes {what}")
        looks += 1
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return False


def _tell_made(what: str) -> None:
    client = distributed.global_state.client
    if jax.process_count() > 1 and client is not None:
        client.key_value_set(f"{ONCE}/{what}", DONE, True)


def watch(
    client: Any,
    index: int,
    count: int,
    timeout_seconds: float,
    ended: threading.Event,
    leave: Callable[[str], None],
    here: Position | None = None,
) -> None:
    """Count, and look at the counts of the others, until the end or until one of them is gone.

    Args:
      client: of the key-value store. index, count: of the processes.
      ended: set at the end. leave: called with what happened.
      here: the position of this process, to find those that are behind it.
    """
    here = Position() if here is None else here
    seen = {other: ("", time.monotonic()) for other in range(count) if other != index}
    behind = Behind(index, here)
    number = 0
    while not ended.wait(SECONDS_BETWEEN_LOOKS if number else 0):
        number += 1
        try:
            client.key_value_set(f"{KEY}/{index}", f"{number} {here.number} {here.what}", True)
            values = {k.rpartition("/")[2]: v for k, v in client.key_value_dir_get(KEY)}
        except Exception as error:  # the store has no class of its own
            lost = f"{processes.name(0)} of this run does not answer"
            leave(f"{lost} ({str(error).splitlines()[0]})")
            return
        now = time.monotonic()
        for other, (value, since) in seen.items():
            who = f"{processes.name(other)} of this run"
            if values.get(str(other), "") != value:
                seen[other] = (values[str(other)], now)
            elif value == FAILING:  # at the last look, too: so we do not fail for the same reason
                leave(f"{who} failed, see what it printed")
                return
            elif value == STOPPED:
                leave(f"{who} was stopped by a signal")
                return
            elif value != DONE and now - since > timeout_seconds:
                leave(f"{who} has not answered for {timeout_seconds:g} s")
                return
            behind.look(other, values.get(str(other), ""), now)


class Behind:
    """Names the processes that this one waits for, each position of theirs once."""

    def __init__(self, index: int, here: Position):
        self._index, self._here = index, here
        self._since: dict[int, tuple[str, float]] = {}  # position of another, since when

    def look(self, other: int, value: str, now: float) -> None:
        """Note the position of another process; say so where it is one to wait for."""
        _, _, position = value.partition(" ")
        number, _, what = position.partition(" ")
        if not number.isdecimal() or int(number) >= self._here.number:
            self._since.pop(other, None)
            return
        there, since = self._since.get(other, ("", now))
        if there != position:
            self._since[other] = (position, now)
        elif since + self._here.behind_seconds < now:
            self._since[other] = (position, math.inf)
            line = (
                f"{processes.name(other)} is behind: at {what} for {now - since:.0f} s, while "
                f"{processes.name(self._index)} waits for it"
            )
            log.warning("%s", line)
            if self._index == (1 if other == 0 else 0):  # one of them prints it
                note(line)


def _leave(what: str) -> None:
    """End this process: 75 where another one is gone, 1 where one failed by itself."""
    processes.leave(what, FAILED if "failed" in what else TRY_AGAIN)
