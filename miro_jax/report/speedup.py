"""When a curve reaches a value: the two readings of a speed-up over a baseline.

    interpolated:  T / first_reach(m, b(T)), by straight lines between the steps
    checkpoint:    T / first_step(m, b(T)), the first step whose value is at or above

T is the baseline's last step. Letters: B resamplings, T steps, V values.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from miro_jax.report.statistics import ENDS


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


def speedup(
    baseline: np.ndarray, last: float, steps: np.ndarray, values: np.ndarray
) -> dict[str, Any]:
    """Return both readings of how much sooner a curve reaches the final value of a baseline.

    Args:
      baseline: [1 + B, T]. last: its last step. steps: [T']. values: [1 + B, T'].

    Returns:
      baseline: its final value; step, interpolated, checkpoint_step, checkpoint: None where the
      value is never reached, ratios also where it is at step 0; low, high: of `interpolated`, with
      B > 0, None where there is no bound; at_least: the curve stands above it at its first step.
    """
    final = baseline[:, -1]
    reached = first_reach(steps, values, final[: len(values), None])[:, 0]
    by_step = first_step(steps, values[0], float(final[0]))
    found: dict[str, Any] = {"baseline": float(final[0]), "within": float(steps[-1])}
    found["step"] = float(reached[0]) if math.isfinite(reached[0]) else None
    found["interpolated"] = last / found["step"] if found["step"] else None
    found["checkpoint_step"] = by_step if math.isfinite(by_step) else None
    found["checkpoint"] = last / by_step if by_step and math.isfinite(by_step) else None
    found["at_least"] = bool(values[0, 0] >= final[0])
    if found["step"] != 0 and len(reached) > 1:
        with np.errstate(divide="ignore", invalid="ignore"):  # some may be there at step 0
            ends = np.percentile(last / reached[1:], ENDS).tolist()
        found["low"], found["high"] = (end if math.isfinite(end) else None for end in ends)
    return found


def write_speedup(found: Mapping[str, Any]) -> str:
    """Write both readings."""
    if found["step"] is None:
        return f"not within {found['within']:,.0f} steps"
    if found["step"] == 0:
        return "at or above it from step 0 on"
    ends = [found[end] for end in ("low", "high") if end in found]
    words = ["no bound" if end is None else f"{end:.3g}" for end in ends]
    interval = f" ({' to '.join(words)})" if words else ""
    least = "at least " if found["at_least"] else ""
    return (
        f"{least}{found['interpolated']:.3g}x{interval} interpolated, "
        f"{found['checkpoint']:.3g}x by checkpoint"
    )
