"""Rewards by name: how each is built, and its cards."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence

import jax

from miro_jax.data.near import near_name
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    aesthetic,
    base,
    clip_family,
    contract,
    cycle_reward,
    hp,
    image_reward,
    jina,
    own,
    process,
    shapes,
    vqa,
)
from miro_jax.rewards.card import Card
from miro_jax.rewards.names import REWARD_NAMES, is_own, is_process, short_name

REWARDS: dict[str, Callable[..., base.Reward]] = {
    "clip": jina.JinaClip,
    "aesthetic": aesthetic.Aesthetic,
    "image_reward": image_reward.ImageReward,
    "pick_score": functools.partial(clip_family.load, "pick_score"),
    "hpsv2": functools.partial(clip_family.load, "hpsv2"),
    "vqa": vqa.VQAScore,
    "sci_score": functools.partial(clip_family.load, "sci_score"),
    "openai_clip": functools.partial(clip_family.load, "openai_clip"),
    "ict": functools.partial(clip_family.load, "ict"),
    "hp": hp.HighPreference,
    "cycle_reward": cycle_reward.CycleReward,
    **{name: functools.partial(shapes.ShapesReward, name) for name in shapes.JUDGEMENTS},
}

# By identity, in the order of REWARDS; of several versions the first is that of the bare name.
CARDS: dict[str, Card] = {
    card.identity: card
    for name in REWARDS
    for card in (
        jina.CARD,
        aesthetic.CARD,
        image_reward.CARD,
        *clip_family.CARDS,
        *vqa.CARDS,
        hp.CARD,
        *cycle_reward.CARDS,
    )
    if card.name == name
}

# Arguments of the builder for the rewards that exist in several versions.
VERSIONS: dict[str, dict[str, str]] = {
    "hpsv2@2.1": {"version": "2.1"},
    "hpsv2@2.0": {"version": "2.0"},
    "vqa@clip-flant5-xxl": {"variant": "xxl"},
    "vqa@clip-flant5-xl": {"variant": "xl"},
    **{card.identity: {"variant": card.version} for card in cycle_reward.CARDS},
    **{f"objects@{version}": {"version": version} for version in shapes.OBJECTS_VERSIONS},
}


def load_reward(name: str, **arguments) -> base.Reward:
    """Build a reward.

    Args:
      name: a key of REWARDS or VERSIONS; `FILE.py:Class`, see `rewards.own`; or
        `process:COMMAND`, see `rewards.process`.
      **arguments: of that reward's builder; of a published one `weights`, a folder or hub id,
        `dtype`, "float32" (the default) or "bfloat16", and `mesh`, among others.

    Raises:
      TypeError: the name is no text, or the builder of a reward of the table has no such argument.
      ValueError: the name is unknown, or a program is given arguments.
      FileNotFoundError: the file is missing.
    """
    check_names([name])
    if is_own(name):
        return own.build(name, **arguments)
    if is_process(name):
        if arguments:
            raise ValueError(f"{name} takes no {', '.join(arguments)}: its program has its own.")
        return process.ProcessReward(name)
    version = VERSIONS.get(name, {})
    known = [one for one in _arguments_of(name) if one not in version]
    if unknown := [one for one in arguments if one not in known]:
        raise TypeError(
            f"arguments of the reward {name} must be of {', '.join(known) or 'none'}; "
            f"got {', '.join(unknown)}."
        )
    return REWARDS[short_name(name)](**version, **arguments)


def load_rewards(
    names: Sequence[str],
    *,
    weights: Mapping[str, str] | None = None,
    dtype: str | None = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> list[base.Reward]:
    """Build several rewards; towers of equal weights are loaded once for all.

    Args:
      names: see `load_reward`.
      weights: for some of them, hub id or folder of the weights.
      dtype, mesh: for those whose builder takes them; dtype None leaves each its own default.

    Raises:
      TypeError: names or weights of another kind, as one text or a generator.
      ValueError: a name is unknown or given twice, `weights` names a reward that `names` does
        not, or two of your own share a word and not what it stands for.
      OSError: weights cannot be had; see `weights.hub`.
    """
    weights = {} if weights is None else weights
    check_names(names)
    check_weights(names, weights)
    shared = {"mesh": mesh, "towers": clip_family.SharedTowers()}
    if dtype is not None:
        shared["dtype"] = dtype
    rewards = []
    for name in names:
        arguments = shared | {"weights": weights.get(name)}
        accepted = _arguments_of(name)
        with hub.naming_folders(*ways_to_name(name)):
            chosen = {key: value for key, value in arguments.items() if key in accepted}
            rewards.append(load_reward(name, **chosen))
    contract.check_shared(rewards)
    return rewards


def card_of(name: str) -> Card | None:
    """Return the card of a published reward, by name or identity; None for any other."""
    if name in CARDS or is_own(name) or is_process(name):
        return CARDS.get(name)
    return next((card for card in CARDS.values() if card.name == short_name(name)), None)


def why_not_commercial(name: str) -> str:
    """Return why a reward's weights are not known to allow commercial use, "" if they do allow it.

    Args:
      name: of a reward, with or without its version; one without a card is unknown.
    """
    card = card_of(name)
    return "the licence of its weights is unknown" if card is None else card.why_not_commercial()


def ways_to_name(name: str) -> tuple[str, str]:
    """Return how a command line and a config name the folder of a reward's weights."""
    return f"--weights={name}=FOLDER", f"--config.weights.{short_name(name)}=FOLDER"


def has_weights(name: str) -> bool:
    """Return whether a reward is loaded from weights; others cost nothing to build."""
    return "weights" in _arguments_of(name)


def label(name: str) -> str:
    """Return what is known of a reward's identity before weights are read.

    The identity of a reward without weights; else the name, or a pattern of the identity of a
    class or a program of your own. `records.manifest.same_models` compares them with identities.
    """
    if is_process(name):
        return f"{short_name(name)}@*-{process.digest(name)}"
    if not has_weights(name):
        return load_reward(name).identity
    return f"{short_name(name)}@*-{own.digest(name)}" if is_own(name) else name


def _arguments_of(name: str) -> Mapping[str, inspect.Parameter]:
    if is_process(name):
        return {}
    build = own.load_class(name) if is_own(name) else REWARDS[short_name(name)]
    return inspect.signature(build).parameters


def check_weights(names: Sequence[str], weights: Mapping[str, str]) -> None:
    """Raise unless weights are given for some of the names that have weights.

    Raises:
      TypeError: they are no mapping. ValueError: they are for something else.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be {{name: folder or hub id}}; got {weights!r}.")
    if unknown := [name for name in weights if name not in names or not has_weights(name)]:
        raise ValueError(
            f"weights must be given for published rewards of {', '.join(names)}; "
            f"got {', '.join(map(repr, unknown))}."
        )


def check_names(names: Sequence[str]) -> None:
    """Raise unless names is a sequence of distinct known rewards; no reward is built.

    Raises:
      TypeError: one string instead of a sequence, another kind, or a name that is no text.
      ValueError: a name is unknown or given twice.
      FileNotFoundError: the file of a class or a program of your own is missing.
    """
    if isinstance(names, str):
        raise TypeError(f"rewards must be a tuple of names; got the one string {names!r}.")
    if not isinstance(names, Collection):  # a generator would be at its end when they are built
        raise TypeError(f"rewards must be a list of names; got {names!r}.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"The name of a reward must be a text; got {name!r:.60}. load_reward('hpsv2') "
                "makes one reward, load_rewards(['hpsv2', 'vqa']) several."
            )
        if is_own(name):
            own.load_class(name)
        elif is_process(name):
            process.check_command(name)
        elif name not in REWARD_NAMES:
            near = near_name(name.partition("@")[0], REWARD_NAMES)
            raise ValueError(
                f"reward must be one of {', '.join(REWARD_NAMES)}, FILE.py:Class or "
                f"process:COMMAND; got {name!r}{near}"
            )
    # Two versions of a published reward may stand side by side: their identities differ.
    cards = [card_of(name) for name in names]
    keys = [c.identity if c else short_name(n) for c, n in zip(cards, names, strict=True)]
    if len(set(keys)) != len(keys):
        raise ValueError(f"rewards must differ from each other; got {', '.join(keys)}.")
