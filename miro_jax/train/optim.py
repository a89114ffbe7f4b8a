"""The optimizers and the learning rate of training.

LAMB as the authors run it (their `Lamb` with `decouple=False`), for each leaf p with gradient g:

    m <- b1 m + (1 - b1) g            a = m / (1 - b1^k) / (sqrt(v / (1 - b2^k)) + eps)
    v <- b2 v + (1 - b2) g^2          u = a + weight_decay p
    p <- p - rate |p| / |u| u         the ratio is 1 where either norm is 0

where k = 1, 2, ... counts updates. Norms' parameters and biases take the plain Adam step
p - rate a: see `adapted`. Gradients are clipped by their global norm first. The trust ratio is of
whole leaves, so a leaf must hold what one tensor of the authors' model holds.

The moments have the shapes of the parameters, leaf by leaf, and are laid out over a mesh like them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from miro_jax.train.settings import Optim
from miro_jax.train.state import leaf_name

PLAIN_LEAVES = ("scale", "bias")  # a norm's weight and bias, and the bias of everything else
PLAIN_EXCEPT_BELOW = "logvar"  # the authors give this head decay and trust ratio throughout


def warmup_cosine(
    learning_rate: float, warmup_steps: int, total_steps: int, rate: float
) -> optax.Schedule:
    """Make the schedule: linear warm-up from 0, then 0.5 (1 + cos(rate pi p)).

    p is the fraction of the steps after the warm-up that is done. The argument of the schedule
    is the number of updates done before the one that uses it (the authors' `global_step`): the
    first update has rate 0 and changes nothing, the one after `warmup_steps` others is the first
    with the full rate. After `total_steps` the rate stays what it was there.

    The authors' first update escapes their schedule, which is first called after it, and runs at
    the full rate; ours does not.

    Args:
      learning_rate: the highest rate.
      warmup_steps: updates before the full rate; 0 for none.
      total_steps: updates of the whole run, above `warmup_steps`.
      rate: how far the cosine goes: 1 ends at 0, 0.8 at 0.095 of the highest, 0 is constant.

    Returns:
      A function from a count of updates, an int or an int32 scalar, to a float32 scalar.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and below total_steps; got {warmup_steps} and "
            f"{total_steps}. Shorten the warm-up or lengthen the run."
        )

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((done - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(rate * jnp.pi * progress))
        warmup = jnp.minimum(done / warmup_steps, 1.0) if warmup_steps else 1.0
        return learning_rate * warmup * cosine

    return schedule


def adapted(params: Any) -> Any:
    """Return which leaves get weight decay and trust ratio: a tree of bools shaped like `params`.

    All do, except leaves named `scale` or `bias` that do not stand below a key `logvar`.
    """

    def is_adapted(path, _) -> bool:
        names = leaf_name(path).split("/")
        return names[-1] not in PLAIN_LEAVES or PLAIN_EXCEPT_BELOW in names

    return jax.tree_util.tree_map_with_path(is_adapted, params)


def lamb(rate: optax.ScalarOrSchedule, settings: Optim) -> optax.GradientTransformation:
    """Make LAMB as in the head of this module; decay and trust ratio follow `adapted`."""
    return optax.chain(
        optax.scale_by_adam(*settings.betas, settings.eps),
        optax.add_decayed_weights(settings.weight_decay, mask=adapted),
        optax.masked(scale_by_trust_ratio(), adapted),
        optax.scale_by_learning_rate(rate),
    )


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Make what multiplies each update u of a leaf p by |p| / |u|, or 1 where either norm is 0.

    Optax's takes each norm twice, so that there are gradients through it: two more passes over
    the parameters and two over the updates.
    """

    @jax.jit  # traced once for all leaves of a shape
    def scale(update: jax.Array, param: jax.Array) -> jax.Array:
        norms = jnp.sqrt(_sum_of_squares(param)), jnp.sqrt(_sum_of_squares(update))
        is_zero = (norms[0] == 0.0) | (norms[1] == 0.0)
        return update * jnp.where(is_zero, 1.0, norms[0] / norms[1])

    def scale_all(updates: Any, params: Any = None) -> Any:
        return jax.tree.map(scale, updates, params)

    return optax.stateless(scale_all)


def global_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm of all leaves together, float32: the sum of `optax.tree.norm`.

    Optax's takes ten operations a leaf, which are most of what an update takes to trace.
    """
    return jnp.sqrt(sum(_sum_of_squares(leaf) for leaf in jax.tree.leaves(tree)))


@jax.jit  # traced once for all leaves of a shape
def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Make what multiplies gradients by limit / (norm + 1e-6), where that is below 1, as PyTorch.

    Optax's divides every gradient by the norm: XLA for CPUs writes all quotients to memory.
    """

    def clip(gradients: Any, params: Any = None) -> Any:
        factor = jnp.minimum(1.0, limit / (global_norm(gradients) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def adamw(rate: optax.ScalarOrSchedule, settings: Optim) -> optax.GradientTransformation:
    """Make AdamW: p <- p - rate (a + weight_decay p); decay follows `adapted`."""
    s = settings
    return optax.adamw(rate, *s.betas, s.eps, weight_decay=s.weight_decay, mask=adapted)


OPTIMIZERS = {"lamb": lamb, "adamw": adamw}


def make_optimizer(settings: Optim, total_steps: int) -> optax.GradientTransformation:
    """Make the optimizer of a run: clip by global norm, then LAMB or AdamW at `schedule_of`.

    Args:
      settings: `config.optim`.
      total_steps: updates of the whole run.

    Returns:
      A transformation for `update(grads, state, params)`; `params` is required. Its updates are
      added to the parameters by `optax.apply_updates`.

    Raises:
      ValueError: an unknown name, or a warm-up longer than the run.
    """
    if settings.name not in OPTIMIZERS:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ValueError(f"optimizer must be one of {known}; got {settings.name!r}.")
    optimizer = OPTIMIZERS[settings.name](schedule_of(settings, total_steps), settings)
    optimizer = optax.chain(clip_by_global_norm(settings.clip_norm), optimizer)
    if settings.trainable == "all":
        return optimizer
    # Behind it once more: weight decay moves what has no gradient.
    return optax.chain(keep_newest_reward(), optimizer, keep_newest_reward())


def keep_newest_reward() -> optax.GradientTransformation:
    """Make what sets all updates to zero but those of the last reward token."""

    def keep(updates: Any, params: Any = None) -> Any:
        pairs, structure = jax.tree_util.tree_flatten_with_path(updates)
        leaves = {leaf_name(path): leaf for path, leaf in pairs}
        numbers = [int(n.split("/")[1]) for n in leaves if n.startswith("rewards/")]
        newest = f"rewards/{max(numbers)}/"
        for name, leaf in leaves.items():
            if name == "reward_positions/table":
                leaves[name] = leaf.at[:-1].set(0.0)
            elif not name.startswith(newest):
                leaves[name] = jnp.zeros_like(leaf)
        return jax.tree.unflatten(structure, list(leaves.values()))

    return optax.stateless(keep)


def schedule_of(settings: Optim, total_steps: int) -> optax.Schedule:
    """Return the `warmup_cosine` of a run."""
    s = settings
    return warmup_cosine(s.learning_rate, s.warmup_steps, total_steps, s.rate)
