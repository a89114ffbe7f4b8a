"""The command line of the stage: arguments in, a table and what stands beside it out."""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from miro_jax.rewards import REWARDS, VERSIONS
from miro_jax.score import output, summary
from miro_jax.score.plan import DTYPES, Plan, finished, plan
from miro_jax.score.run import execute, outputs, prepare
from miro_jax.sources import tables

_INTERRUPTED = 130  # as shells report SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        todo = _plan(flags)
        for name, why in todo.left_out.items():
            print(f"left out by --commercial-only: {name}; {why}", file=sys.stderr)
        facts = finished(todo)
        job = prepare(todo) if facts is None else None
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))  # exits with status 2
    if job is not None:
        try:
            facts = execute(job)
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("stopped; the same command goes on where it was.", file=sys.stderr)
            return _INTERRUPTED
    print(summary.as_text(facts))
    print("\n".join(map(str, outputs(todo))))
    return 0


def _plan(flags: argparse.Namespace) -> Plan:
    weights = {}
    for item in flags.weights:
        name, equals, source = item.partition("=")
        if not equals or not source:
            raise ValueError(f"--weights must be NAME=FOLDER_OR_HUB_ID; got {item!r}.")
        weights[name] = source
    return plan(
        flags.path,
        flags.rewards.split(","),
        flags.out,
        captions=flags.captions,
        weights=weights,
        commercial_only=flags.commercial_only,
        dtype=flags.dtype,
        mesh=_mesh(flags.mesh),
        batch_size=flags.batch_size,
        num_threads=flags.threads,
        limit=flags.limit,
        stored=flags.stored,
        max_failure_rate=flags.max_failure_rate,
        path_column=flags.path_column,
        caption_column=flags.caption_column,
    )


def _mesh(text: str) -> tuple[int | None, int]:
    """`4x2` -> (4, 2); `all` -> all devices along `data`."""
    if text == "all":
        return None, 1
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise ValueError(f"--mesh must be DATAxMODEL, such as 4x2, or all; got {text!r}.")
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miro_jax.score",
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
    add("--rewards", required=True, help=f"names with commas between, of: {', '.join(_names())}")
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
    add("--mesh", default="all", help="devices as DATAxMODEL, or all along data (default: all)")
    add(
        "--batch-size",
        type=int,
        default=64,
        help="pictures scored at a time, over all devices (default: %(default)s)",
    )
    add(
        "--threads",
        type=int,
        default=min(os.cpu_count() or 1, 32),
        help="that read, decode and resize pictures (default: one per processor, here %(default)s)",
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


def _names() -> list[str]:
    return [*REWARDS, *VERSIONS]
