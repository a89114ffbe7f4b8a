"""`miro-jax compare BEFORE AFTER`: arguments, checked before a device is touched; see `compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from miro_jax import evaluate, sample
from miro_jax.cli import exit, flags
from miro_jax.data.near import near_path
from miro_jax.data.storage import open_folder
from miro_jax.evaluate.command import here, override, read_config, read_words

VERB = "compare"
_DESCRIPTION = """Compare two networks on the same prompts and noise: rewards of their images, their
dials, and each reward requested alone, with intervals of paired differences. AFTER is a run, whose
config says how to sample; BEFORE is a run or a release. Writes compare.json and compare.html. Two
runs of configs/base.py take two cores some five minutes.
Given folders of evaluations instead, two or more, compares their numbers without sampling: paired
differences and tests. Flags then: --metrics=A,B, --format=text|csv|latex|json, --force, --out."""
_EPILOG = """Any key of AFTER's config can be changed by --config.KEY=VALUE.

example:
  miro-jax compare runs/base runs/dropout --config.evaluate.images_per_level=64
  miro-jax compare out/a/evals/parti@1 out/b/evals/parti@1 --out=out/compared
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if evaluate.suites.verbs.concerns_evaluations(words):
        return evaluate.suites.verbs.main(["compare", *words])
    return exit.run(VERB, lambda: _plan(words), lambda planned: evaluate.compare.run_here(*planned))


def _plan(words: Sequence[str]) -> tuple[str, ml_collections.ConfigDict, Path, Path]:
    parser = flags.Parser(VERB, description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("before", metavar="BEFORE", help="run or release, by folder, URL or hub id")
    parser.add_argument("after", metavar="AFTER", help="folder of a run with checkpoints")
    parser.add_argument("--out", metavar="FOLDER", help="folder to write (default: AFTER)")
    given, overrides = read_words(parser, words)
    after = here(given["after"])
    try:
        config = read_config(after)
    except FileNotFoundError as error:
        end = "."
        if not after.exists():
            end = f", which is missing{near_path(after, 'checkpoints')}"
        raise FileNotFoundError(
            "AFTER must be the folder of a run, with config.json and checkpoints, or all paths "
            f"folders of evaluations, with evaluation.json; got {after}{end} `miro-jax train` "
            "writes the one, `miro-jax evaluate WHAT --suite=NAME` the other."
        ) from error
    config = override(config, overrides)
    evaluate.run.validate_run(config, after)
    sample.trained.peek(given["before"])
    out = here(given["out"] or str(after))
    open_folder(out)  # raises where it is a file, before anything is sampled
    evaluate.suites.comparison.check_free(out, (".json", ".html"))
    return given["before"], config, after, out
