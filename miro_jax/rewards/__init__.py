"""Rewards by name. A new reward is one file, one entry here, one test."""

from collections.abc import Callable, Sequence

from miro_jax.rewards import base, image_reward, shapes

SHAPES_REWARDS = (
    "sharpness",
    "cleanliness",
    "beauty",
    "objects",
    "colors",
    "count",
    "position",
)

REWARDS: dict[str, Callable[..., base.Reward]] = {
    "sharpness": shapes.sharpness,
    "cleanliness": shapes.cleanliness,
    "beauty": shapes.beauty,
    "objects": shapes.objects,
    "colors": shapes.colors,
    "count": shapes.count,
    "position": shapes.position,
    "image_reward": image_reward.ImageReward,
}


def load_reward(name: str, **arguments) -> base.Reward:
    """Build a reward.

    Args:
        name: a key of REWARDS.
        **arguments: what that reward's builder takes.

    Raises:
        ValueError: the name is unknown.
    """
    check_names([name])
    return REWARDS[name](**arguments)


def check_names(names: Sequence[str]) -> None:
    """Raise unless names is a sequence of distinct known rewards; no reward is built.

    Raises:
        TypeError: one string instead of a sequence.
        ValueError: a name is unknown or given twice.
    """
    if isinstance(names, str):
        raise TypeError(f"rewards must be a tuple of names; got the one string {names!r}.")
    for name in names:
        if name not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}; got {name!r}.")
    if len(set(names)) != len(names):
        raise ValueError(f"rewards must differ from each other; got {', '.join(names)}.")
