"""DPM-Solver++ against the scheduler of diffusers."""

import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models import solvers
from tests.oracles.solvers import dpm_solver_2m


@pytest.mark.parametrize("num_steps", [1, 2, 3, 8])
def test_dpmpp_2m_equals_the_scheduler_of_diffusers(num_steps):
    start = np.array([[0.3, -2.0], [1.5, 0.1]], np.float32)
    found = solvers.dpmpp_2m(
        lambda x, t, carry: ((1.0 + t) * x, carry), jnp.asarray(start), None, num_steps
    )
    times = np.asarray(solvers.time_grid(num_steps))
    expected = dpm_solver_2m(lambda x, t: (1.0 + t) * x, start, times)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
