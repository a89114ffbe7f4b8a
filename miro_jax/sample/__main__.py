"""`python -m miro_jax.sample`."""

import sys

from miro_jax.cli import huge_pages
from miro_jax.sample.command import main

if __name__ == "__main__":
    huge_pages.ask()
    sys.exit(main())
