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


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Make LAMB as in the head of this module; decay and trust ratio follow `adapted`."""
    return optax.chain(
        optax.scale_by_adam(*betas, eps),
        optax.add_decayed_weights(weight_decay, mask=adapted),
        optax.masked(optax.scale_by_trust_ratio(), adapted),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Make AdamW: p <- p - rate (a + weight_decay p); decay follows `adapted`."""
    return optax.adamw(learning_rate, *betas, eps, weight_decay=weight_decay, mask=adapted)


OPTIMIZERS = {"lamb": lamb, "adamw": adamw}


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    rate: float = 0.8,
    weight_decay: float = 0.01,
    clip_norm: float = 2.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Make the optimizer of a run: clip by global norm, then `name` at the rate of `warmup_cosine`.

    Args:
      name: a key of `OPTIMIZERS`.
      learning_rate, warmup_steps, total_steps, rate: see `warmup_cosine`.
      weight_decay: times the parameter, added to the Adam direction.
      clip_norm: highest global norm of the gradients, above 0. The authors divide by the norm +
        1e-6, we by the norm: a relative difference of 5e-7 at most where 2.0 clips.
      betas: decay of the first and the second moment.
      eps: added to the root of the second moment.

    Returns:
      A transformation for `update(grads, state, params)`; `params` is required. Its updates are
      added to the parameters by `optax.apply_updates`.

    Raises:
      ValueError: an unknown name, a clip_norm of 0 or less, or a warm-up longer than the run.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {sorted(OPTIMIZERS)}; got {name!r}.")
    if not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0 (inf for no clipping); got {clip_norm}.")
    schedule = warmup_cosine(learning_rate, warmup_steps, total_steps, rate)
    optimizer = OPTIMIZERS[name](schedule, weight_decay=weight_decay, betas=betas, eps=eps)
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
