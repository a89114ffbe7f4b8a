"""Which processes save a checkpoint together, and how a save in the background fails.

While training goes on, a thread of Orbax writes the files of this process and waits for the other
processes before and after the commit. Where a write fails, Orbax waits for them all the same before
it raises; they wait elsewhere for this process, so that all of them hang for twenty minutes.
"""

import sys
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp


def saved_by(shared: bool) -> ocp.options.MultiprocessingOptions:
    """Return which processes save together: all of them, or each by itself."""
    us = jax.process_index()
    alone = {"primary_host": us, "active_processes": {us}, "barrier_sync_key_prefix": f"only-{us}"}
    return ocp.options.MultiprocessingOptions(**({} if shared else alone))


def options(
    folder: object, together: ocp.options.MultiprocessingOptions
) -> ocp.options.AsyncOptions:
    """Return options by which a save into a folder that failed here waits for no other process.

    The next `save`, `wait` or `close` then raises what went wrong, and `train.peers` ends the
    others.
    """
    wait = ocp.multihost.get_barrier_sync_fn(processes=together.active_processes)
    return ocp.options.AsyncOptions(barrier_sync_fn=unless_failed(wait, folder))


def unless_failed(wait: Callable[..., None], folder: object) -> Callable[..., None]:
    """Return `wait`, but raising what is being handled, as in the `finally` of a failed save.

    Of a write that failed Python does not say the path: it gets that of the folder.
    """

    def wait_unless_failed(*, key: str, timeout_ms: int) -> None:
        failed = sys.exc_info()[1]
        if failed is not None:
            if isinstance(failed, OSError) and failed.errno and failed.filename is None:
                failed.filename = str(folder)
            raise failed
        wait(key=key, timeout_ms=timeout_ms)

    return wait_unless_failed
