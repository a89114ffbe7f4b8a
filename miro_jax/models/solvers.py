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

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Velocity = Callable[[Array, Array, Any], tuple[Array, Any]]
State = tuple[Any, ...]  # x `[B, ...]`, what the solver remembers, the carry of the velocity
Step = Callable[[Velocity, State, tuple[Array, ...]], State]


def time_grid(num_steps: int) -> Array:
    """Return `[num_steps + 1]` float32 times from 1 to 0, evenly spaced."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1; got {num_steps}.")
    return 1.0 - jnp.arange(num_steps + 1, dtype=jnp.float32) / num_steps


def _intervals(num_steps: int) -> tuple[Array, ...]:
    times = time_grid(num_steps)
    return times[:-1], times[1:]


@dataclasses.dataclass(frozen=True)
class Solver:
    """A solver step by step; calling it takes all steps in one compiled loop.

    Attributes:
      step: takes a state and what `grid` has for this step, which begins with t and t_next.
      grid: number of steps -> arrays `[num_steps]`, one entry for each step.
      start: (x, carry) -> the first state.
      last: the last step where it is another one.
      evaluations: number of steps -> how often the velocity is computed.
    """

    step: Step
    grid: Callable[[int], tuple[Array, ...]] = _intervals
    start: Callable[[Array, Any], State] = lambda x, carry: (x, carry)
    last: Step | None = None
    evaluations: Callable[[int], int] = lambda num_steps: num_steps

    def __call__(self, velocity: Velocity, x: Array, carry: Any, num_steps: int) -> Array:
        """Integrate x `[B, ...]` float32 from noise to data in `num_steps` steps."""
        grid, state = self.grid(num_steps), self.start(x, carry)
        many = grid if self.last is None else tuple(part[:-1] for part in grid)
        state, _ = jax.lax.scan(lambda s, now: (self.step(velocity, s, now), None), state, many)
        if self.last is not None:
            state = self.last(velocity, state, tuple(part[-1] for part in grid))
        return state[0]


def _euler_step(velocity: Velocity, state: State, now: tuple[Array, ...]) -> State:
    (x, carry), (t, t_next) = state, now
    v, carry = velocity(x, t, carry)
    return x + (t_next - t) * v, carry


def _heun_step(velocity: Velocity, state: State, now: tuple[Array, ...]) -> State:
    (x, carry), (t, t_next) = state, now
    v, carry = velocity(x, t, carry)
    v_next, carry = velocity(x + (t_next - t) * v, t_next, carry)
    return x + (t_next - t) * 0.5 * (v + v_next), carry


def _dpmpp_2m_grid(num_steps: int) -> tuple[Array, ...]:
    times = time_grid(num_steps)
    inside = jnp.clip(times, 1e-6, 1 - 1e-6)  # both ends are treated apart
    log_ratio = jnp.log1p(-inside) - jnp.log(inside)
    h = log_ratio[1:] - log_ratio[:-1]
    # How far the line through the last two guesses of x0 is followed.
    reach = jnp.concatenate([jnp.zeros(1), h[1:] / (2 * h[:-1])])
    first_order = jnp.isin(jnp.arange(num_steps), jnp.array([0, 1, num_steps - 1]))
    return times[:-1], times[1:], jnp.where(first_order, 0.0, reach)


def _dpmpp_2m_step(velocity: Velocity, state: State, now: tuple[Array, ...]) -> State:
    (x, last, carry), (t, t_next, reach) = state, now
    v, carry = velocity(x, t, carry)
    x0 = x - t * v
    ratio = t_next / t
    return ratio * x + (1 - ratio) * (x0 + reach * (x0 - last)), x0, carry


euler = Solver(_euler_step)
heun = Solver(_heun_step, last=_euler_step, evaluations=lambda num_steps: 2 * num_steps - 1)
dpmpp_2m = Solver(_dpmpp_2m_step, _dpmpp_2m_grid, lambda x, carry: (x, x, carry))
SOLVERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def get_solver(name: str) -> Solver:
    """Return a solver by name; ValueError lists the known ones."""
    if name not in SOLVERS:
        raise ValueError(f"The solver must be one of {', '.join(SOLVERS)}; got {name!r}.")
    return SOLVERS[name]
