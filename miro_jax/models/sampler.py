"""Sampling: guided velocity and solver in one jitted call, from noise to image latents.

The condition of each branch is encoded once per image: it depends on neither x_t nor t. Each
branch carries its own latent tokens from evaluation to evaluation (self-conditioning). Targets,
scales, the guidance interval, noise and prompts are traced: only shapes, the number of steps, the
solver and `guided` compile anew.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from miro_jax.models.compiling import inference_options
from miro_jax.models.guidance import guide
from miro_jax.models.rin import RIN
from miro_jax.models.sharding import constrain
from miro_jax.models.solvers import time_grid

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Branch:
    """The condition of one branch of guidance.

    Attributes:
      tokens: [B, L, E] caption tokens. mask: [B, L] bool.
      levels: [B, R] float32 in [0, 1], NaN = not requested.
    """

    tokens: Array
    mask: Array
    levels: Array


def sample_keys(seed: int, prompt_index: ArrayLike, sample_index: ArrayLike) -> Array:
    """Return the PRNG keys `[B]` of images; a image depends on these three numbers only.

    Args:
      seed: of the whole request.
      prompt_index, sample_index: [B] ints, which prompt and which of its images.
    """
    root = jax.random.key(seed)

    def one(prompt, sample):
        return jax.random.fold_in(jax.random.fold_in(root, prompt), sample)

    return jax.vmap(one)(jnp.asarray(prompt_index), jnp.asarray(sample_index))


@partial(jax.jit, static_argnames="shape")
def draw_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draw `[B, *shape]` float32 standard normal noise, one key a image."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """How much of guidance, and when.

    Attributes:
      scale: [B] float32, 0 is none.
      interval: [2] float32, guidance acts at times between the two (1 is noise, 0 is data).
    """

    scale: Array
    interval: Array


def make_velocity(
    model: RIN, positive: Branch, negative: Branch | None, guidance: Guidance
) -> tuple[Callable[..., tuple[Array, Array]], Array]:
    """Return `velocity(x, t, carry)` for a solver, and its first carry.

    Args:
      model: the network (`encode_condition` and `__call__` of `models.rin.RIN`).
      positive, negative: branches; without a negative one there is no guidance.
      guidance: unused without a negative branch.
    """
    branches = [positive] if negative is None else [positive, negative]
    stacked = jax.tree.map(lambda *x: constrain(jnp.concatenate(x), "batch"), *branches)
    condition, mask = model.encode_condition(stacked.tokens, stacked.mask, stacked.levels)
    rows = condition.shape[0]
    config = model.config
    first = jnp.zeros((rows, config.num_latent_tokens, config.latent_width), jnp.float32)

    def velocity(x, t, carry):
        both = jnp.concatenate([x] * len(branches))
        v, carry = model(both, jnp.full((rows,), t), condition, mask, carry)
        if negative is None:
            return v, carry
        v_pos, v_neg = jnp.split(v, 2)
        acts = (t >= guidance.interval[0]) & (t <= guidance.interval[1])
        return guide(v_pos, v_neg, jnp.where(acts, guidance.scale, 0.0)), carry

    return velocity, first


def take_jumps(model: RIN, x: Array, branch: Branch, guidance: Guidance, num_steps: int) -> Array:
    """Sample a student: x_r = x_t - (t - r) u(x_t, t, r, w), one evaluation a step.

    Args:
      model: the student. x: [B, H, W, C] noise. branch: positive targets.
      guidance: its scale is an input of the network.
      num_steps: evaluations, evenly spaced in time.
    """
    condition, mask = model.encode_condition(branch.tokens, branch.mask, branch.levels)
    times = time_grid(num_steps)

    def step(x, interval):
        t, end = (jnp.full((x.shape[0],), time) for time in interval)
        acts = (t >= guidance.interval[0]) & (t <= guidance.interval[1])
        scale = jnp.where(acts, guidance.scale, 0.0)
        velocity, _ = model(x, t, condition, mask, None, (end, scale))
        return x + (interval[1] - interval[0]) * velocity, None

    return jax.lax.scan(step, x, (times[:-1], times[1:]))[0]


def make_sampler(
    graphdef: nnx.GraphDef, solver: Callable[..., Array], num_steps: int
) -> Callable[..., Array]:
    """Return the jitted `sample(weights, noise, positive, negative, guidance, *, guided)`.

    Args:
      graphdef: structure of the network.
      solver: from `solvers.get_solver`.
      num_steps: solver steps.

    Returns:
      A function giving image latents [B, H, W, C] float32 on the network's scale. Its arguments:
      weights (tuple of nnx.State), noise [B, H, W, C] float32, two `Branch`es, `Guidance`, and the
      static `guided`: False skips the negative branch, which is what scale 0 means, at half
      the cost. A student has the scale as its input: the solver and the negative branch are unused.
    """

    @partial(jax.jit, static_argnames="guided", compiler_options=inference_options())
    def sample(weights: tuple, noise, positive, negative, guidance, *, guided: bool):
        model = nnx.merge(graphdef, *weights)
        if model.config.student:
            return take_jumps(model, constrain(noise, "batch"), positive, guidance, num_steps)
        negative = negative if guided else None
        velocity, carry = make_velocity(model, positive, negative, guidance)
        return solver(velocity, constrain(noise, "batch"), carry, num_steps)

    return sample


def make_evaluation(graphdef: nnx.GraphDef) -> Callable[..., tuple[Array, Array]]:
    """Return the jitted `evaluate(weights, x_t, t, branch, previous)` of one branch.

    Its arguments: weights, x_t [B, H, W, C], t [B], a `Branch`, previous latent tokens [B, M, D]
    (zeros for a first evaluation). It returns (velocity [B, H, W, C], latent tokens [B, M, D]).
    """

    @jax.jit
    def evaluate(weights: tuple, x_t, t, branch, previous):
        model = nnx.merge(graphdef, *weights)
        condition, mask = model.encode_condition(branch.tokens, branch.mask, branch.levels)
        return model(x_t, t, condition, mask, previous)

    return evaluate
