"""What a config names, built: rewards and the arguments of encoders."""

from collections.abc import Sequence
from typing import Any

from miro_jax import rewards
from miro_jax.pretrained.encoders import PUBLISHED

Config = Any  # an ml_collections.ConfigDict of a run: its keys have no static types


def load_rewards(config: Config) -> list:
    """Load every reward of `config.rewards`, in order."""
    return rewards.load_rewards(
        config.rewards, weights=reward_weights(config), dtype=config.annotate.dtype
    )


def reward_labels(config: Config) -> list[str]:
    """Return the labels of the rewards before any is loaded: identities, or else names."""
    return [rewards.label(name) for name in config.rewards]


def reward_weights(config: Config, names: Sequence[str] = ()) -> dict[str, str]:
    """Return the paths or hub ids of weights that the config names, by reward; of all or some."""
    published = [name for name in names or config.rewards if rewards.has_weights(name)]
    paths = {name: config.weights.get(rewards.short_name(name), "") for name in published}
    return {name: path for name, path in paths.items() if path}


def encoder_arguments(config: Config, kind: str) -> dict[str, Any]:
    """Return what builds the encoder of a run: `kind` is "image" or "caption"."""
    arguments = dict(config.encoder[kind])
    if arguments["name"] in PUBLISHED:
        arguments["weights"] = config.weights[f"{kind}_encoder"] or None
    return arguments


def reads_weights(config: Config) -> bool:
    """Return whether a run reads published weights: of an encoder, or of a reward."""
    encoders = (config.encoder.image.name, config.encoder.caption.name)
    return any(name in PUBLISHED for name in encoders) or any(
        rewards.has_weights(name) for name in config.rewards
    )
