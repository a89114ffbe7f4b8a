"""The command line of weight files: `miro-jax weights list|convert|pull ...`.

What imports jax is reached through `cli`, which imports it when it is used: `--help` is quick.
"""

import functools
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from miro_jax import cli
from miro_jax.cli.exit import MISTAKES, UsageError, note, run, say
from miro_jax.cli.flags import Parser
from miro_jax.data.near import near_path
from miro_jax.data.printable import counted
from miro_jax.pretrained.weights import hub, pickles

VERB = "weights"

EXAMPLE = """examples
  miro-jax weights list ImageReward.pt
  miro-jax weights convert ImageReward.pt ImageReward.safetensors
  miro-jax weights pull miro sdxl_vae flan_t5 --to=/models --dry-run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    # A file is an argument: what is wrong with it is, too.
    return run(VERB, lambda: _read(arguments), _work, MISTAKES, resumes=_resumes)


def _resumes(flags: Namespace) -> bool:
    return flags.verb == "pull" and not flags.dry_run


def _work(flags: Namespace) -> None:
    if flags.verb == "list":
        _list(flags.file)
    elif flags.verb == "pull":
        cli.pull.pull(flags.names, flags.to, flags.dry_run)
    else:
        count = pickles.convert_to_safetensors(flags.file, flags.out)
        say(f"{flags.out}: {counted(count, 'tensor')}, {flags.out.stat().st_size / 1e9:.2f} GB")


def _read(arguments: Sequence[str] | None) -> Namespace:
    """Parse the arguments; UsageError says what is wrong with them."""
    parser = Parser(
        VERB,
        description="Look into weight files, turn pickles into safetensors without PyTorch, fetch. "
        "Nothing in a file is executed; what is no plain tensor is refused by its name.",
        epilog=EXAMPLE,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|convert|pull")
    add = functools.partial(verbs.add_parser, epilog=EXAMPLE)
    listing = add("list", help="print key, dtype and shape of every tensor")
    listing.add_argument("file", type=Path, help=".safetensors, .pt, .pth or .bin")
    convert = add("convert", help="write a pickled checkpoint as safetensors")
    convert.add_argument("file", type=Path, help=".pt, .pth or .bin")
    convert.add_argument("out", type=Path, help="the .safetensors file to write")
    pulling = add("pull", help="fetch the weights of models, to use them offline")
    pulling.add_argument(
        "names", nargs="+", metavar="NAME", help="of a reward or encoder, miro; all"
    )
    pulling.add_argument(
        "--to",
        type=Path,
        default=Path(constants.HF_HUB_CACHE),
        metavar="DIR",
        help="a cache of the hub, which HF_HUB_CACHE=DIR then names (default: the usual one)",
    )
    pulling.add_argument("--dry-run", action="store_true", help="print files and sizes, fetch none")
    flags = parser.read(arguments)
    if flags.verb == "pull":
        return flags
    if flags.file.is_dir():
        raise UsageError(f"{flags.file} must be a file of weights; it is a folder")
    if not flags.file.is_file():
        raise UsageError(f"there is no file {flags.file}{near_path(flags.file)}")
    if flags.verb == "convert" and flags.out.suffix != ".safetensors":
        raise UsageError(f"OUT must end in .safetensors; got {flags.out}")
    return flags


def _list(path: Path) -> None:
    found = hub.open_file(path)
    for key, tensor in found.items():
        say(f"{key}  {tensor.dtype}  {list(tensor.shape)}")
    numbers = sum(math.prod(tensor.shape) for tensor in found.values())
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in found.values())
    note(f"{counted(len(found), 'tensor')}, {counted(numbers, 'number')}, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    sys.exit(main())
