"""Solvers: exact where they must be, of the right order, from t = 1 to t = 0, carrying a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models import solvers

SOLVERS = tuple(solvers.SOLVERS.values())


def steady(v):
    """The constant velocity v."""
    return lambda x, t, carry: (v, carry)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_velocity_is_integrated_exactly(solver, num_steps):
    rng = np.random.default_rng(0)
    x, noise = (jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for _ in range(2))
    found = solver(steady(noise - x), noise, None, num_steps)
    np.testing.assert_allclose(found, x, atol=2e-6)  # 50 additions in float32


def growth(x, t, carry):
    """dx/dt = (1 + t) x: x(0) = x(1) exp(-3/2)."""
    return (1.0 + t) * x, carry


@pytest.mark.parametrize(
    "solver, order",
    [(solvers.euler, 1), (solvers.heun, 2), (solvers.dpmpp_2m, 2)],
    ids=["euler", "heun", "dpmpp_2m"],
)
def test_error_falls_with_the_power_of_the_step(solver, order):
    """Heun's last step is Euler's: the error of that one step is of second order too."""
    exact = np.exp(-1.5)
    errors = [
        abs(float(solver(growth, jnp.ones((1,)), None, steps)[0]) - exact) for steps in (16, 32, 64)
    ]
    if solver is solvers.dpmpp_2m:  # errors of its first and inner steps partly cancel: on average
        assert abs(np.log2(errors[0] / errors[2]) / 2 - order) < 0.15
        return
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.15)


def test_heun_is_closer_than_euler_at_equal_evaluations():
    exact = np.exp(-1.5)
    heun, euler = (
        abs(float(solver(growth, jnp.ones((1,)), None, steps)[0]) - exact)
        for solver, steps in ((solvers.heun, 10), (solvers.euler, 20))
    )
    assert heun < euler / 3


@pytest.mark.parametrize(
    "solver, evaluations", [(solvers.euler, 5), (solvers.dpmpp_2m, 5), (solvers.heun, 9)]
)
def test_carry_passes_through_every_evaluation_once(solver, evaluations):
    """The velocity is the number of evaluations before it, so the result shows the order too."""

    def counting(x, t, carry):
        return carry, carry + 1.0

    x = solver(counting, jnp.zeros(()), jnp.zeros(()), 5)
    if solver is solvers.dpmpp_2m:
        assert x < -1  # how the counts are weighed is the next test's matter
        return
    counts = np.arange(evaluations)
    if evaluations == 9:  # pairs of a step are averaged, the last stands alone
        counts = np.append(counts[:8].reshape(4, 2).mean(axis=1), counts[8])
    np.testing.assert_allclose(x, -counts.sum() / 5, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_velocity_is_asked_from_noise_down_to_but_not_at_the_data(solver):
    """The velocity is defined for t in (0, 1]: training times never reach 0."""

    seen = []

    def spy(x, t, carry):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        return x, carry

    jax.block_until_ready(solver(spy, jnp.ones(()), None, 4))
    jax.effects_barrier()
    assert max(seen) == 1.0 and min(seen) == 0.25


def test_time_grid_is_even_from_one_to_zero():
    grid = np.asarray(solvers.time_grid(4))
    np.testing.assert_array_equal(grid, [1.0, 0.75, 0.5, 0.25, 0.0])
    assert grid.dtype == np.float32


@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps must be at least 1; got {num_steps}"):
        solvers.euler(steady(1.0), jnp.zeros(()), None, num_steps)


def test_one_heun_step_is_an_euler_step():
    start = jnp.array([0.3, -2.0])
    np.testing.assert_array_equal(
        solvers.heun(growth, start, None, 1), solvers.euler(growth, start, None, 1)
    )


def test_unknown_solver_lists_the_known_ones():
    with pytest.raises(ValueError, match="euler, heun, dpmpp_2m; got 'rk4'"):
        solvers.get_solver("rk4")
    assert solvers.get_solver("heun") is solvers.heun
