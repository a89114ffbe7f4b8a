"""The flags of `python -m miro_jax.sample`: what they are called, mean and default to."""

import argparse
import math
from collections.abc import Callable

from miro_jax.cli.flags import Parser
from miro_jax.models.solvers import SOLVERS
from miro_jax.models.targets import parse_targets

CHECKPOINT = "nicolas-dufour/miro"
DTYPES = ("float32", "bfloat16")


def add_shared(parser: Parser, negative_prompt: str | None, with_images: bool = True) -> None:
    """Add the flags that all verbs have.

    Args:
      negative_prompt: what the verb defaults to; None is what the checkpoint does.
      with_images: whether the user says how many pictures of each there are.
    """
    add = parser.add_argument_group("what to draw").add_argument
    add(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a prompt; repeat it for several",
    )
    add(
        "--prompts-file",
        metavar="FILE",
        help='a prompt a line; or FILE.jsonl with {"prompt": ..., "targets": {...}, '
        '"negative_targets": {...}, "seed": ...} a line',
    )
    if with_images:
        add(
            "--images",
            type=at_least(1),
            default=1,
            metavar="N",
            help="pictures of each prompt and setting (default: 1)",
        )
    add("--seed", type=at_least(0), default=0, metavar="N", help="of the noise (default: 0)")
    levels = {"action": "append", "type": _levels, "default": [], "metavar": "NAME=LEVEL"}
    add(
        "--target",
        **levels,
        help="level of a reward in [0, 1], 1 is best, or none = not asked; repeat it or put commas "
        "between (default: 1 for all)",
    )
    add(
        "--negative-target",
        **levels,
        help="the same for the negative branch of guidance (default: "
        + ("as --target" if negative_prompt == "same" else "0 for all")
        + ")",
    )
    add = parser.add_argument_group("how to sample").add_argument
    add(
        "--negative-prompt",
        metavar="TEXT",
        default=negative_prompt,
        help="of the negative branch: empty, same (as the prompt), or a text (default: "
        + (negative_prompt or "the run's, or empty")
        + ")",
    )
    add(
        "--guidance-scale",
        type=_number,
        metavar="W",
        help="v+ + W (v+ - v-); 0 is no guidance (default: the run's, or 7)",
    )
    add(
        "--guidance-interval",
        type=_interval,
        default=(0.0, 1.0),
        metavar="LOW,HIGH",
        help="times at which guidance acts, 1 is noise, 0 is data (default: 0,1)",
    )
    add("--steps", type=at_least(1), metavar="N", help="of the solver (default: the run's, or 50)")
    add("--solver", choices=tuple(SOLVERS), help="integrator (default: the run's, or euler)")
    add = parser.add_argument_group("with which model").add_argument
    add(
        "--checkpoint",
        default=CHECKPOINT,
        metavar="DIR_OR_ID",
        help="a run's folder, a folder in the released layout, or a hub id (default: "
        f"{CHECKPOINT})",
    )
    add("--variant", metavar="NAME", help="sub-folder of a release, as no_clip or only_hpsv2")
    add("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    add("--text-encoder", metavar="DIR_OR_ID", help="FLAN-T5-XL (default: google/flan-t5-xl)")
    add("--vae", metavar="DIR_OR_ID", help="the autoencoder (default: the SDXL VAE)")
    add("--dtype", choices=DTYPES, help="of the network (default: float32 on a CPU, else bfloat16)")
    add(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="pictures at a time, over all devices (default: 1 a device on a CPU, else 8)",
    )
    add = parser.add_argument_group("where to").add_argument
    add(
        "--out",
        metavar="DIR",
        help="folder for the files; the same command goes on there where it was stopped "
        "(default: one under samples/, named after the command)",
    )


def at_least(smallest: int) -> Callable[[str], int]:
    """Return a reader of integers that are not too small."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = smallest - 1
        if value < smallest:
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {smallest}; got {text!r}"
            )
        return value

    return read


def names(text: str) -> tuple[str, ...]:
    """Read names with commas between."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _levels(text: str) -> dict[str, float | None]:
    try:
        return parse_targets(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number; got {text!r}")
    return value


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 <= low <= high <= 1:
        raise argparse.ArgumentTypeError(
            f"must be LOW,HIGH with 0 <= LOW <= HIGH <= 1; got {text!r}"
        )
    return low, high
