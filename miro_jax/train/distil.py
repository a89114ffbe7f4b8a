"""One step of distillation: a student learns the jumps of its teacher's sampler.

The teacher is integrated from noise with guidance, as its sampler does it (Euler, N steps, latent
tokens carried along), for captions of the records, for levels and a guidance scale drawn at random:

    x_0 (noise, t = 1), x_1, ..., x_N (image, t = 0),      x_k at t_k = 1 - k / N

For a span from i to j the average velocity is known exactly,

    u = (x_i - x_j) / (t_i - t_j),

and the student regresses it. Spans are those of samplers with 1, 2, 4, ..., N steps, so that each
of these is learned; a span of one step is the teacher's own guided velocity. Step sizes in powers
of two are those of shortcut models (arXiv 2410.12557). Each error is divided by itself plus a
constant, as in Mean Flows (arXiv 2505.13447, section 4.3): long spans do not drown short ones.

Letters: B trajectories, S spans of each, N teacher steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from miro_jax.models.flow import squared_error
from miro_jax.models.rin import RIN
from miro_jax.models.sampler import Branch, Guidance, make_velocity
from miro_jax.models.solvers import Velocity, time_grid
from miro_jax.train.settings import Distillation
from miro_jax.train.state import TrainState
from miro_jax.train.step import apply_gradient, pad_together

Array = jax.Array
_END = 0.1  # of the range of levels, drawn beyond each end and counted as the end
_FLOOR = 1e-2  # added to an error where it divides itself; errors of a trained student are near it


def roll_out(velocity: Velocity, x: Array, carry: Any, num_steps: int) -> Array:
    """Integrate by Euler from noise x `[B, ...]`; returns all states `[N + 1, B, ...]`."""
    times = time_grid(num_steps)

    def step(state, interval):
        x, carry = state
        v, carry = velocity(x, interval[0], carry)
        x = x + (interval[1] - interval[0]) * v
        return (x, carry), x

    _, states = jax.lax.scan(step, (x, carry), (times[:-1], times[1:]))
    return jnp.concatenate([x[None], states])


def draw_spans(key: Array, count: int, num_steps: int) -> tuple[Array, Array]:
    """Draw first and last states `[count]` int32 of steps of samplers with 1, 2, 4, ..., N steps.

    Args:
      num_steps: N, a power of two.
    """
    of_length, of_start = jax.random.split(key)
    doublings = jax.random.randint(of_length, (count,), 0, num_steps.bit_length())
    sampler_steps = 2**doublings
    which = jax.random.randint(of_start, (count,), 0, 1 << 30) % sampler_steps
    length = num_steps // sampler_steps
    return which * length, (which + 1) * length


def draw_condition(key: Array, levels: Array, settings: Distillation) -> tuple[Array, Array]:
    """Draw the levels `[B, R]` and guidance scales `[B]` of trajectories.

    A share of the levels is that of the records. Of the others each is 1, the default of sampling,
    with a chance that is itself uniform for each trajectory, else uniform between 0 and 1 with a
    little more at both ends. So all rewards at 1 but one, which is what a dial requests, are seen
    as often as any other number of them: with a chance of one half they are 1 in 18, here 1 in 8.
    """
    keys = jax.random.split(key, 5)
    share = jax.random.uniform(keys[4], (levels.shape[0], 1))
    within = jax.random.uniform(keys[1], levels.shape, minval=-_END, maxval=1.0 + _END)
    at_one = jax.random.uniform(keys[0], levels.shape) < share
    drawn = jnp.where(at_one, 1.0, jnp.clip(within, 0.0, 1.0))
    own = jax.random.bernoulli(keys[2], settings.data_levels, (levels.shape[0], 1))
    scale = settings.max_guidance * jax.random.uniform(keys[3], (levels.shape[0],))
    return jnp.where(own, levels, drawn), scale


def make_targets(
    teacher: RIN, positive: Branch, negative: Branch, scale: Array, noise: Array, num_steps: int
) -> Array:
    """Return the states `[N + 1, B, H, W, C]` of the guided teacher; no gradient passes."""
    whole = Guidance(scale, jnp.array([0.0, 1.0], jnp.float32))
    velocity, carry = make_velocity(teacher, positive, negative, whole)
    return jax.lax.stop_gradient(roll_out(velocity, noise, carry, num_steps))


def jump_error(
    student: RIN, states: Array, branch: Branch, scale: Array, spans: tuple[Array, Array]
) -> Array:
    """Compare a student's average velocity with that of trajectories.

    Args:
      states: [N + 1, B, H, W, C]. branch, scale: of the B trajectories.
      spans: first and last states [B S] int; rows s B ... s B + B - 1 are of the B trajectories.

    Returns:
      [B S] float32, mean squared errors.
    """
    first, last = spans
    num_steps, batch = states.shape[0] - 1, states.shape[1]
    copies = first.shape[0] // batch
    rows = jnp.tile(jnp.arange(batch), copies)
    times = time_grid(num_steps)
    x, end = states[first, rows], states[last, rows]
    span = (times[first] - times[last]).reshape((-1,) + (1,) * (x.ndim - 1))
    condition, mask = student.encode_condition(branch.tokens, branch.mask, branch.levels)
    repeated = (jnp.concatenate([one] * copies) for one in (condition, mask, scale))
    condition, mask, scale = repeated
    velocity, _ = student(x, times[first], condition, mask, None, (times[last], scale))
    return squared_error(velocity, (x - end) / span)


def make_distil_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    settings: Distillation,
    ema_decay: float,
    negative: np.ndarray | None,
    seed: int,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Return the pure `step(state, batch, teacher) -> (state, metrics)`.

    The key of a step is `fold_in(key(seed), step)`, as in training. The teacher is the parameters
    and buffers of an untrained student, which is the same network.

    Args:
      graphdef: structure of the student.
      negative: caption tokens [n, E] of the negative branch; None repeats the caption.
    """

    def loss(params, buffers, teacher, batch, key):
        keys = jax.random.split(key, 3)
        levels, scale = draw_condition(keys[0], batch["levels"], settings)
        tokens, mask = batch["caption_tokens"], batch["caption_mask"]
        other = tokens, mask
        if negative is not None:
            tokens, mask, text, shown = pad_together(tokens, mask, negative)
            other = jnp.broadcast_to(text, tokens.shape), jnp.broadcast_to(shown, mask.shape)
        positive = Branch(tokens, mask, levels)
        against = Branch(*other, jnp.zeros_like(levels))
        student = nnx.merge(graphdef, params, buffers)
        noise = jax.random.normal(keys[1], (len(scale), *student.config.latent_shape))
        states = make_targets(
            nnx.merge(graphdef, *teacher), positive, against, scale, noise, settings.teacher_steps
        )
        count = len(scale) * settings.spans_per_trajectory
        spans = draw_spans(keys[2], count, settings.teacher_steps)
        error = jump_error(student, states, positive, scale, spans)
        whole = spans[1] - spans[0] == settings.teacher_steps
        return jnp.mean(error / jax.lax.stop_gradient(error + _FLOOR)), {
            "loss": jnp.mean(error),
            "loss_of_one_step": jnp.sum(error * whole) / jnp.maximum(jnp.sum(whole), 1),
        }

    def step(state: TrainState, batch: dict[str, Array], teacher: tuple):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = jax.grad(loss, has_aux=True)
        grads, metrics = gradient(state.params, state.buffers, teacher, batch, key)
        new_state, more = apply_gradient(state, grads, optimizer, schedule, ema_decay)
        return new_state, metrics | more

    return step
