"""MIRO in JAX: text-to-image flow models trained on captions and reward levels together.

from miro_jax import MiroPipeline, load_reward
"""

import lazy_loader

from miro_jax.cli import huge_pages

__version__ = "0.1.0"

huge_pages.request()  # restarts a command, before anything is imported; does nothing else

# Listed in __init__.pyi and imported when first used: `miro-jax --help` needs neither.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
