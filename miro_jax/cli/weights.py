"""The command line of weight files: `miro-jax weights list|convert ...`."""

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from miro_jax.cli.exit import DONE, FAILED, MISTAKEN, UsageError, fail, note, say
from miro_jax.cli.flags import Parser
from miro_jax.pretrained.weights import hub, pickles

NAME = "miro_jax.weights"

EXAMPLE = """examples
  miro-jax weights list ImageReward.pt
  miro-jax weights convert ImageReward.pt ImageReward.safetensors
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        flags = _read(arguments)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except UsageError as error:
        return fail(NAME, error, MISTAKEN)
    try:
        if flags.verb == "list":
            _list(flags.file)
        else:
            count = pickles.convert_to_safetensors(flags.file, flags.out)
            say(f"{flags.out}: {count} tensors, {flags.out.stat().st_size / 1e9:.2f} GB")
    except (ValueError, OSError) as error:
        return fail(NAME, error, FAILED)
    return DONE


def _read(arguments: Sequence[str] | None) -> Namespace:
    """Parse the arguments; UsageError says what is wrong with them."""
    parser = Parser(
        prog="miro-jax weights",
        description="Look into weight files and turn pickles into safetensors, without PyTorch. "
        "Nothing in a file is executed; what is no plain tensor is refused by its name.",
        epilog=EXAMPLE,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|convert")
    listing = verbs.add_parser("list", help="print key, dtype and shape of every tensor")
    listing.add_argument("file", type=Path, help=".safetensors, .pt, .pth or .bin")
    convert = verbs.add_parser("convert", help="write a pickled checkpoint as safetensors")
    convert.add_argument("file", type=Path, help=".pt, .pth or .bin")
    convert.add_argument("out", type=Path, help="the .safetensors file to write")
    flags = parser.read(arguments)
    if not flags.file.is_file():
        raise UsageError(f"there is no file {flags.file}")
    if flags.verb == "convert" and flags.out.suffix != ".safetensors":
        raise UsageError(f"OUT must end in .safetensors; got {flags.out}")
    return flags


def _list(path: Path) -> None:
    found = hub.open_file(path)
    for key, tensor in found.items():
        say(f"{key}  {tensor.dtype}  {list(tensor.shape)}")
    numbers = sum(math.prod(tensor.shape) for tensor in found.values())
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in found.values())
    note(f"{len(found)} tensors, {numbers:,} numbers, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    sys.exit(main())
