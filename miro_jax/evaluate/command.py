"""`miro-jax evaluate RUN_FOLDER`: evaluate the last checkpoint of a run.

The run's own config decides, as `config.json` keeps it; flags and `--config.KEY=VALUE` change it
for this evaluation. Arguments are checked before a device is touched.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags as absl_flags
from ml_collections import config_flags

from miro_jax import evaluate
from miro_jax.cli import exit as exits
from miro_jax.cli import flags
from miro_jax.cli.config import check_overrides, explain
from miro_jax.data.json_file import read_json, with_tuples
from miro_jax.data.near import near_path
from miro_jax.evaluate.settings import Settings
from miro_jax.evaluate.suites import command as suite_command
from miro_jax.evaluate.suites import listing

VERB = "evaluate"
_DESCRIPTION = """Evaluate the last checkpoint of a run: images in RUN_FOLDER/evaluation, numbers
with intervals in RUN_FOLDER/evaluation.json, and the page RUN_FOLDER/report.html.
Options are taken from the run's config.json where they are not given.
With --suite=geneval, parti, shapes or a file of prompts, evaluate a folder of images of any origin
or any checkpoint instead: miro-jax evaluate --suite=parti --help.
miro-jax evaluate prompts --suite=parti --out=parti.txt writes the prompts of a suite."""
_EPILOG = """Any key of the config can be changed for this evaluation by --config.KEY=VALUE, such as
--config.sample.guidance_scale=3 or --config.weights.clip=FOLDER.

example:
  miro-jax evaluate runs/base --evaluators=dials,reward_scores --images-per-level=64
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [listing.WORD] and not Path(listing.WORD).is_dir():
        return listing.main(words[1:])
    if any(word == "--suite" or word.startswith("--suite=") for word in words):
        return suite_command.main(words)
    advice = "give a smaller --batch-size."
    return exits.run(
        VERB,
        lambda: _plan(words),
        lambda planned: evaluate.run.run_here(*planned),
        out_of_memory=advice,
        resumes=exits.always,
    )


def _plan(words: Sequence[str]) -> tuple[ml_collections.ConfigDict, Path]:
    """Return the config of the evaluation and the run's folder."""
    parser = flags.Parser(VERB, description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a run with checkpoints")
    names = [field.name for field in dataclasses.fields(Settings)]
    flags.add_flags(parser, Settings, defaults=dict.fromkeys(names))  # the run's config decides
    _check_suite(parser, words)
    given, overrides = read_words(parser, words)
    folder = here(given.pop("folder"))
    config = read_config(folder)
    config.evaluate.update({name: value for name, value in given.items() if value is not None})
    config = override(config, overrides)
    evaluate.run.validate_run(config, folder)
    return config, folder


def read_words(parser: flags.Parser, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the flags by name, and the words that change a config, see `override`."""
    overrides = [word for word in words if word.lstrip("-").startswith("config.")]
    return vars(parser.read([word for word in words if word not in overrides])), overrides


def _check_suite(parser: flags.Parser, words: Sequence[str]) -> None:
    """Raise UsageError where a flag is given that only evaluations of a suite have."""
    own, other = ({*one.flags()} for one in (parser, suite_command.make_parser()))
    for flag in (word.partition("=")[0] for word in words):
        if flag in other - own:
            raise exits.UsageError(
                f"{flag} must come with --suite=NAME (geneval, parti, shapes, or a file of "
                "prompts), which evaluates images of any origin; without it the last checkpoint "
                "of a run is evaluated by its own config. See --suite=parti --help."
            )


def here(folder: str) -> Path:
    """Return the path of a run that results are written into; UsageError for a URL."""
    if "://" in folder:
        raise exits.UsageError(
            f"the run's folder must be on this machine; got {folder}. Give --suite=NAME, which "
            "writes elsewhere, or evaluate into it: miro-jax train --stage=evaluate --workdir=URL."
        )
    return Path(folder).expanduser()


def read_config(folder: Path) -> ml_collections.ConfigDict:
    """Read the config of a run; options that its version did not have get their defaults.

    Raises:
      FileNotFoundError: the folder is not that of a run with checkpoints.
    """
    path = folder / "config.json"
    if not path.is_file() or not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(
            "RUN_FOLDER must be the folder of a run, with config.json and checkpoints; got "
            f"{folder}{'' if folder.exists() else ', which is missing'}. {_advice(folder)}"
        )
    values = read_json(path, dict.fromkeys(("evaluate", "sample", "train", "data", "model"), dict))
    values["model"] = {"attention": "auto"} | values["model"]
    values["evaluate"] = dataclasses.asdict(Settings()) | values["evaluate"]
    return ml_collections.ConfigDict(with_tuples(values))


def _advice(folder: Path) -> str:
    """Return what to do about a path that is no run's folder."""
    if inside := sorted(str(path.parent) for path in folder.glob("*/checkpoints")):
        return f"It holds runs: give {' or '.join(inside[:3])}{' ...' if inside[3:] else ''}."
    if folder.exists():
        return "Images, tables and releases are evaluated with --suite=NAME; training writes runs."
    near = near_path(folder, "checkpoints", otherwise="")
    return f"D{near.removeprefix('; d')}" if near else "Training writes it."


def override(config: ml_collections.ConfigDict, words: Sequence[str]) -> ml_collections.ConfigDict:
    """Apply `--config.KEY=VALUE` words to a config.

    Raises:
      UsageError: a key is unknown, or a value of another type.
    """
    check_overrides(config, words)
    values, argv = absl_flags.FlagValues(), [VERB, *words]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (absl_flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise exits.UsageError(explain(error, words, config)) from error
    return values.config
