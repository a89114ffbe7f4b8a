"""The command line of the stage: `python -m miro_jax.annotate --help`."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax

from miro_jax import bins
from miro_jax.annotate import workers
from miro_jax.annotate.merge import merge
from miro_jax.annotate.plan import Plan, plan
from miro_jax.annotate.publish import is_done
from miro_jax.annotate.stage import execute
from miro_jax.annotate.tell import describe
from miro_jax.arguments import (
    DONE,
    FAILED,
    INTERRUPTED,
    MESH_HELP,
    MISTAKEN,
    MISTAKES,
    STOPPED,
    Parser,
    fail,
    is_out_of_memory,
)
from miro_jax.manifest import Manifest
from miro_jax.rewards import REWARDS, VERSIONS
from miro_jax.sources import open_source
from miro_jax.storage import errors_of_stores

NAME = "miro_jax.annotate"
EPILOG = """
examples
  python -m miro_jax.annotate --source='tar:/data/cc12m/*.tar' --out=/data/records \\
      --rewards=sharpness,beauty --image-encoder=pixels:size=32
  python -m miro_jax.annotate ... --pieces=0-99        some pieces; then, when all are done:
  python -m miro_jax.annotate ... --merge

A worker of a Kubernetes Indexed Job (JOB_COMPLETION_INDEX and NUM_WORKERS), of a Slurm array or of
a TPU slice takes its own pieces by itself; --pieces=all takes all. See docs/annotate.md.
"""


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {NAME}",
        description="Turn pictures with captions into records: encoded, scored, ready to train on.",
        epilog=EPILOG,
    )
    what = parser.add_argument_group("what").add_argument
    what("--source", required=True, help="tar:PATTERN, folder:DIR, table:FILE or tfds:NAME@DIR")
    what("--out", required=True, help="folder for the records, or URL of one as gs://bucket/name")
    names = ", ".join([*REWARDS, *VERSIONS])
    what("--rewards", required=True, help=f"names with commas between, of: {names}")
    what("--weights", action="append", default=[], metavar="NAME=PLACE", help="folder or hub id of "
         "a reward's weights; several times")  # fmt: skip
    what("--dtype", choices=("float32", "bfloat16"), help="of the rewards' networks")
    what("--image-encoder", default="pixels:size=32", help="NAME or NAME:KEY=VALUE,KEY=VALUE")
    what("--caption-encoder", default="words:width=64,max_tokens=32", help="likewise")
    what("--encode-512", action="store_true", help="keep image latents of 512 pixels as well")
    what("--num-bins", type=int, default=64, help="levels of each reward")
    what(
        "--bins-strategy", default="quantile", choices=bins.STRATEGIES, help="how edges are fitted"
    )
    what("--max-failure-rate", type=float, default=0.01, help="share of samples that may fail")
    how = parser.add_argument_group("how").add_argument
    how("--batch-size", type=int, default=64, help="samples annotated and kept together")
    how("--num-threads", type=int, default=4, help="threads that decode")
    how("--mesh", default="all", help=MESH_HELP)
    how("--group", action="append", default=[], metavar="NAME=MEMBER,MEMBER", help="models "
        "in memory together: rewards, image, captions; several times. Without any: rewards, vqa, "
        "encode")  # fmt: skip
    how("--stages", default="all", help="groups to run now, with commas between")
    how("--one-by-one", action="store_true", help="load one group at a time")
    share = parser.add_argument_group("which pieces").add_argument
    share("--piece", default="", help="one piece, from 0")
    share("--pieces", default="", help='pieces as "0-9,17", or "all"')
    share("--worker-index", type=int, help="from 0; takes every n-th piece")
    share("--num-workers", type=int, help="n")
    share("--distributed", action="store_true", help="ask jax.distributed for index and number")
    share("--merge", action="store_true", help="only finish a set whose pieces are all done")
    before = parser.add_argument_group("before the start").add_argument
    before("--plan", action="store_true", help="say what it will take, and do nothing")
    before("--probe", action="store_true", help="likewise, with the rate measured on the devices")
    before("--devices", type=int, default=1, help="of a worker, for --plan")
    before("--device-memory", type=float, help="GiB of a device, for --plan")
    return parser


def parse_named(text: str) -> dict[str, Any]:
    """`NAME:KEY=VALUE,KEY=VALUE` -> {"name": NAME, KEY: VALUE}.

    Raises:
        ValueError: it is no such text.
    """
    name, _, rest = text.partition(":")
    arguments: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, value = split_pair(item, "An encoder must be NAME:KEY=VALUE,KEY=VALUE", text)
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value  # a plain word
    return arguments


def split_pair(item: str, rule: str, text: str) -> tuple[str, str]:
    """`KEY=VALUE` -> (KEY, VALUE); ValueError says the rule and the text."""
    key, equals, value = item.partition("=")
    if not equals or not key or not value:
        raise ValueError(f"{rule}; got {text!r}.")
    return key, value


def make_plan(flags: argparse.Namespace) -> tuple[Plan, workers.Share]:
    """Turn arguments into a plan.

    Raises:
        ValueError, TypeError, OSError: see `plan`.
    """
    if flags.piece and flags.pieces:
        raise ValueError("--piece and --pieces must not both be given.")
    source = open_source(flags.source)
    pieces = workers.ALL if flags.merge else flags.piece or flags.pieces
    index, count = None if flags.merge else flags.worker_index, flags.num_workers
    if flags.distributed and not pieces and index is None:
        jax.distributed.initialize()
        index, count = jax.process_index(), jax.process_count()
    share = workers.choose(len(source.pieces), os.environ, pieces, index, count)
    pairs = [split_pair(text, "--weights must be NAME=PLACE", text) for text in flags.weights]
    groups = [split_pair(text, "--group must be NAME=MEMBER,MEMBER", text) for text in flags.group]
    todo = plan(
        source,
        flags.out,
        flags.rewards.split(","),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        flags = _parser().read(arguments)
        with errors_of_stores():
            todo, share = make_plan(flags)
            print(f"annotate: {share.why}", file=sys.stderr)
            if flags.plan or flags.probe:
                print(describe(todo, flags.devices, flags.device_memory, flags.probe))
                return DONE
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except MISTAKES as error:
        return fail(NAME, error, MISTAKEN)
    except (OSError, RuntimeError) as error:
        return fail(NAME, error, FAILED)
    return _work(todo, flags.merge)


def _work(todo: Plan, only_merge: bool) -> int:
    try:
        with errors_of_stores():
            manifest = merge(todo) if only_merge else execute(todo)
            print(_summary(todo, manifest))
    except ValueError as error:  # weights or models that are not those of the folder
        return fail(NAME, error, MISTAKEN)
    except (RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            error = "out of memory on a device; --one-by-one, --dtype=bfloat16, a smaller "
            error += "--batch-size or --mesh=allx2 need less."
        return fail(NAME, error, FAILED)
    except KeyboardInterrupt:
        return fail(NAME, STOPPED, INTERRUPTED)
    return DONE


def _summary(todo: Plan, manifest: Manifest | None) -> str:
    """Say in a line what is there now."""
    if manifest is not None:
        return f"{manifest.num_records} records, {manifest.num_failures} failures: {todo.folder}"
    done = sum(is_done(todo.folder, piece.number) for piece in todo.pieces)
    waiting = [g.name for g in todo.toolbox.groups if g not in todo.groups]
    rest = f"; the others wait for the stages {', '.join(waiting)}" if waiting else ""
    return (
        f"{done} of {len(todo.pieces)} pieces published{rest}. When all "
        f"{len(todo.source.pieces)} are, finish with --merge: {todo.folder}"
    )
