"""Rewards: reward models and functions that score images. A new reward is one file.

    from miro_jax import load_reward
    scores = load_reward("pick_score").score(images, captions)

The names below are imported when first used, so `miro_jax.rewards.names` costs no import of jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "names": [
            "PUBLISHED_REWARDS",
            "RELEASED_REWARDS",
            "REWARD_NAMES",
            "SHAPES_REWARDS",
            "parse_names",
            "short_name",
        ],
        "table": [
            "CARDS",
            "REWARDS",
            "VERSIONS",
            "card_of",
            "check_names",
            "check_weights",
            "has_weights",
            "label",
            "load_reward",
            "load_rewards",
            "ways_to_name",
            "why_not_commercial",
        ],
    },
)
