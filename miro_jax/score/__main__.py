"""The command `miro-jax score`, which is `python -m miro_jax.score`."""

import sys
from collections.abc import Sequence
from typing import Any

from miro_jax import score
from miro_jax.cli import exit
from miro_jax.cli.flags import make_settings
from miro_jax.score.settings import NAME, Settings, make_parser

OUT_OF_MEMORY = "--one-by-one, --dtype=bfloat16 or a smaller --batch-size need less."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""

    def plan() -> Any:
        settings = make_settings(Settings, make_parser().read(arguments))
        return score.make_job(settings)  # the engine is imported here: not for --help

    return exit.run(
        NAME,
        plan,
        lambda job: score.run_job(job),
        mistakes_at_work=(ValueError,),  # such as models that are not those of the table
        out_of_memory=OUT_OF_MEMORY,
    )


if __name__ == "__main__":
    sys.exit(main())
