"""A velocity field whose trajectories are known: an oracle for what learns from trajectories."""

import jax.numpy as jnp
import numpy as np

RATES = np.array([-0.7, 0.4, 1.1], np.float32)  # one for each channel
CHANNELS = RATES.reshape(1, 1, 1, 3)


def linear(x, t, carry):
    """dx/dt = a x + b t, a solution of which is known."""
    return CHANNELS * x + 0.5 * t, carry


def flow(x, t, r):
    """Where the linear field takes x from t to r, exactly."""

    def particular(s):  # a solution that does not depend on x
        return -0.5 * s / CHANNELS - 0.5 / CHANNELS**2

    return particular(r) + (x - particular(t)) * jnp.exp(CHANNELS * (r - t))


def average(x, t, r):
    """The average velocity from t to r."""
    return (x - flow(x, t, r)) / (t - r)
