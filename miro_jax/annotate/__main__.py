"""`python -m miro_jax.annotate`."""

import sys

from miro_jax.annotate.command import main

if __name__ == "__main__":
    sys.exit(main())
