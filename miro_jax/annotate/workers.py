"""Which pieces a worker takes: by the command line, or by the scheduler that started it.

Worker i of n takes the pieces i, i + n, i + 2 n, ...: the result does not depend on n. Variables of
schedulers are read in this order: a Kubernetes Indexed Job (JOB_COMPLETION_INDEX, with the
number of workers in NUM_WORKERS), a Slurm array (SLURM_ARRAY_TASK_ID and its COUNT, MIN and STEP),
the hosts of a TPU slice (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES).
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

from miro_jax.cli import cluster

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Share:
    """The pieces of one worker. pieces: their numbers. why: where that comes from, for people."""

    pieces: tuple[int, ...]
    why: str


def choose(
    num_pieces: int,
    environment: Mapping[str, str],
    pieces: str | None = None,
    worker_index: int | None = None,
    num_workers: int | None = None,
) -> Share:
    """Return which pieces are this worker's.

    Args:
      num_pieces: of the source.
      environment: variables of the process.
      pieces: numbers and ranges as "3", "0-9" or "0-9,17", both ends included; or "all"; None
        reads the environment.
      worker_index: from 0. num_workers: alone, it completes the environment.

    Raises:
      ValueError: a number is out of its range, or one of two is missing.
    """
    if pieces is not None and (worker_index, num_workers) != (None, None):
        raise ValueError("pieces and a worker's index or number must not both be given.")
    if pieces == ALL:
        return Share(tuple(range(num_pieces)), "all pieces, as requested")
    if pieces is not None:
        return Share(parse_pieces(pieces, num_pieces), f"pieces {pieces}, as requested")
    if worker_index is not None:
        share = (worker_index, num_workers, "as requested")
    else:
        share = _scheduled(environment, num_workers)
    if share is None and num_workers is not None:
        raise ValueError(
            f"--num-workers must come with a worker's index; got {num_workers} alone. Give "
            "--worker-index, or let the scheduler set one of the variables that are known."
        )
    if share is None:
        return Share(tuple(range(num_pieces)), f"all pieces: {num_pieces:,}")
    index, count, why = share
    if count is None:
        raise ValueError(
            f"The number of workers must be known where there is an index ({why}); got none. Give "
            "--num-workers, or set NUM_WORKERS beside JOB_COMPLETION_INDEX."
        )
    if not 0 <= index < count:
        raise ValueError(f"A worker's index must be in 0 .. {count - 1}; got {index} ({why}).")
    return Share(tuple(range(index, num_pieces, count)), f"worker {index} of {count} ({why})")


def parse_pieces(text: str, num_pieces: int) -> tuple[int, ...]:
    """Read numbers and ranges, as "0-9,17".

    Raises:
      ValueError: it is no such text, or a piece is not there.
    """
    numbers: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", item)
        if match is None:
            raise ValueError(f'pieces must be numbers or ranges as "0-9,17"; got {text!r}.')
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < num_pieces:
            raise ValueError(
                f"pieces must be ascending and in 0 .. {num_pieces - 1}; got {item.strip()!r}."
            )
        numbers += range(first, last + 1)
    return tuple(dict.fromkeys(numbers))


def _scheduled(
    environment: Mapping[str, str], num_workers: int | None
) -> tuple[int, int | None, str] | None:
    """Return index, number of workers and where they come from."""
    number = functools.partial(cluster.number, environment)
    index = number("JOB_COMPLETION_INDEX")
    if index is not None:
        return index, num_workers or number("NUM_WORKERS"), "JOB_COMPLETION_INDEX"
    task = number("SLURM_ARRAY_TASK_ID")
    if task is not None:
        first, step = number("SLURM_ARRAY_TASK_MIN") or 0, number("SLURM_ARRAY_TASK_STEP") or 1
        count = num_workers or number("SLURM_ARRAY_TASK_COUNT")
        return (task - first) // step, count, "SLURM_ARRAY_TASK_ID"
    index = number("TPU_WORKER_ID")
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if len(hosts) < 2:
        return None
    if index is None:
        raise ValueError(
            "The variable TPU_WORKER_ID must be set where TPU_WORKER_HOSTNAMES names several "
            "hosts; it is not. Give --pieces, such as --pieces=all."
        )
    return index, len(hosts), "TPU_WORKER_ID"
