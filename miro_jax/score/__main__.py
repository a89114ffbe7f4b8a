"""The command `miro-jax score`, which is `python -m miro_jax.score`."""

import sys
from collections.abc import Sequence

from miro_jax import score
from miro_jax.annotate.__main__ import run
from miro_jax.score import settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(score, settings, arguments)


if __name__ == "__main__":
    sys.exit(main())
