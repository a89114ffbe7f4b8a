"""Solvers of dx/dt = v(x, t) from t = 1 (noise) to t = 0 (data), with a carried network memory.

    euler: x' = x + (t' - t) v(x, t)                          first order, 1 evaluation
    heun:  x' = x + (t' - t) (v(x, t) + v(x_euler, t')) / 2   second order, 2 evaluations
    dpmpp_2m:  x' = (t' / t) x + (1 - t' / t) D               second order, 1 evaluation
               D = x0 + (x0 - x0_last) h / (2 h_last),  x0 = x - t v,  h = l(t') - l(t)
               with l(t) = log((1 - t) / t), half the log of the signal-to-noise ratio

The last is DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) for x_t = (1 - t) x +
t noise. l is infinite at t = 1 and t = 0: the first two steps and the last have D = x0, which is
Euler's step.

`velocity(x, t, carry) -> (v, carry)`: the carry holds the latent tokens of the last evaluation
(self-conditioning). State is float32. Heun's last step is an Euler step, as is usual, because the
velocity at exactly t = 0 is outside the range of training times.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Velocity = Callable[[Array, Array, Any], tuple[Array, Any]]


def time_grid(num_steps: int) -> Array:
    """Return `[num_steps + 1]` float32 times from 1 to 0, evenly spaced."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}.")
    return 1.0 - jnp.arange(num_steps + 1, dtype=jnp.float32) / num_steps


def euler(velocity: Velocity, x: Array, carry: Any, num_steps: int) -> Array:
    """Integrate x `[B, ...]` from noise to data with `num_steps` Euler steps."""
    times = time_grid(num_steps)

    def step(state, interval):
        x, carry = state
        t, t_next = interval
        v, carry = velocity(x, t, carry)
        return (x + (t_next - t) * v, carry), None

    (x, _), _ = jax.lax.scan(step, (x, carry), (times[:-1], times[1:]))
    return x


def heun(velocity: Velocity, x: Array, carry: Any, num_steps: int) -> Array:
    """Integrate x `[B, ...]` with `num_steps` Heun steps, the last one Euler's."""
    times = time_grid(num_steps)

    def step(state, interval):
        x, carry = state
        t, t_next = interval
        v, carry = velocity(x, t, carry)
        v_next, carry = velocity(x + (t_next - t) * v, t_next, carry)
        return (x + (t_next - t) * 0.5 * (v + v_next), carry), None

    (x, carry), _ = jax.lax.scan(step, (x, carry), (times[:-2], times[1:-1]))
    v, _ = velocity(x, times[-2], carry)
    return x + (times[-1] - times[-2]) * v


def dpmpp_2m(velocity: Velocity, x: Array, carry: Any, num_steps: int) -> Array:
    """Integrate x `[B, ...]` with `num_steps` steps of DPM-Solver++ 2M."""
    times = time_grid(num_steps)
    inside = jnp.clip(times, 1e-6, 1 - 1e-6)  # both ends are treated apart
    log_ratio = jnp.log1p(-inside) - jnp.log(inside)
    h = log_ratio[1:] - log_ratio[:-1]
    # How far the line through the last two guesses of x0 is followed.
    reach = jnp.concatenate([jnp.zeros(1), h[1:] / (2 * h[:-1])])
    first_order = jnp.isin(jnp.arange(num_steps), jnp.array([0, 1, num_steps - 1]))
    reach = jnp.where(first_order, 0.0, reach)

    def step(state, interval):
        x, last, carry = state
        t, t_next, reach = interval
        v, carry = velocity(x, t, carry)
        x0 = x - t * v
        ratio = t_next / t
        x = ratio * x + (1 - ratio) * (x0 + reach * (x0 - last))
        return (x, x0, carry), None

    (x, _, _), _ = jax.lax.scan(step, (x, x, carry), (times[:-1], times[1:], reach))
    return x


SOLVERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def get_solver(name: str) -> Callable[..., Array]:
    """Return a solver by name; ValueError lists the known ones."""
    if name not in SOLVERS:
        raise ValueError(f"The solver must be one of {', '.join(SOLVERS)}; got {name!r}.")
    return SOLVERS[name]
