"""The command line of a run: arguments in, a config, a folder and a stage out, or one clear line.

`ml_collections.config_flags` reads `--config=FILE[:VARIANT]` and `--config.KEY=VALUE`. Its flags
live in an object of their own, not in absl's global one, and its errors (tracebacks, exit status 1)
are turned into `UsageError`, whose text names the argument and near misses.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from miro_jax.cli.exit import UsageError

HELP = """Train, sample and evaluate MIRO.

usage: python -m miro_jax.main --config=FILE[:VARIANT,...] --workdir=DIR [--stage=STAGE]
                               [--config.KEY=VALUE ...]

  --config    a Python file with get_config(), as configs/base.py, where every key is explained
  --workdir   folder of the run; made where missing, continued where there is one
  --stage     {stages} (default: train)

stages
  annotate    score and encode the pictures of config.source into DIR/records
  train       train, going on from the last checkpoint; annotates the shapes world first, and ends
              with the evaluation and DIR/report.html if config.train.report
  sample      pictures of config.sample.prompts into DIR/images
  evaluate    numbers of the last checkpoint into DIR/evaluation.json and DIR/report.html

variants of configs/base.py
  tiny (a minute), full (an accelerator), baseline (no rewards), only_REWARD, no_REWARD
  with REWARD one of {rewards}
variants of configs/miro.py, the paper on real pictures
  synth, 512, baseline, only_REWARD, no_REWARD, tiny_real (small weights on a CPU)
several are joined by commas, as configs/miro.py:synth,512

example
  python -m miro_jax.main --config=configs/base.py:tiny --workdir=runs/tiny --config.seed=1

Exit status: 0 done, 1 the stage failed, 2 a bad argument.
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """What was asked for. config: locked. workdir: the run's folder. stage: one of the stages."""

    config: ml_collections.ConfigDict
    workdir: Path
    stage: str


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Tell whether the arguments hold --help in any of its forms."""
    return any(re.fullmatch(r"-h|--?help(short|full)?", word) for word in arguments)


def parse(arguments: Sequence[str], stages: Sequence[str]) -> Command:
    """Read the arguments, without the program's name.

    Raises:
      UsageError: they cannot be understood.
    """
    argv = ["miro_jax", *arguments]
    path = _config_path(arguments)
    if path is not None and not Path(path.split(":", 1)[0]).is_file():
        raise UsageError(f"--config must be an existing Python file; got {path!r}.")
    try:
        values = _define(argv, stages)
        rest = values(argv)[1:]
        _require(values, "config", "a Python file, as configs/base.py")
        _require(values, "workdir", "the folder of the run")
        if rest:
            raise UsageError(f"arguments must begin with --; got {' '.join(map(repr, rest))}.")
        return Command(values.config, Path(values.workdir).expanduser(), values.stage)
    # flags.Error is what absl finds wrong, the others are what config_flags lets through.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UsageError(_explain(error, arguments, path)) from error


def _define(argv: Sequence[str], stages: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "file", values, True, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "folder", flag_values=values)
    flags.DEFINE_enum("stage", "train", list(stages), "stage", flag_values=values)
    return values


def _require(values: flags.FlagValues, name: str, what: str) -> None:
    if not values[name].present or not values[name].value:
        raise UsageError(f"--{name} must be given: {what}. See --help.")


def _explain(error: Exception, arguments: Sequence[str], path: str | None) -> str:
    """Say in one line what is wrong with the arguments."""
    if path is not None:
        alone = ["miro_jax", f"--config={path}"]
        values = _define(alone, ["train"])
        try:
            values(alone)
        except (flags.Error, TypeError, ValueError) as inner:
            return str(_root(inner))  # get_config refused its variant
        known = sorted(_keys(values.config))
        for key in re.findall(r"^--?(?:no)?config\.([^=]*)", "\n".join(arguments), re.MULTILINE):
            if key not in known:
                return _unknown_key(key, known)
        if found := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
            return _wrong_type(found[1], values.config, found[2])
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"unknown argument --{error.flagname}. See --help."
    return " ".join(str(error).split())


def _wrong_type(key: str, config: ml_collections.ConfigDict, given: str) -> str:
    present = config_flags.config_path.get_value(key, config)
    if isinstance(present, ml_collections.ConfigDict):
        inside = ", ".join(f"{key}.{name}" for name in present)
        return f"config.{key} must be set key by key ({inside}); got {given!r}."
    kind = type(present).__name__
    return f"config.{key} must be of type {kind}, as {present!r}; got {given!r}."


def _unknown_key(key: str, known: Sequence[str]) -> str:
    """Name the known keys that are nearest, in their own name or in the whole path."""
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, known, 3, 0.7)
    near += [
        k for k in known if difflib.SequenceMatcher(None, k.rpartition(".")[2], last).ratio() > 0.8
    ]
    hint = ", ".join(dict.fromkeys(near))
    return f"config has no key {key!r}" + (f"; did you mean {hint}?" if hint else ". See the file.")


def _config_path(arguments: Sequence[str]) -> str | None:
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        found = re.fullmatch(r"--?config(?:=(.*))?", word)
        if found:
            return found[1] if found[1] is not None else following
    return None


def _keys(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ml_collections.ConfigDict):
            yield from _keys(value, f"{prefix}{name}.")


def _root(error: BaseException) -> BaseException:
    """Return the first of a chain of exceptions."""
    while error.__context__ is not None:
        error = error.__context__
    return error
