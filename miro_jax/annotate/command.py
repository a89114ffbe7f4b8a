"""The command line of the stage: `python -m miro_jax.annotate --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import jax

from miro_jax.annotate import workers
from miro_jax.annotate.finish import merge
from miro_jax.annotate.flags import NAME, make_parser, parse_named, split_pair
from miro_jax.annotate.origin import is_complete
from miro_jax.annotate.plan import Plan, plan
from miro_jax.annotate.stage import execute
from miro_jax.annotate.summary import summarize
from miro_jax.annotate.tell import describe
from miro_jax.cli.exit import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISTAKEN,
    MISTAKES,
    STOPPED,
    fail,
    is_out_of_memory,
    say,
)
from miro_jax.data.sources import open_source
from miro_jax.data.storage import Damaged, errors_of_stores
from miro_jax.pretrained.weights.hub import OfflineError
from miro_jax.rewards.names import parse_names


def make_plan(flags: argparse.Namespace) -> tuple[Plan, workers.Share]:
    """Turn arguments into a plan.

    Raises:
        ValueError, TypeError, OSError: see `plan`.
    """
    if flags.piece is not None and flags.pieces is not None:
        raise ValueError("--piece and --pieces must not both be given.")
    pieces = flags.pieces if flags.piece is None else str(flags.piece)
    index, count = flags.worker_index, flags.num_workers
    if flags.merge:
        if (pieces, index, count, flags.stages) != (None, None, None, "all"):
            raise ValueError("--merge is of all pieces and stages; it takes no choice of them.")
        pieces = workers.ALL
    source = open_source(flags.source)
    if flags.distributed and (pieces, index) == (None, None):
        index, count = _ask_jax()
    share = workers.choose(len(source.pieces), os.environ, pieces, index, count)
    pairs = [split_pair(text, "--weights must be NAME=PLACE", text) for text in flags.weights]
    groups = [split_pair(text, "--group must be NAME=MEMBER,MEMBER", text) for text in flags.group]
    todo = plan(
        source,
        flags.out,
        parse_names(flags.rewards),
        parse_named(flags.image_encoder),
        parse_named(flags.caption_encoder),
        encode_512=flags.encode_512,
        weights=dict(pairs),
        dtype=flags.dtype,
        mesh=flags.mesh,
        groups=[(name, members.split(",")) for name, members in groups],
        stages=flags.stages,
        one_by_one=flags.one_by_one,
        pieces=share.pieces,
        batch_size=flags.batch_size,
        num_threads=flags.num_threads,
        max_failure_rate=flags.max_failure_rate,
        num_bins=flags.num_bins,
        bins_strategy=flags.bins_strategy,
        will_write=not (flags.plan or flags.probe),
    )
    return todo, share


def _ask_jax() -> tuple[int, int]:
    """Return index and number of the processes of jax.distributed."""
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"--distributed needs a cluster that jax knows; it says: {error} Give --worker-index "
            "and --num-workers in its place."
        ) from error
    return jax.process_index(), jax.process_count()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        flags = make_parser().read(arguments)
        with errors_of_stores():
            todo, share = make_plan(flags)
            print(f"annotate: {share.why}", file=sys.stderr)
            if flags.plan or flags.probe:
                say(describe(todo, flags.devices, flags.device_memory, flags.probe))
                return DONE
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except MISTAKES as error:
        return fail(NAME, error, MISTAKEN)
    except (OSError, RuntimeError) as error:
        return fail(NAME, error, FAILED)
    except KeyboardInterrupt:
        return fail(NAME, "stopped; nothing has begun.", INTERRUPTED)
    return _work(todo, flags.merge)


def _work(todo: Plan, only_merge: bool) -> int:
    try:
        with errors_of_stores():
            was_complete = is_complete(todo.folder)
            manifest = merge(todo) if only_merge else execute(todo)
            say(summarize(todo, manifest, was_complete))
    except (ValueError, OfflineError) as error:  # such as models that are not the folder's
        return fail(NAME, error, MISTAKEN)
    except (RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            error = "out of memory on a device; --one-by-one, --dtype=bfloat16, a smaller "
            error += "--batch-size or --mesh=allx2 need less."
        elif isinstance(error, OSError) and not isinstance(error, Damaged):
            error = f"{str(error).rstrip('.')}. What is done is kept: the same command goes on."
        return fail(NAME, error, FAILED)
    except KeyboardInterrupt:
        return fail(NAME, STOPPED, INTERRUPTED)
    return DONE
