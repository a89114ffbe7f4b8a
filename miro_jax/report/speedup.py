"""When a curve reaches a value: the two readings of a speed-up over a baseline.

    interpolated:  T / first_reach(m, b(T)), by straight lines between the steps
    checkpoint:    T / first_step(m, b(T)), the first step whose value is at or above

T is the baseline's last step. Letters: B resamplings, T steps, V values.
"""

import math

import numpy as np


def first_reach(steps: np.ndarray, curves: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the updates [B, V] after which curves [B, T] first reach values [B, V].

    Straight lines join the steps [T]. A value below the start gives the first step, one that is
    never reached infinity.
    """
    highest = np.maximum.accumulate(curves, axis=1)
    after = (highest[:, None, :] < values[:, :, None]).sum(axis=2)  # [B, V], index
    right = np.clip(after, 1, len(steps) - 1)
    rows = np.arange(len(curves))[:, None]
    low, high = curves[rows, right - 1], curves[rows, right]  # after a dip, not the highest
    rise = np.where(high > low, high - low, 1.0)
    share = np.clip((values - low) / rise, 0, 1)
    reached = steps[right - 1] + share * (steps[right] - steps[right - 1])
    return np.where(after == len(steps), math.inf, np.where(after == 0, steps[0], reached))


def first_step(steps: np.ndarray, curve: np.ndarray, value: float) -> float:
    """Return the first step [T] at which a curve [T] is at or above a value; infinity for none."""
    reached = np.flatnonzero(curve >= value)
    return float(steps[reached[0]]) if len(reached) else math.inf
