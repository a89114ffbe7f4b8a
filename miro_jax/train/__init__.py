"""Stage: records -> a trained network; `loop.run`."""

import lazy_loader

# Imported when first used: the help of a stage needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["components", "one_folder", "peers"]
)
