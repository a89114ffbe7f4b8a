"""The flags of `python -m miro_jax.annotate`: what they are called, mean and default to."""

from __future__ import annotations

import ast
from typing import Any

from miro_jax.annotate.loading import default_threads
from miro_jax.cli.flags import MESH_HELP, Parser
from miro_jax.data.records import bins
from miro_jax.rewards.names import HELP as REWARDS_HELP

NAME = "miro_jax.annotate"
EPILOG = """
examples
  python -m miro_jax.annotate --source='tar:/data/cc12m/*.tar' --out=/data/records \\
      --rewards=sharpness,beauty --image-encoder=pixels:size=32
  python -m miro_jax.annotate --source=folder:photos --out=out/photos --rewards=aesthetic \\
      --image-encoder=sdxl_vae:size=256 --caption-encoder=flan_t5:width=2048 --plan
  python -m miro_jax.annotate ... --pieces=0-99        some pieces; then, when all are done:
  python -m miro_jax.annotate ... --merge

Exit status: 0 all that was asked for is done, 1 it failed and the same command may go on, 2 a bad
argument, 130 stopped from the keyboard.

A worker of a Kubernetes Indexed Job (JOB_COMPLETION_INDEX and NUM_WORKERS), of a Slurm array or of
a TPU slice takes its own pieces by itself; --pieces=all takes all. See docs/annotate.md.
"""


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(
        prog=f"python -m {NAME}",
        description="Turn pictures with captions into records: encoded, scored, ready to train on.",
        epilog=EPILOG,
    )
    what = parser.add_argument_group("what").add_argument
    what(
        "--source",
        required=True,
        help="tar:PATTERN, folder:DIR, table:FILE or tfds:NAME@DIR, "
        "with options as in 'folder:DIR?captions=FILE&synthetic=FILE'",
    )
    what("--out", required=True, help="folder for the records, or URL of one as gs://bucket/name")
    what("--rewards", required=True, help=REWARDS_HELP)
    what("--weights", action="append", default=[], metavar="NAME=PLACE", help="folder or hub id of "
         "a reward's weights; several times")  # fmt: skip
    what("--dtype", choices=("float32", "bfloat16"), help="of the rewards' networks")
    what(
        "--image-encoder",
        default="pixels:size=32",
        metavar="NAME:KEY=VALUE,...",
        help="pixels:size=N, or sdxl_vae:size=256, perhaps with weights=FOLDER, dtype=bfloat16",
    )
    what(
        "--caption-encoder",
        default="words:width=64,max_tokens=32",
        metavar="NAME:KEY=VALUE,...",
        help="words:width=N,max_tokens=N, or flan_t5:width=2048,max_tokens=256, likewise",
    )
    what("--encode-512", action="store_true", help="keep image latents of 512 pixels as well")
    what("--num-bins", type=int, default=64, help="levels of each reward")
    what(
        "--bins-strategy", default="quantile", choices=bins.STRATEGIES, help="how edges are fitted"
    )
    what("--max-failure-rate", type=float, default=0.01, help="share of samples that may fail")
    how = parser.add_argument_group("how").add_argument
    how("--batch-size", type=int, default=64, help="samples annotated and kept together")
    how(
        "--num-threads",
        type=int,
        default=default_threads(),
        help="that decode (default: one for each processor, here %(default)s)",
    )
    how("--mesh", default="all", help=MESH_HELP)
    how("--group", action="append", default=[], metavar="NAME=MEMBER,MEMBER", help="models "
        "in memory together: rewards, image, captions; several times. Without any: rewards, vqa, "
        "encode")  # fmt: skip
    how("--stages", default="all", help="groups to run now, with commas between")
    how("--one-by-one", action="store_true", help="load one group at a time")
    share = parser.add_argument_group("which pieces").add_argument
    share("--piece", type=int, metavar="I", help="one piece, from 0")
    share("--pieces", metavar="A-B", help='pieces as "0-9,17", or "all"')
    share("--worker-index", type=int, metavar="I", help="from 0; worker I of N takes I, I + N, ...")
    share("--num-workers", type=int, metavar="N", help="see --worker-index")
    share("--distributed", action="store_true", help="ask jax.distributed for index and number")
    share("--merge", action="store_true", help="only finish a set whose pieces are all done")
    before = parser.add_argument_group("before the start").add_argument
    before("--plan", action="store_true", help="say what it will take, and do nothing")
    before("--probe", action="store_true", help="--plan with the rate measured on the devices here")
    before("--devices", type=int, default=1, metavar="N", help="of a worker, for --plan")
    before("--device-memory", type=float, metavar="GIB", help="of a device, for --plan")
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
        if key in arguments:
            raise ValueError(f"An encoder must be given each value once; got {text!r}.")
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
