"""`python -m miro_jax.demo`."""

import sys

from miro_jax.demo.command import main

if __name__ == "__main__":
    sys.exit(main())
