"""The command line: flags and exit statuses, configs of runs, folders of runs, progress."""

import lazy_loader

# Imported when first used: the first two import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["pull", "run_folder", "signals"]
)
