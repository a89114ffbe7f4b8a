"""Sampling: guided velocity and solver in one jitted call, from noise to image latents.

The condition of each branch is encoded once per image: it depends on neither x_t nor t. Each
branch carries its own latent tokens from evaluation to evaluation (self-conditioning). Targets,
scales, the guidance interval, noise and prompts are traced: only shapes, the number of steps, the
solver, the rule and schedule of guidance and `guided` compile anew.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from miro_jax.models import compiling
from miro_jax.models.guidance import guide, guide_apg, guide_cfg_zero, linear_schedule
from miro_jax.models.rin import RIN
from miro_jax.models.sharding import constrain
from miro_jax.models.slices import by_slices
from miro_jax.models.solvers import Solver, State, time_grid

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
    """Return the PRNG keys `[B]` of images; an image depends on these three numbers only.

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
    """Draw `[B, *shape]` float32 standard normal noise, one key an image."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guidance:
    """How much of guidance, and when.

    Attributes:
      scale: [B] float32, 0 is none.
      interval: [2] float32, guidance acts at times between the two (1 is noise, 0 is data).
      rule: "cfg", "cfg_zero" or "apg", see `models.guidance`.
      schedule: "constant" or "linear", of the scale over time.
      numbers: float32 of the rule: [1] zero, [3] eta, norm, momentum; None for "cfg".
    """

    scale: Array
    interval: Array
    rule: str = dataclasses.field(default="cfg", metadata={"static": True})
    schedule: str = dataclasses.field(default="constant", metadata={"static": True})
    numbers: Any = None


def encode_branches(model: RIN, *branches: Branch) -> tuple[Array, Array]:
    """Return the encoded conditions of branches and their mask, see `side_by_side`."""
    both = jax.tree.map(side_by_side, *branches)
    return model.encode_condition(both.tokens, both.mask, both.levels)


def side_by_side(*branches: Array) -> Array:
    """Join arrays `[B, ...]` of b branches, those of an image next to each other: `[b B, ...]`.

    They stay on the device that has the image; one branch after the other would send each step's.
    """
    batch, *rest = branches[0].shape  # a network without rewards has no levels: -1 is not known
    return constrain(jnp.stack(branches, axis=1).reshape(batch * len(branches), *rest), "batch")


def make_velocity(
    model: RIN, positive: Branch, negative: Branch | None, guidance: Guidance
) -> tuple[Callable[..., tuple[Array, Any]], Any]:
    """Return `velocity(x, t, carry)` for a solver, and its first carry.

    Args:
      model: the network (`encode_condition` and `__call__` of `models.rin.RIN`).
      positive, negative: branches; without a negative one there is no guidance.
      guidance: unused without a negative branch.
    """
    branches = [positive] if negative is None else [positive, negative]
    encoded = encode_branches(model, *branches)
    guided = negative is not None
    velocity = guided_velocity(model, encoded, guidance, guided)
    return velocity, first_carry(model, encoded, guidance, guided)


def first_carry(model: RIN, encoded: tuple[Array, Array], guidance: Guidance, guided: bool) -> Any:
    """Return what precedes the first evaluation, zeros float32.

    The latent tokens [B, M, D]; of APG also the average of its changes, [B, H, W, C].
    """
    config, rows = model.config, encoded[0].shape[0]
    tokens = jnp.zeros((rows, config.num_latent_tokens, config.latent_width), jnp.float32)
    if guided and guidance.rule == "apg":
        return tokens, jnp.zeros((rows // 2, *config.latent_shape), jnp.float32)
    return tokens


def guided_velocity(
    model: RIN, encoded: tuple[Array, Array], guidance: Guidance, guided: bool
) -> Callable[..., tuple[Array, Any]]:
    """Return `velocity(x, t, carry)` of encoded branches; see `make_velocity`."""
    condition, mask = encoded

    def velocity(x, t, carry):
        both = side_by_side(x, x) if guided else x
        tokens, *average = carry if isinstance(carry, tuple) else (carry,)
        v, tokens = model(both, jnp.full((len(both),), t), condition, mask, tokens)
        if not guided:
            return v, tokens
        pairs = v.reshape(-1, 2, *v.shape[1:])
        v_pos, v_neg = pairs[:, 0], pairs[:, 1]
        acts = (t >= guidance.interval[0]) & (t <= guidance.interval[1])
        scale = jnp.where(acts, guidance.scale, 0.0)
        if guidance.schedule == "linear":
            scale = linear_schedule(scale, t)
        if guidance.rule == "apg":
            given = v_pos, v_neg, scale, x, t
            v, changes = guide_apg(*given, average[0], guidance.numbers)
            return v, (tokens, changes)
        if guidance.rule == "cfg_zero":
            return guide_cfg_zero(v_pos, v_neg, scale, t, guidance.numbers[0]), tokens
        return guide(v_pos, v_neg, scale), tokens

    return velocity


def _jump(model: RIN, encoded: tuple[Array, Array], guidance: Guidance) -> Callable[..., Array]:
    """Return a student's step: x_r = x_t - (t - r) u(x_t, t, r, w)."""

    def step(x, interval):
        t, end = (jnp.full((x.shape[0],), time) for time in interval)
        acts = (t >= guidance.interval[0]) & (t <= guidance.interval[1])
        scale = jnp.where(acts, guidance.scale, 0.0)
        velocity, _ = model(x, t, *encoded, None, (end, scale))
        return x + (interval[1] - interval[0]) * velocity

    return step


def take_jumps(model: RIN, x: Array, branch: Branch, guidance: Guidance, num_steps: int) -> Array:
    """Sample a student, one evaluation a step.

    Args:
      model: the student. x: [B, H, W, C] noise. branch: positive targets.
      guidance: its scale is an input of the network.
      num_steps: evaluations, evenly spaced in time.
    """
    encoded = model.encode_condition(branch.tokens, branch.mask, branch.levels)
    times = time_grid(num_steps)
    step = _jump(model, encoded, guidance)
    return jax.lax.scan(lambda x, now: (step(x, now), None), x, (times[:-1], times[1:]))[0]


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

    @partial(jax.jit, static_argnames="guided", compiler_options=compiling.options())
    def sample(weights: tuple, noise, positive, negative, guidance, *, guided: bool):
        model = nnx.merge(graphdef, *weights)

        def of_rows(noise, positive, negative, scale):
            rest = dataclasses.replace(guidance, scale=scale)
            if model.config.student:
                return take_jumps(model, constrain(noise, "batch"), positive, rest, num_steps)
            velocity, carry = make_velocity(model, positive, negative, rest)
            return solver(velocity, constrain(noise, "batch"), carry, num_steps)

        negative = negative if guided else None
        return by_slices(of_rows, noise, positive, negative, guidance.scale)

    return sample


def make_stepper(
    graphdef: nnx.GraphDef, solver: Solver
) -> tuple[Callable[..., tuple[Any, State]], Callable[..., State]]:
    """Return the sampler of `make_sampler` in two jitted parts, to be stepped from the host.

    Args:
      graphdef: structure of the network.
      solver: from `solvers.get_solver`; a student takes its own steps.

    Returns:
      `start(weights, noise, positive, negative, guidance, *, guided) -> (encoded, state)`, with
      the encoded branches, and `step(weights, encoded, guidance, state, now, *, guided, last) ->
      state`, where `now` is the entry of `solver.grid` for this step, `last` whether it is the
      last one, and the first entry of a state is x [B, H, W, C] float32.
    """

    @partial(jax.jit, static_argnames="guided", compiler_options=compiling.options())
    def start(weights: tuple, noise, positive, negative, guidance, *, guided: bool):
        model = nnx.merge(graphdef, *weights)
        encoded = encode_branches(model, *([positive, negative] if guided else [positive]))
        x = constrain(noise, "batch")
        if model.config.student:
            return encoded, (x,)
        return encoded, solver.start(x, first_carry(model, encoded, guidance, guided))

    @partial(jax.jit, static_argnames=("guided", "last"), compiler_options=compiling.options())
    def step(weights: tuple, encoded, guidance, state, now, *, guided: bool, last: bool):
        model = nnx.merge(graphdef, *weights)
        if model.config.student:
            return (_jump(model, encoded, guidance)(state[0], now[:2]),)
        velocity = guided_velocity(model, encoded, guidance, guided)
        take = solver.last if last and solver.last is not None else solver.step
        return take(velocity, state, now)

    return start, step


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
