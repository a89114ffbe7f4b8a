"""The config of a run, as its folder keeps it, with changes for one evaluation."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags as absl_flags
from ml_collections import config_flags

from miro_jax.cli import run_folder
from miro_jax.cli.exit import UsageError
from miro_jax.evaluate.settings import Settings


def read_config(folder: Path) -> ml_collections.ConfigDict:
    """Read the config of a run; options that its version did not have get their defaults.

    Raises:
      FileNotFoundError: the folder is not that of a run with checkpoints.
    """
    path = folder / run_folder.CONFIG
    if not path.is_file() or not (folder / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"RUN_FOLDER must be the folder of a run, with {run_folder.CONFIG} and checkpoints; "
            f"got {folder}. Training writes it."
        )
    values = json.loads(path.read_text("utf-8"))
    values["evaluate"] = dataclasses.asdict(Settings()) | values["evaluate"]
    return ml_collections.ConfigDict(_with_tuples(values))


def _with_tuples(value: Any) -> Any:
    """Return JSON values with tuples in place of lists, as configs have them."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def override(config: ml_collections.ConfigDict, words: Sequence[str]) -> ml_collections.ConfigDict:
    """Apply `--config.KEY=VALUE` words to a config.

    Raises:
      UsageError: a key is unknown, or a value of another type.
    """
    values, argv = absl_flags.FlagValues(), ["miro-jax evaluate", *words]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (absl_flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    return values.config
