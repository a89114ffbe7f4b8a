"""The start of a run of several processes: they find each other, then JAX connects them.

Who they are: `cli.cluster`. Who is missing: `cli.roll_call`. What ends a process because another
one is gone ends it with status 75, "try again": all of them must be started again, which a
launcher can do without asking anybody.
"""

import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping

import jax

from miro_jax.cli import fit, roll_call
from miro_jax.cli.cluster import ASK_SCHEDULER, Given, find
from miro_jax.cli.exit import TRY_AGAIN, fail

REMEDY = "start all processes again: the run resumes from its last checkpoint."
VERSIONS = ("jax", "jaxlib", "flax", "miro_jax")
SECONDS = 300.0  # until all must be there
_hosts: list[str] = []  # of the processes of this run, by index
log = logging.getLogger("miro_jax")


def start(
    given: Given = ASK_SCHEDULER,
    seconds: float = SECONDS,
    heartbeat_seconds: float = 100,
    same: Mapping[str, str] | None = None,
) -> None:
    """Connect this process with the others of its run; before any device is used.

    Args:
      given: what the config says; the scheduler gives the rest, see `cli.cluster`.
      seconds: until all must be there.
      heartbeat_seconds: JAX takes a process for dead that is silent for so long.
      same: what must be equal in all beside the versions, by the name that messages give it.

    Raises:
      TryAgain: some processes are missing; the text names them.
      ValueError: nothing says which processes there are, or they do not fit together.
    """
    deadline = time.monotonic() + seconds
    cluster = find(given)
    limits = {"heartbeat_timeout_seconds": int(heartbeat_seconds)}
    if cluster is None:  # JAX knows some further launchers, such as mpirun
        try:
            jax.distributed.initialize(initialization_timeout=int(seconds), **limits)
        except ValueError as error:
            raise ValueError(
                "several processes must know of each other; nothing names them here. Give "
                "config.mesh.coordinator, num_processes and process_id, or the variables that "
                "docs/training.md lists."
            ) from error
        _leave_when_jax_aborts()
        return
    if cluster.count > 1:
        _hosts[:] = roll_call.call(cluster, describe() | dict(same or {}), seconds)
        _leave_when_jax_aborts()
        log.info("%d processes are there (%s): %s", cluster.count, cluster.why, ", ".join(_hosts))
    jax.distributed.initialize(
        cluster.address,
        cluster.count,
        cluster.index,
        local_device_ids=cluster.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(min(max(deadline - time.monotonic(), 10), 60)),  # all are there
        **limits,
    )


def describe() -> dict[str, str]:
    """Return the host of this process, and the versions that all must share."""
    versions = {name: fit.version(name) or "not installed" for name in VERSIONS}
    return {"host": socket.gethostname()} | versions


def count_here() -> int:
    """Return how many processes of this run are on this host; 1 where the hosts are not known."""
    return max(_hosts.count(socket.gethostname()), 1)


def name(index: int) -> str:
    """Name a process of this run for people: its index, and its host where that is known."""
    return f"process {index}" + (f" ({_hosts[index]})" if index < len(_hosts) else "")


def leave(what: str, status: int = TRY_AGAIN) -> None:
    """End this process at once, with a line that says why."""
    text = f"{what}; {REMEDY}"
    log.error("%s", text)
    os._exit(fail("train", text, status))


def _on_abort(_number: int) -> None:
    leave("JAX ended this process, most likely because process 0 or a connection to it is gone")


_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)


def _leave_when_jax_aborts() -> None:
    """Let the abort of JAX's native code, as when process 0 is gone, end with status 75.

    It comes in a thread of that code, which no handler of Python's `signal` would ever run in.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORT_HANDLER)
