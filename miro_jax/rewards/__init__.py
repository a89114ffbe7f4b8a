"""Rewards: reward models and functions that score images. A new reward is one file.

    from miro_jax import load_reward
    scores = load_reward("pick_score").score(images, captions)

The names, listed in __init__.pyi, are imported when first used: `miro_jax.rewards.names` costs no
import of jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
