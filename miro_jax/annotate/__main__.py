"""The command `miro-jax annotate`, which is `python -m miro_jax.annotate`."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from miro_jax import annotate
from miro_jax.annotate import settings
from miro_jax.cli import exit
from miro_jax.cli.flags import make_settings
from miro_jax.pretrained.weights.hub import OfflineError

_OUT_OF_MEMORY = "--one-by-one, --dtype=bfloat16, a smaller --batch-size or --mesh=allx2 need less."


def run(stage: ModuleType, options: ModuleType, arguments: Sequence[str] | None) -> int:
    """Run a command line of annotate or score: `stage` with its module of settings."""

    def plan() -> Any:
        settings = make_settings(options.Settings, options.make_parser().read(arguments))
        return stage.make_job(settings)  # the engine is imported here: not for --help

    return exit.run(
        options.VERB,
        plan,
        lambda job: stage.run_job(job),
        # Such as models that are not those of before; weights that an argument names.
        mistakes_at_work=(ValueError, OfflineError),
        out_of_memory=_OUT_OF_MEMORY,
        resumes=exit.always,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(annotate, settings, arguments)


if __name__ == "__main__":
    sys.exit(main())
