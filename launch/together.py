"""Check that all hosts of a run find each other, have the devices that were paid for, and add up.

    python launch/together.py 16 4        # on each of 4 hosts, 16 devices in all; 0: any number

Exit status: 0 they do, 1 they do not, 75 some are missing.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.cli import processes
from miro_jax.cli.exit import DONE, FAILED, TRY_AGAIN, TryAgain, note
from miro_jax.models import sharding


def main(arguments: Sequence[str]) -> int:
    """Take the number of devices and of hosts; returns the exit status."""
    wanted, hosts = map(int, arguments)
    if hosts > 1:
        try:
            processes.start()
        except TryAgain as error:
            note(f"together.py: error: {error}")
            return TRY_AGAIN
    count = jax.device_count()
    if wanted not in (0, count) or jax.process_count() != hosts:
        note(
            f"together.py: error: there must be {wanted} devices on {hosts} hosts; got {count} on "
            f"{jax.process_count()}. Delete these machines and create others."
        )
        return FAILED
    mesh = sharding.make_mesh(-1, 1)
    ones = jax.make_array_from_callback(
        (count,), sharding.batch_sharding(mesh), lambda _: np.ones(1, np.float32)
    )
    whole = sharding.replicated(mesh)
    total = float(jax.jit(jnp.sum, out_shardings=whole)(ones))
    if total != count:
        note(f"together.py: error: the sum over {count} devices must be {count}; got {total:g}.")
        return FAILED
    note(f"{count} devices on {hosts} hosts add up")
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
