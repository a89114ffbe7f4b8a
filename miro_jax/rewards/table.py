"""Rewards by name. A new reward is one file, one entry here, one test."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence

import jax

from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    aesthetic,
    base,
    clip,
    hpsv2,
    image_reward,
    openai_clip,
    pick_score,
    sci_score,
    shapes,
    vqa,
)
from miro_jax.rewards.clip_score import SharedTowers

REWARDS: dict[str, Callable[..., base.Reward]] = {
    "clip": clip.JinaClip,
    "aesthetic": aesthetic.Aesthetic,
    "image_reward": image_reward.ImageReward,
    "pick_score": pick_score.load,
    "hpsv2": hpsv2.load,
    "vqa": vqa.VQAScore,
    "sci_score": sci_score.load,
    "openai_clip": openai_clip.load,
    "sharpness": shapes.sharpness,
    "cleanliness": shapes.cleanliness,
    "beauty": shapes.beauty,
    "objects": shapes.objects,
    "colors": shapes.colors,
    "count": shapes.count,
    "position": shapes.position,
}

# Rewards of which there are several, by identity: what the builder is told.
VERSIONS: dict[str, dict[str, str]] = {
    "hpsv2@2.1": {"version": "2.1"},
    "hpsv2@2.0": {"version": "2.0"},
    "vqa@clip-flant5-xxl": {"variant": "xxl"},
    "vqa@clip-flant5-xl": {"variant": "xl"},
}


def load_reward(name: str, **arguments) -> base.Reward:
    """Build a reward.

    Args:
        name: a key of REWARDS or VERSIONS.
        **arguments: what that reward's builder takes.

    Raises:
        ValueError: the name is unknown.
    """
    check_names([name])
    return REWARDS[name.partition("@")[0]](**VERSIONS.get(name, {}), **arguments)


def load_rewards(
    names: Sequence[str],
    *,
    weights: Mapping[str, str] | None = None,
    dtype: str | None = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> list[base.Reward]:
    """Build several rewards; towers of equal weights are loaded once for all.

    Args:
        names: keys of REWARDS or VERSIONS.
        weights: for some of them, hub id or folder of the weights.
        dtype, mesh: for those whose builder takes them; dtype None leaves each its own default.

    Raises:
        ValueError: a name is unknown or given twice, or `weights` names a reward that `names` does
            not.
        OSError: weights are not to be had; see `weights.hub`.
    """
    weights = {} if weights is None else weights
    check_names(names)
    check_weights(names, weights)
    offered = {"mesh": mesh, "towers": SharedTowers()} | ({} if dtype is None else {"dtype": dtype})
    rewards = []
    for name in names:
        arguments = offered | {"weights": weights.get(name)}
        taken = _arguments_of(name)
        with hub.told_where(*ways_to_name(name)):
            rewards.append(load_reward(name, **{k: v for k, v in arguments.items() if k in taken}))
    return rewards


def ways_to_name(name: str) -> tuple[str, str]:
    """Return how a command line and a config name the folder of a reward's weights."""
    return f"--weights={name}=FOLDER", f"--config.weights.{name.partition('@')[0]}=FOLDER"


def has_weights(name: str) -> bool:
    """Tell whether a reward of the table is loaded from weights; others cost nothing to build."""
    return "weights" in _arguments_of(name)


def _arguments_of(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(REWARDS[name.partition("@")[0]]).parameters


def check_weights(names: Sequence[str], weights: Mapping[str, str]) -> None:
    """Raise ValueError unless weights are given for some of the names that have weights."""
    if unknown := [name for name in weights if name not in names or not has_weights(name)]:
        raise ValueError(
            f"weights must be given for published rewards of {', '.join(names)}; "
            f"got {', '.join(map(repr, unknown))}."
        )


def check_names(names: Sequence[str]) -> None:
    """Raise unless names is a sequence of distinct known rewards; no reward is built.

    Raises:
        TypeError: one string instead of a sequence.
        ValueError: a name is unknown or given twice.
    """
    if isinstance(names, str):
        raise TypeError(f"rewards must be a tuple of names; got the one string {names!r}.")
    for name in names:
        if name not in REWARDS and name not in VERSIONS:
            known = [*REWARDS, *VERSIONS]
            near = difflib.get_close_matches(name.partition("@")[0], known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"reward must be one of {', '.join(known)}; got {name!r}.{hint}")
    if len(set(names)) != len(names):
        raise ValueError(f"rewards must differ from each other; got {', '.join(names)}.")
