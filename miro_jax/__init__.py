"""MIRO in JAX: text-to-image flow models trained on captions and reward levels together.

from miro_jax import MiroPipeline, load_reward
"""

from miro_jax.rewards import load_reward
from miro_jax.sample.pipeline import MiroPipeline

__version__ = "0.1.0"

__all__ = ["MiroPipeline", "__version__", "load_reward"]
