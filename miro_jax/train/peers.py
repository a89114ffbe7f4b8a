"""Processes of one run watch each other: when one is gone, the others say so and leave.

Without this a step waits for the dead process in native code, until JAX aborts it with a stack of
C++ frames. Each process counts in the key-value store of `jax.distributed`, which process 0 keeps:
when that one is killed, JAX itself ends the others within a second. One that fails says so there.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import distributed  # no public name gives the key-value store

from miro_jax.cli.exit import FAILED, note, status_of

KEY, ONCE = "miro_jax/alive", "miro_jax/once"
SECONDS_BETWEEN_LOOKS = 1.0
DONE, FAILING = "done", "failing"
REMEDY = "start all processes again: the run resumes from its last checkpoint."
_COLLECTIVES = ("gloo", "nccl", "coordination service")  # in the texts of JAX when one breaks off
log = logging.getLogger("miro_jax")


@contextlib.contextmanager
def watched(timeout_seconds: float) -> Iterator[None]:
    """Watch the other processes of this run; does nothing where there are none.

    Args:
      timeout_seconds: a process that does not count for so long is gone. The process then ends
        with status 1 and one line, whatever its main thread waits for.
    """
    client = distributed.global_state.client
    if jax.process_count() == 1 or client is None:
        yield
        return
    ended = threading.Event()
    arguments = (client, jax.process_index(), jax.process_count(), timeout_seconds, ended, _leave)
    thread = threading.Thread(target=watch, args=arguments, name="peers", daemon=True)
    thread.start()
    result = DONE
    try:
        yield
    except Exception as error:
        result = FAILING
        # At exit JAX waits for the others, and aborts with their timeout; this comes first.
        atexit.register(os._exit, status_of(error))
        if isinstance(error, RuntimeError) and any(n in str(error).lower() for n in _COLLECTIVES):
            line = str(error).splitlines()[0]
            raise RuntimeError(f"another process of this run is gone ({line}); {REMEDY}") from error
        raise
    finally:
        ended.set()
        thread.join(10 * SECONDS_BETWEEN_LOOKS)
        with contextlib.suppress(Exception):  # the store is gone: then so are the others
            client.key_value_set(f"{KEY}/{jax.process_index()}", result, True)
        if result == FAILING and jax.process_index() == 0:  # the store ends with us
            time.sleep(3 * SECONDS_BETWEEN_LOOKS)


def first_alone(what: str, work: Callable[[], object], timeout_seconds: float) -> None:
    """Let process 0 do what is done once for all; the others wait for its end.

    Args:
      what: is made, for messages. work: what process 0 calls. timeout_seconds: see `watched`.
    """
    client = distributed.global_state.client
    if jax.process_count() == 1 or client is None:
        work()
        return
    with watched(timeout_seconds):
        if jax.process_index() == 0:
            work()
            client.key_value_set(f"{ONCE}/{what}", DONE, True)
            return
        looks = 0
        while f"{ONCE}/{what}" not in dict(client.key_value_dir_get(ONCE)):
            if looks == 2:  # where it is there already, there is nothing to say
                note(f"process {jax.process_index()} waits for process 0, which makes {what}")
            looks += 1
            time.sleep(SECONDS_BETWEEN_LOOKS)


def watch(
    client: Any,
    index: int,
    count: int,
    timeout_seconds: float,
    ended: threading.Event,
    leave: Callable[[str], None],
) -> None:
    """Count, and look at the counts of the others, until the end or until one of them is gone.

    Args:
      client: of the key-value store. index, count: of the processes.
      ended: set at the end. leave: called with what happened.
    """
    seen = {other: ("", time.monotonic()) for other in range(count) if other != index}
    number = 0
    while not ended.wait(SECONDS_BETWEEN_LOOKS if number else 0):
        number += 1
        try:
            client.key_value_set(f"{KEY}/{index}", str(number), True)
            values = {k.rpartition("/")[2]: v for k, v in client.key_value_dir_get(KEY)}
        except Exception as error:  # the store has no class of its own
            leave(f"process 0 of this run does not answer ({str(error).splitlines()[0]})")
            return
        now = time.monotonic()
        for other, (value, since) in seen.items():
            if values.get(str(other), "") != value:
                seen[other] = (values[str(other)], now)
            elif value == FAILING:  # at the last look, too: so we do not fail for the same reason
                leave(f"process {other} of this run failed, see what it printed")
                return
            elif value != DONE and now - since > timeout_seconds:
                leave(f"process {other} of this run has not answered for {timeout_seconds:g} s")
                return


def _leave(what: str) -> None:
    text = f"{what}; {REMEDY}"
    log.error("%s", text)
    note(f"miro_jax: error: {text}")
    os._exit(FAILED)
