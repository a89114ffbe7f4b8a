"""The command line of a run: arguments in, a config, a folder and a stage out, or one clear line.

`ml_collections.config_flags` reads `--config=FILE[:VARIANT]` and `--config.KEY=VALUE`. Its flags
live in an object of their own, not in absl's global one, and its errors (tracebacks, exit status 1)
are turned into `UsageError`, whose text names the argument and near misses.
"""

import contextlib
import itertools
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from miro_jax.cli.dialect import flag_of_train, nearest_flag, nearest_keys
from miro_jax.cli.exit import UsageError
from miro_jax.data.near import near_name
from miro_jax.data.storage import one_slash
from miro_jax.rewards.names import SHAPES_REWARDS, parse_names

HELP = f"""Train, sample and evaluate MIRO.

usage: miro-jax train --config=CONFIG[:VARIANT,...] --workdir=DIR [--stage=STAGE]
                      [--resume=WHETHER] [--config.KEY=VALUE ...]
                      the same as python -m miro_jax.main ...

  --config    base, miro or study, which come with the package; or the path of a Python file
              with get_config(), as configs/base.py, where every key is explained
  --workdir   folder of the run; made where it is missing, resumed where there is one; may be in an
              object store: gs://bucket/run, s3://bucket/run
  --stage     annotate | train | sample | evaluate | distil | extend | study (default: train)
  --resume    allowed: from the last checkpoint where there is one (default); required: fail where
              there is none; never: fail where there is one. For train, distil and extend

stages
  annotate    score and encode the images of config.source into DIR/records
  train       train, resuming from the last checkpoint; annotates the shapes world first, and ends
              with the evaluation and DIR/report.html if config.train.report
  sample      images of config.sample.prompts into DIR/images
  evaluate    numbers of the last checkpoint into DIR/evaluation.json and DIR/report.html
  distil      a student of --config.distil.checkpoint that samples in 1 to 4 steps, into DIR
  extend      config.data.new_reward added to the network config.extend.checkpoint; in DIR a run
              like any other, with DIR/compare.html: what the new dial does, what changed
  study       several variants and seeds (--config=study), and the paper's claims of them into
              DIR/study/study.html

variants of base
  tiny (a minute), full (accelerator), baseline (no rewards), reward_dropout, only_REWARD, no_REWARD
  with REWARD one of {", ".join(SHAPES_REWARDS)}
variants of miro, the paper on photographs
  synth, 512, baseline, reward_dropout, only_REWARD, no_REWARD, tiny_real (small weights on a CPU)
several are joined by commas, as miro:synth,512

example
  miro-jax train --config=base:tiny --workdir=runs/tiny --config.seed=1

A config of your own: copy a file of configs/, or begin with `from configs import base` and
`base.base()`. `configs` is then the folder of your file and, for what is not there, the package's.

Exit status: 0 done, 1 the stage failed, 2 a bad argument, 75 another process of the run is gone or
missing: start all again; 130, 143, 129 stopped by Ctrl-C (SIGINT), SIGTERM, SIGHUP.
"""
# Keys below these depend on the encoders and rewards that a config names.
FREE = ("encoder.", "weights.")
RESUME = ("allowed", "required", "never")


class Command(NamedTuple):
    """A parsed command.

    config: locked. workdir: the run's folder, or its URL. stage: what is run. resume: of RESUME.
    """

    config: ml_collections.ConfigDict
    workdir: Path | str
    stage: str
    resume: str = "allowed"


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the arguments hold --help in any of its forms."""
    return any(re.fullmatch(r"-h|--?help(short|full)?", word) for word in arguments)


def print_help() -> None:
    """Print `HELP` to stdout."""
    print(HELP, end="")


def parse(arguments: Sequence[str], stages: Sequence[str]) -> Command:
    """Read the arguments, without the program's name.

    Raises:
      UsageError: they cannot be understood, or the config cannot be used.
    """
    _require_all(arguments)
    places, given = _value(arguments, "config")
    path = find_config(given)
    with _importable_configs(Path(path.partition(":")[0]).parent):
        config = _load(path)
        _check_keys(config, given)
        check_overrides(config, arguments)
        # First, as keys are set in a config that is there.
        others = (word for i, word in enumerate(arguments) if i not in places)
        argv = ["miro_jax", f"--config={path}", *others]
        try:
            values = _define(argv, stages)
            rest = values(argv)[1:]
            config = values.config
        except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
            raise UsageError(explain(error, arguments, config)) from error
    if rest:
        raise UsageError(f"arguments must begin with --; got {' '.join(map(repr, rest))}.")
    _write_out_groups(config)
    if one_slash(values.workdir):
        raise UsageError(
            f"--workdir must have two slashes after its scheme; got {values.workdir!r}."
        )
    # A path would lose a slash of a URL.
    workdir = values.workdir if "://" in values.workdir else Path(values.workdir).expanduser()
    return Command(config, workdir, values.stage, values.resume)


def configs_folder() -> Path:
    """Folder of the configs that come with the package: in a wheel below it, in a clone beside."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(text: str) -> str:
    """Return `PATH[:VARIANT]` for a file or for the name of a config of the package.

    Args:
      text: `FILE.py`, or `base`, `base.py`, `configs/base.py`, each with `:VARIANT` or without. A
        file that exists comes before a config of the package.

    Raises:
      UsageError: there is no such file.
    """
    name, colon, variant = text.partition(":")
    path = Path(name).expanduser()
    if not path.is_file():
        known = {p.stem: p for p in sorted(configs_folder().glob("*.py")) if p.stem != "__init__"}
        stem = name.removeprefix("configs/").removesuffix(".py")
        if stem not in known:
            raise UsageError(
                f"--config must be {', '.join(known)} or an existing Python file; got {text!r}"
                f"{near_name(stem, known)}"
            )
        path = known[stem]
    return f"{path}{colon}{variant}"


@contextlib.contextmanager
def _importable_configs(folder: Path) -> Iterator[None]:
    """Let `from configs import NAME` find a file of `folder`, or else one of the package."""
    before = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "configs"}
    configs = types.ModuleType("configs")
    configs.__path__ = [str(folder.resolve()), str(configs_folder())]
    for name in before:
        del sys.modules[name]
    sys.modules["configs"] = configs
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
            del sys.modules[name]
        sys.modules.update(before)


def _load(path: str) -> ml_collections.ConfigDict:
    """Load a config without overrides; UsageError names the file and, where it can, the line."""
    alone = ["miro_jax", f"--config={path}"]
    values = _define(alone, ["train"])
    file = path.partition(":")[0]
    try:
        values(alone)
        config = values.config
    except Exception as error:  # any code can stand in the file
        cause = _root(error)
        lines = [f.lineno for f in traceback.extract_tb(cause.__traceback__) if f.filename == file]
        if isinstance(cause, ValueError) and str(cause).startswith("Unknown variant"):
            text = str(cause)
            name, known = text.split("'")[1], re.findall(r"\w+", text.rpartition(":")[2])
            raise UsageError(f"{text.rstrip('.')}{near_name(name, known)}") from error
        line = cause.lineno if isinstance(cause, SyntaxError) else (lines or [None])[-1]
        where = f"{file}, line {line}" if line else file
        raise UsageError(f"--config: {where}: {type(cause).__name__}: {cause}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UsageError(
            f"--config: get_config() of {file} must return a ml_collections.ConfigDict; "
            f"got {type(config).__name__}."
        )
    return config


def _check_keys(config: ml_collections.ConfigDict, given: str) -> None:
    """Raise UsageError unless a config has all keys of configs/base.py."""
    known = [k for k in _keys(_load(str(configs_folder() / "base.py"))) if not k.startswith(FREE)]
    missing = sorted(set(known) - set(_keys(config)))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UsageError(
            f"--config={given} lacks the keys {', '.join(missing[:5])}{more}. Begin with "
            "`from configs import base` and `base.base()`, which has them all."
        )


def check_overrides(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> None:
    """Refuse what a config would take: None for text, which names a file `None`; {} for a section.

    Args:
      config: as it is before. arguments: among them `--config.KEY=VALUE`; `explain` says which
        keys are unknown.

    Raises:
      UsageError: there is such a value.
    """
    known = set(_keys(config))
    for word, following in itertools.pairwise((*arguments, "")):
        flag = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", word)
        if flag is None or flag[1] not in known:
            continue
        given = following if flag[2] is None else flag[2]
        wanted = config_flags.config_path.get_value(flag[1], config)
        if isinstance(wanted, ml_collections.ConfigDict):
            raise UsageError(_wrong_type(flag[1], config, given))
        if given in ("None", "null") and isinstance(wanted, str):
            raise UsageError(
                f"config.{flag[1]} must be text, empty for none; got {given}. "
                f"Write --config.{flag[1]}= with nothing after it."
            )


def _write_out_groups(config: ml_collections.ConfigDict) -> None:
    """Put their members in place of `all` and `shapes` among the rewards, as the flags do."""
    with config.unlocked():
        for part, key in ((config, "rewards"), (config.data, "train_rewards")):
            if isinstance(part[key], tuple):
                part[key] = parse_names(part[key])


def _define(argv: Sequence[str], stages: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "file", values, True, sys_argv=list(argv))
    flags.DEFINE_string("workdir", None, "folder", flag_values=values)
    flags.DEFINE_enum("stage", "train", list(stages), "stage", flag_values=values)
    flags.DEFINE_enum("resume", RESUME[0], list(RESUME), "resume", flag_values=values)
    return values


def _require_all(arguments: Sequence[str]) -> None:
    """Raise UsageError that names every required argument that is missing, or misspelt."""
    needed = {
        "config": "base, miro, study or a Python file",
        "workdir": "the folder of the run",
    }
    missing = [name for name in needed if not _value(arguments, name)[1]]
    for word in arguments:
        flag = re.match(r"--?((?!-|(?:no)?config\b|workdir\b)[\w-]+)", word)
        if flag and (near := nearest_flag(f"--{flag[1]}", [f"--{name}" for name in missing])):
            raise UsageError(f"unknown argument --{flag[1]}; did you mean {near}?")
    if missing:
        listed = ", ".join(f"--{name} must be given ({needed[name]})" for name in missing)
        raise UsageError(f"{listed}. See --help.")


def _value(arguments: Sequence[str], name: str) -> tuple[set[int], str]:
    """Return where `--NAME=VALUE` and `--NAME VALUE` stand, and the last value or ""."""
    places, value = set[int](), ""
    for i, word in enumerate(arguments):
        match = re.fullmatch(rf"--?{name}(?:=(.*))?", word)
        if match and match[1] is not None:
            places, value = places | {i}, match[1]
        elif match and i + 1 < len(arguments) and not arguments[i + 1].startswith("-"):
            places, value = places | {i, i + 1}, arguments[i + 1]
    return places, value


def explain(error: Exception, arguments: Sequence[str], config: ml_collections.ConfigDict) -> str:
    """Return in one line what is wrong with arguments that override a config.

    Args:
      error: what reading them raised. arguments: all of them. config: as it was before.
    """
    known = sorted(_keys(config))
    flags_of_keys = (re.match(r"--?(?:no)?config\.([^=]*)", word) for word in arguments)
    for key in (match[1] for match in flags_of_keys if match):
        if key not in known:
            return _unknown_key(key, known)
        if config_flags.config_path.get_value(key, config) is None:
            return f"config.{key} is None in the file and cannot be overridden: give it a value."
    if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
        return _wrong_type(wrong[1], config, wrong[2])
    if wrong := re.match(r"flag --(\w+)=(.*): value should be one of <(.*)>", str(error)):
        choices = wrong[3].split("|")
        near = near_name(wrong[2], choices)
        return f"--{wrong[1]} must be one of {', '.join(choices)}; got {wrong[2]!r}{near}"
    if isinstance(error, flags.UnrecognizedFlagError):
        near = flag_of_train(error.flagname, known)
        hint = f"; did you mean {near}?" if near else ". See --help."
        return f"unknown argument --{error.flagname}{hint}"
    return " ".join(str(error).split())


def _wrong_type(key: str, config: ml_collections.ConfigDict, given: str) -> str:
    present = config_flags.config_path.get_value(key, config)
    if isinstance(present, ml_collections.ConfigDict):
        inside = ", ".join(f"{key}.{name}" for name in present)
        return f"config.{key} must be set key by key ({inside}); got {given!r}."
    kind = type(present).__name__
    return f"config.{key} must be of type {kind}, as {present!r}; got {given!r}."


def _unknown_key(key: str, known: Sequence[str]) -> str:
    """Name the known keys that it may mean."""
    hint = ", ".join(nearest_keys(key, known))
    return f"config has no key {key!r}" + (f"; did you mean {hint}?" if hint else ". See the file.")


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
