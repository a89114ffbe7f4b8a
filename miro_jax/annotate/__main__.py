"""The command `miro-jax annotate`, which is `python -m miro_jax.annotate`."""

import sys
from collections.abc import Sequence
from typing import Any

from miro_jax import annotate
from miro_jax.annotate.settings import NAME, Settings, make_parser
from miro_jax.cli import exit
from miro_jax.cli.flags import make_settings

OUT_OF_MEMORY = "--one-by-one, --dtype=bfloat16, a smaller --batch-size or --mesh=allx2 need less."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""

    def plan() -> Any:
        settings = make_settings(Settings, make_parser().read(arguments))
        return annotate.make_job(settings)  # the engine is imported here: not for --help

    return exit.run(
        NAME,
        plan,
        lambda job: annotate.run_job(job),
        mistakes_at_work=(ValueError,),  # such as models that are not the folder's
        out_of_memory=OUT_OF_MEMORY,
    )


if __name__ == "__main__":
    sys.exit(main())
