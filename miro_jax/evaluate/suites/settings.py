"""The options of `miro-jax evaluate WHAT --suite=NAME`; how to sample has those of `sample`."""

import dataclasses
from typing import Any

from miro_jax.annotate.settings import weights_option
from miro_jax.cli.flags import option
from miro_jax.rewards.names import HELP, parse_names

MODEL = "openai/clip-vit-large-patch14-336"  # of the features that CMMD is defined with
_WHAT, _OUT = "what to evaluate", "results"


def parse_pair(text: str) -> tuple[str, str]:
    """Read `KEY=VALUE`; ValueError where it is none."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise ValueError(f"must be KEY=VALUE; got {text!r}")
    return key, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is evaluated, by what, and where results go. Fields are documented by their help."""

    what: str = option(
        positional=True,
        metavar="WHAT",
        help="folder of images (GenEval's layout, ours, or any with captions), or table of paths "
        "and captions; or what is sampled first: a run, a folder in the released layout, a URL of "
        "either, a hub id",
    )
    suite: str = option(
        help="geneval, parti, shapes; a file of prompts; or NAME:PATH with your copy of the "
        "prompts of hpsv2, genai_bench, dpg_bench, t2i_compbench, geneval2 or unigenbench",
        metavar="NAME_OR_FILE",
        group=_WHAT,
    )
    rewards: tuple[str, ...] = option(
        (), parse=parse_names, help=f"{HELP} (default: those of the suite)", group=_WHAT
    )
    weights: Any = weights_option(group=_WHAT)
    judge: Any = option(
        (),
        repeat=True,
        parse=parse_pair,
        metavar="KEY=VALUE",
        help="option of the suite's judge, such as a folder of weights; may be repeated",
        group=_WHAT,
    )
    features: str | None = option(
        None,
        metavar="DIR_OR_ID",
        help="CLIP whose image features measure diversity: Vendi scores and distances of each "
        f"prompt's images; {MODEL} by convention",
        group=_WHAT,
    )
    reference: str | None = option(
        None,
        metavar="DIR_OR_FILE",
        help="reference images, or features of them that an evaluation wrote: CMMD, too",
        group=_WHAT,
    )
    no_judge: bool = option(False, help="score rewards alone", group=_WHAT)
    captions: str | None = option(
        None,
        metavar="FILE",
        help="table of paths and prompts, for a folder of images that has none",
        group=_WHAT,
    )
    images_per_prompt: int | None = option(
        None,
        at_least=1,
        metavar="N",
        help="images of each prompt (default: the suite's rule)",
        group=_WHAT,
    )
    partial: bool = option(
        False, help="accept a set that lacks images, and mark the result", group=_OUT
    )
    declare: Any = option(
        (),
        repeat=True,
        parse=parse_pair,
        metavar="GROUP.KEY=VALUE",
        help="what is known of foreign images, for the manifest, such as model.name=sdxl or "
        "sampling.steps=50; may be repeated",
        group=_OUT,
    )
    export: str | None = option(
        None,
        metavar="DIR",
        help="write the images as the suite's own judge wants them, in GenEval's layout where it "
        "has none of its own",
        group=_OUT,
    )
    watch: bool = option(
        False,
        help="of a run: evaluate its checkpoints as they appear, the newest first, until the last "
        "step of training is evaluated; several machines may watch",
        group=_OUT,
    )
    watch_seconds: float = option(
        30.0, at_least=0, metavar="S", help="seconds between two looks of --watch", group=_OUT
    )
    out: str | None = option(
        None,
        metavar="DIR",
        help="folder for the results, where the same command resumes (default: evals/ below WHAT)",
        group=_OUT,
    )
