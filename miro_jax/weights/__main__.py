"""The command line of weight files: `python -m miro_jax.weights list|convert ...`."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from miro_jax.weights import hub, pickles

EXAMPLE = """examples
  python -m miro_jax.weights list ImageReward.pt
  python -m miro_jax.weights convert ImageReward.pt ImageReward.safetensors
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 it failed, 2 a bad argument."""
    parser = argparse.ArgumentParser(
        prog="python -m miro_jax.weights",
        description="Look into weight files and turn pickles into safetensors, without PyTorch. "
        "Nothing in a file is executed; what is no plain tensor is refused by its name.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|convert")
    listing = verbs.add_parser("list", help="print key, dtype and shape of every tensor")
    listing.add_argument("file", type=Path, help=".safetensors, .pt, .pth or .bin")
    convert = verbs.add_parser("convert", help="write a pickled checkpoint as safetensors")
    convert.add_argument("file", type=Path, help=".pt, .pth or .bin")
    convert.add_argument("out", type=Path, help="the .safetensors file to write")
    flags = parser.parse_args(arguments)
    if not flags.file.is_file():
        parser.error(f"there is no file {flags.file}")
    if flags.verb == "convert" and flags.out.suffix != ".safetensors":
        parser.error(f"OUT must end in .safetensors; got {flags.out}")
    try:
        if flags.verb == "list":
            _list(flags.file)
        else:
            count = pickles.convert_to_safetensors(flags.file, flags.out)
            print(f"{flags.out}: {count} tensors, {flags.out.stat().st_size / 1e9:.2f} GB")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _list(path: Path) -> None:
    found = hub.open_file(path)
    for key, tensor in found.items():
        print(f"{key}  {tensor.dtype}  {list(tensor.shape)}")
    numbers = sum(math.prod(tensor.shape) for tensor in found.values())
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in found.values())
    print(f"{len(found)} tensors, {numbers:,} numbers, {size / 1e9:.2f} GB", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
