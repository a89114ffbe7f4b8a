"""`python -m miro_jax.evaluate`."""

import sys

from miro_jax.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
