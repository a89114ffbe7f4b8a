"""`python -m miro_jax.score`."""

import sys

from miro_jax.score.command import main

if __name__ == "__main__":
    sys.exit(main())
