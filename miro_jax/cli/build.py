"""What a config names, built: rewards and the arguments of encoders."""

from typing import Any

import ml_collections

from miro_jax import rewards
from miro_jax.pretrained.encoders import PUBLISHED


def load_rewards(config: ml_collections.ConfigDict) -> list:
    """Load every reward of `config.rewards`, in order."""
    return rewards.load_rewards(
        config.rewards, weights=reward_weights(config), dtype=config.annotate.dtype
    )


def reward_labels(config: ml_collections.ConfigDict) -> list[str]:
    """Return what is known of the rewards before any is loaded: identities, else names."""
    return [rewards.label(name) for name in config.rewards]


def reward_weights(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Return where the weights of rewards are, as far as the config says: name -> place."""
    published = [name for name in config.rewards if rewards.has_weights(name)]
    places = {name: config.weights.get(rewards.short_name(name), "") for name in published}
    return {name: place for name, place in places.items() if place}


def image_encoder_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what `encoders.build_image_encoder` takes for a run."""
    return _encoder_arguments(config, "image")


def caption_encoder_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what `encoders.build_caption_encoder` takes for a run."""
    return _encoder_arguments(config, "caption")


def _encoder_arguments(config: ml_collections.ConfigDict, kind: str) -> dict[str, Any]:
    arguments = dict(config.encoder[kind])
    if arguments["name"] in PUBLISHED:
        arguments["weights"] = config.weights[f"{kind}_encoder"] or None
    return arguments
