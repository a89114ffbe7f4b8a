"""`python -m miro_jax.sample`."""

import sys

from miro_jax.sample.command import main

if __name__ == "__main__":
    sys.exit(main())
