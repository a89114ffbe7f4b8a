"""A reward more for a trained network: one reward token behind those that it has.

The token stands for a level like any other. Where the level is missing (NaN, as of data that was
never scored by the new reward), the token is hidden from all others, so that the network is then
the one it was: its output is equal, up to the order in which softmax sums. Training may change all
weights, or the new token alone (`config.optim.trainable`), which leaves the old network in place.

What sampling used goes on: the averaged weights, of a run or of a release. The optimizer begins
anew.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.cli.build import Config
from miro_jax.models import sharding
from miro_jax.models.rin import RINConfig
from miro_jax.rewards.names import short_name
from miro_jax.train.components import Components
from miro_jax.train.state import TrainState, leaf_name

Array = jax.Array
# Of no weight that is there.
_NEW = ("rewards/", "jump/")  # what an extended network has, and a student of `distil`
_MAY_DIFFER = ("num_rewards", "added_rewards", "remat", "residual", "table_std")


def extended_config(config: Config, records: str, base: str = "") -> Config:
    """Return the config of the extended run, which is one like any other.

    Args:
      config: of the network that is extended, with `data.new_reward`. records: as `data.records`.
      base: identity of the weights of that network.

    Raises:
      ValueError: the network is conditioned on that reward already.
    """
    c, new = config.copy_and_resolve_references().unlock(), config.data.new_reward
    conditioned = [short_name(name) for name in c.data.train_rewards]
    if short_name(new) in conditioned:
        raise ValueError(
            f"config.data.new_reward must be a reward that the network does not know; it knows "
            f"{', '.join(conditioned)}."
        )
    scored = {short_name(name): name for name in c.rewards}
    if short_name(new) in scored:
        new = scored[short_name(new)]
    else:
        c.rewards = (*c.rewards, new)
    c.data.train_rewards = (*c.data.train_rewards, new)
    c.data.new_reward, c.data.records, c.extend.base = "", records, base
    c.model.rin.added_rewards += 1
    c.train.num_steps = c.extend.num_steps
    c.optim.learning_rate, c.optim.warmup_steps = c.extend.learning_rate, c.extend.warmup_steps
    return c.lock()


def check_fits(old: RINConfig, new: RINConfig) -> None:
    """Raise ValueError unless two networks differ in their rewards alone."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    differing = [
        f"{key} is {before[key]} there, {after[key]} here"
        for key in before
        if key not in _MAY_DIFFER and before[key] != after[key]
    ]
    if differing:
        raise ValueError(
            f"The network of config.extend.checkpoint must have the sizes of config.model.rin: "
            f"{'; '.join(differing)}. Use the config of that network."
        )


def to_host(states: Any) -> Any:
    """Copy arrays from wherever their parts are, perhaps on devices of other processes."""
    return jax.tree.map(lambda array: np.asarray(sharding.whole(array)), states)


def start(parts: Components, states: Iterable[Any], seed: int) -> TrainState:
    """Make the state that an extension begins with, laid out over the mesh of `parts`.

    Args:
      parts: of the extended run. states: parameters and buffers of the network that is extended.
      seed: of the new token.
    """
    pairs = [pair for state in states for pair in jax.tree_util.tree_flatten_with_path(state)[0]]
    old = {leaf_name(path): leaf for path, leaf in pairs}

    def make(key: Array, old: dict[str, Array]) -> TrainState:
        return grow(parts.init(key), old)

    return jax.jit(make, out_shardings=parts.shardings)(jax.random.key(seed), old)


def grow(fresh: TrainState, old: Mapping[str, Array]) -> TrainState:
    """Put the weights of a network in place of those of a fresh one with more reward tokens.

    Args:
      fresh: state of the extended network as it is initialised.
      old: name of a leaf -> array; rows and embeddings that it lacks stay as they are in `fresh`.

    Raises:
      ValueError: another leaf is missing or of another shape.
    """
    params = _fill(fresh.params, old)
    ema_params = jax.tree.map(jnp.copy, params)
    buffers = _fill(fresh.buffers, old)
    return dataclasses.replace(fresh, params=params, ema_params=ema_params, buffers=buffers)


def _fill(tree: Any, old: Mapping[str, Array]) -> Any:
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [_merge(leaf_name(path), leaf, old.get(leaf_name(path))) for path, leaf in pairs]
    return jax.tree.unflatten(structure, leaves)


def _merge(name: str, fresh: Array, old: Array | None) -> Array:
    is_table = name == "reward_positions/table"
    if old is None and (is_table or name.startswith(_NEW)):
        return fresh
    if old is not None and old.shape == fresh.shape:
        return old.astype(fresh.dtype)
    if old is not None and is_table and old.shape[1:] == fresh.shape[1:]:
        return fresh.at[: len(old)].set(old)
    raise ValueError(
        f"The new network needs {name} {fresh.shape}; the checkpoint has "
        f"{None if old is None else old.shape}."
    )
