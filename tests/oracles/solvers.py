"""DPM-Solver++ 2M of diffusers on a flow, over numpy arrays."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler


def dpm_solver_2m(
    velocity: Callable[[np.ndarray, float], np.ndarray], x: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Integrate dx/dt = velocity(x, t) along `times`, from 1 to 0."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        final_sigmas_type="zero",
        euler_at_final=True,
    )
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = torch.tensor(times, dtype=torch.float32)
    scheduler.timesteps = torch.arange(len(times) - 1)
    state = torch.tensor(x)
    for step, t in zip(scheduler.timesteps, times[:-1], strict=True):
        v = torch.tensor(velocity(state.numpy(), float(t)))
        state = scheduler.step(v, step, state).prev_sample
    return state.numpy()
