"""The command line of the stage: arguments in, a table and what stands beside it out."""

import argparse
import sys
from collections.abc import Sequence

from miro_jax.annotate.loading import default_threads
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
from miro_jax.cli.flags import MESH_HELP, Parser
from miro_jax.data.sources import tables
from miro_jax.data.storage import errors_of_stores
from miro_jax.rewards.names import HELP as REWARDS_HELP
from miro_jax.rewards.names import parse_names
from miro_jax.score import output, summary
from miro_jax.score.plan import DTYPES, Plan, finished, plan
from miro_jax.score.run import execute, outputs, prepare

NAME = "miro_jax.score"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        flags = _parser().read(arguments)
        with errors_of_stores():
            todo = _plan(flags)
            for name, why in todo.left_out.items():
                print(f"left out by --commercial-only: {name}; {why}", file=sys.stderr)
            facts = finished(todo)
            job = prepare(todo) if facts is None else None
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except MISTAKES as error:
        return fail(NAME, error, MISTAKEN)
    except OSError as error:
        return fail(NAME, error, FAILED)
    try:
        with errors_of_stores():
            facts = execute(job) if job is not None else facts
    except (RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            error = (
                "out of memory on a device; a smaller --batch-size or --dtype=bfloat16 need less."
            )
        return fail(NAME, error, FAILED)
    except KeyboardInterrupt:
        return fail(NAME, STOPPED, INTERRUPTED)
    say(summary.as_text(facts))
    say("\n".join(map(str, outputs(todo))))
    return DONE


def _plan(flags: argparse.Namespace) -> Plan:
    weights = {}
    for item in flags.weights:
        name, equals, source = item.partition("=")
        if not equals or not source:
            raise ValueError(f"--weights must be NAME=FOLDER_OR_HUB_ID; got {item!r}.")
        weights[name] = source
    return plan(
        flags.path,
        parse_names(flags.rewards),
        flags.out,
        captions=flags.captions,
        weights=weights,
        commercial_only=flags.commercial_only,
        dtype=flags.dtype,
        mesh=flags.mesh,
        batch_size=flags.batch_size,
        num_threads=flags.num_threads,
        limit=flags.limit,
        stored=flags.stored,
        max_failure_rate=flags.max_failure_rate,
        path_column=flags.path_column,
        caption_column=flags.caption_column,
    )


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {NAME}",
        description="Score pictures with reward models: a table with a row for each picture and a "
        "column for each reward, with a summary, histograms and the list of failures beside it.",
        epilog="example: python -m miro_jax.score photos --captions=captions.csv "
        "--rewards=pick_score,image_reward --out=scores.parquet",
    )
    add = parser.add_argument
    add(
        "path",
        nargs="+",
        metavar="PATH",
        help=f"folder of pictures, table of paths ({', '.join(tables.ENDINGS)}), tar files with "
        "KEY.jpg, KEY.txt, or a source such as tar:PATTERN or tfds:NAME, as annotate has them",
    )
    add("--rewards", required=True, help=REWARDS_HELP)
    add("--out", required=True, help=f"file to write, ending in {', '.join(output.ENDINGS)}")
    add(
        "--captions",
        help="table of paths and captions; without it captions are those of the table or tar, or "
        "stand in KEY.txt or KEY.json beside KEY.jpg",
    )
    for kind, usual in (("path", tables.PATH_COLUMNS), ("caption", tables.CAPTION_COLUMNS)):
        add(
            f"--{kind}-column",
            metavar="NAME",
            help=f"of tables (default: the first of {', '.join(usual)})",
        )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FOLDER_OR_HUB_ID",
        help="where a reward's weights are, in place of its authors' repository; may be repeated",
    )
    add(
        "--commercial-only",
        action="store_true",
        help="leave out rewards whose weights are not known to allow commercial use",
    )
    add("--dtype", choices=DTYPES, help="of the networks (default: each its own)")
    add("--mesh", default="all", help=MESH_HELP)
    add(
        "--batch-size",
        type=int,
        default=64,
        help="pictures scored at a time, over all devices (default: %(default)s)",
    )
    add(
        "--num-threads",
        type=int,
        default=default_threads(),
        help="that read and decode (default: one for each processor, here %(default)s)",
    )
    add("--limit", type=int, help="score the first so many pictures alone (default: all)")
    add(
        "--stored",
        action="store_true",
        help="write scores on the scale that MIRO's records keep, not on the model's own",
    )
    add(
        "--max-failure-rate",
        type=float,
        default=1.0,
        help="share of pictures that may fail before the run stops (default: %(default)s)",
    )
    return parser
