"""MIRO in JAX: text-to-image flow models trained on captions and reward levels together.

from miro_jax import MiroPipeline, load_reward
"""

import lazy_loader

__version__ = "0.1.0"

# Imported when first used: `miro-jax --help` needs neither.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"sample.pipeline": ["MiroPipeline"], "rewards": ["load_reward"]}
)
