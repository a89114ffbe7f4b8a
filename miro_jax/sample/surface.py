"""The maximum of a noisy function on a box, from one evaluation a point: a response surface.

    y = a_g + sum_j (b_j x_j + c_j x_j^2) + noise

is fitted by least squares to points that fill the box evenly, where a_g is one constant for each
group of evaluations (a prompt). The sum has its maximum where each term has its own. A second round
does the same in the half of the box around the first maximum, with the points of both (response
surface methodology: Box and Wilson, 1951). A point is evaluated once: noise is averaged by the fit,
over all points at once, so that the evaluations need not be repeated.

`benchmarks/target_search.py` compares it with CMA-ES and with search along the coordinates.
Letters: N evaluations, D coordinates, G groups.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import qmc

ROUNDS = 2
SHRINK = 0.5  # side of the next round's box
_RIDGE = 1.0  # in evaluations: keeps coordinates that were never varied at 0
_GRID = 101  # points of a coordinate, of which the best is taken


@dataclasses.dataclass(frozen=True)
class Box:
    """The part of space that is searched. low, high: [D] float64."""

    low: np.ndarray
    high: np.ndarray

    def around(self, point: np.ndarray, outer: "Box") -> "Box":
        """Return the smaller box with a point in its middle, cut to the outer one."""
        half = (self.high - self.low) * SHRINK / 2
        low = np.clip(point - half, outer.low, outer.high)
        return Box(low, np.clip(point + half, outer.low, outer.high))


def spread(box: Box, count: int, seed: int, steps: np.ndarray) -> np.ndarray:
    """Return `count` points that fill a box evenly, [N, D] float64 (scrambled Sobol).

    Args:
      steps: [D] int, how many values a coordinate takes, ends included; 0 is any.
    """
    exponent = max(count - 1, 1).bit_length()
    share = qmc.Sobol(len(box.low), seed=seed).random_base2(exponent)[:count]
    stepped = np.floor(share * steps) / np.maximum(steps - 1, 1)
    return box.low + np.where(steps > 0, stepped, share) * (box.high - box.low)


def peak(points: np.ndarray, values: np.ndarray, groups: np.ndarray, box: Box) -> np.ndarray:
    """Return where the fitted surface is highest in a box, [D] float64.

    Args:
      points: [N, D]. values: [N]. groups: [N] int, each with a constant of its own.
    """
    middle, dimensions = (box.low + box.high) / 2, points.shape[1]
    features = np.concatenate([points - middle, (points - middle) ** 2], axis=1)
    table = np.concatenate([features, values[:, None]], axis=1)
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((group.max() + 1, table.shape[1]))
    np.add.at(sums, group, table)
    table = table - (sums / np.bincount(group)[:, None])[group]
    features, target = table[:, :-1], table[:, -1]
    width = np.maximum((box.high - box.low) / 2, 1e-12)
    scale = np.concatenate([width, width**2])  # so that the ridge knows no units
    scaled = features / scale
    normal = scaled.T @ scaled + _RIDGE * np.eye(2 * dimensions)
    linear, square = np.split(np.linalg.solve(normal, scaled.T @ target) / scale, 2)
    grid = np.linspace(box.low, box.high, _GRID)  # [_GRID, D]
    offset = grid - middle
    best = np.argmax(linear * offset + square * offset**2, axis=0)
    return grid[best, np.arange(dimensions)]


def maximise(
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    outer: Box,
    budget: int,
    num_groups: int = 1,
    seed: int = 0,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    """Return where a noisy function is highest, [D] float64.

    Args:
      evaluate: (points [n, D], their numbers [n] int) -> values [n], once a round.
      outer: where to search. budget: evaluations, N.
      num_groups: G; evaluation i belongs to group i mod G.
      seed: of the points. steps: see `spread`; None is any value.
    """
    steps = np.zeros(len(outer.low), int) if steps is None else steps
    box, point = outer, outer.high
    points, values = np.zeros((0, len(outer.low))), np.zeros(0)
    for turn in range(ROUNDS):
        first, last = budget * turn // ROUNDS, budget * (turn + 1) // ROUNDS
        new = spread(box, last - first, seed + turn, steps)
        values = np.concatenate([values, evaluate(new, np.arange(first, last))])
        points = np.concatenate([points, new])
        point = peak(points, values, np.arange(last) % num_groups, box)
        box = box.around(point, outer)
    return point
