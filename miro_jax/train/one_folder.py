"""Whether the processes of a run see one folder of checkpoints, and the same ones in it.

Each of them saves parts of its own: on disks of their own no checkpoint would ever be whole. Shared
disks show what another host wrote after seconds, so what differs is looked at again for a while.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from miro_jax.cli import processes
from miro_jax.data.storage.mirror import origin
from miro_jax.train.agreement import longest, processes_that

# A name that nobody has looked for is seen at once; NFS keeps the list of a folder for a minute.
LOOKS_FOR_FILE, LOOKS_FOR_STEPS, SECONDS_BETWEEN = 5, 75, 1.0
_REMEDY = (
    "All processes need one --workdir, a folder that all hosts see or the URL of one in an object "
    "store."
)


def check_one(folder: Path) -> None:
    """Raise ValueError unless all processes see what process 0 writes there; all call this.

    Nothing is wrong where each has a mirror of its own, of a folder in an object store.
    """
    if jax.process_count() == 1 or origin(folder):
        return
    token = int(multihost_utils.broadcast_one_to_all(np.array(time.time_ns() % 2**31, np.int32)))
    path = folder / f".seen-by-all-{token}"
    try:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # who cannot write there says so by itself
                path.write_text("")
        multihost_utils.sync_global_devices("a file in the folder of the run")
        blind = _until_none(lambda: not path.exists())
    finally:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                path.unlink()
    if blind:
        raise ValueError(
            f"{_names(blind)} must see what process 0 writes into {folder}; it is another folder "
            f"there. {_REMEDY}"
        )


def agreed(steps: Callable[[], Sequence[int]], reload: Callable[[], None]) -> list[int]:
    """Return the steps that all processes see, ascending; all make the same call.

    Args:
      steps: which checkpoints there are. reload: looks again.

    Raises:
      ValueError: the newest ones differ.
    """
    if jax.process_count() == 1:
        return sorted(steps())
    for look in range(LOOKS_FOR_STEPS):
        if look:
            time.sleep(SECONDS_BETWEEN)
            reload()
        every = _gather(ours := sorted(steps()))
        newest = [max(each, default=-1) for each in every]
        if len(set(newest)) == 1:
            return [step for step in ours if all(step in each for each in every)]
    others = [index for index, step in enumerate(newest) if step != newest[0]]
    seen = f"step {newest[others[0]]}" if newest[others[0]] >= 0 else "none"
    first = f"step {newest[0]}" if newest[0] >= 0 else "none"
    raise ValueError(
        f"all processes must see the same newest checkpoint; process 0 sees {first}, "
        f"{_names(others)} {seen}. {_REMEDY}"
    )


def _gather(ours: Sequence[int]) -> list[list[int]]:
    row = np.full(longest(len(ours)) + 1, -1, np.int32)  # one more, for none is no array
    row[: len(ours)] = ours
    return [row[row >= 0].tolist() for row in multihost_utils.process_allgather(row)]


def _until_none(lacks: Callable[[], bool]) -> list[int]:
    """Return the processes for which something is true after all looks."""
    for look in range(LOOKS_FOR_FILE):
        if look:
            time.sleep(SECONDS_BETWEEN)
        if not (lacking := processes_that(lacks())):
            break
    return lacking


def _names(indices: Sequence[int]) -> str:
    named = " and ".join(map(processes.name, indices[:4]))
    return f"{named} and {len(indices) - 4} more" if len(indices) > 4 else named
