"""Candidates for the maximum of a noisy function on a box, from one evaluation a point.

A response surface

    y = a_g + sum_j (b_j x_j + c_j x_j^2) + noise

is fitted by least squares to points that fill the box evenly, where a_g is one constant for each
group of evaluations (a prompt). The sum has its maximum where each term has its own. A second round
does the same in the half of the box around the first maximum, with the points of both (response
surface methodology: Box and Wilson, 1951). A point is evaluated once: noise is averaged by the fit,
over all points at once, so that the evaluations need not be repeated.

Where the function is flat, the maximum of the fit is noise. So a coordinate leaves the start only
where the gain of the fit over it exceeds a number of its standard errors, the caution. Fits of
several cautions are candidates, which `halving` compares with the start.

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
CAUTIONS = (0.0, 1.0, 2.0)  # standard errors by which a gain must exceed 0
_SAME = 0.02  # of the box: candidates that differ by less in all coordinates are one


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


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted surface: b_j (x_j - m_j) + c_j (x_j - m_j)^2, m the middle of a box.

    Attributes:
      box: where it was fitted. linear, square: [D], b and c.
      covariance: [D, 2, 2] of each pair (b_j, c_j).
    """

    box: Box
    linear: np.ndarray
    square: np.ndarray
    covariance: np.ndarray

    def peak(self, start: np.ndarray, caution: float = 0.0) -> np.ndarray:
        """Return where the gain over `start` less `caution` standard errors is largest, [D]."""
        middle = (self.box.low + self.box.high) / 2
        grid = np.linspace(self.box.low, self.box.high, _GRID)
        grid = np.concatenate([start[None], grid])  # [1 + _GRID, D]; nothing is gained at the start
        offset, origin = grid - middle, start - middle
        terms = np.stack([offset - origin, offset**2 - origin**2], axis=-1)
        gain = terms[..., 0] * self.linear + terms[..., 1] * self.square
        variance = np.einsum("gdi,dij,gdj->gd", terms, self.covariance, terms)
        gain -= caution * np.sqrt(np.maximum(variance, 0))
        if caution == 0:
            gain[0] = -np.inf  # the maximum of the box, even where the start is outside of it
        return grid[np.argmax(gain, axis=0), np.arange(len(start))]


def fit(points: np.ndarray, values: np.ndarray, groups: np.ndarray, box: Box) -> Fit:
    """Fit a surface by least squares.

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
    solution = np.linalg.solve(normal, scaled.T @ target)
    left = len(values) - len(sums) - 2 * dimensions  # degrees of freedom
    noise = np.sum((target - scaled @ solution) ** 2) / max(left, 1)
    linear, square = np.split(solution / scale, 2)
    inverse = noise * np.linalg.inv(normal) / np.outer(scale, scale)
    pairs = inverse.reshape(2, dimensions, 2, dimensions)
    return Fit(box, linear, square, np.einsum("idjd->dij", pairs))


def propose(
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    outer: Box,
    budget: int,
    start: np.ndarray,
    num_groups: int = 1,
    seed: int = 0,
    steps: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Return candidates for where a noisy function is highest, [D] float64 each.

    The first is the maximum of the last fit. The others are more cautious, or lie halfway to the
    start; those that equal the start or one another are left out.

    Args:
      evaluate: (points [n, D], their numbers [n] int) -> values [n], once a round.
      outer: where to search. budget: evaluations, N. start: [D], what is to be improved.
      num_groups: G; evaluation i belongs to group i mod G.
      seed: of the points. steps: see `spread`; None is any value.
    """
    steps = np.zeros(len(outer.low), int) if steps is None else steps
    box = outer
    points, values = np.zeros((0, len(outer.low))), np.zeros(0)
    found: list[np.ndarray] = []
    for turn in range(ROUNDS):
        first, last = budget * turn // ROUNDS, budget * (turn + 1) // ROUNDS
        new = spread(box, last - first, seed + turn, steps)
        values = np.concatenate([values, evaluate(new, np.arange(first, last))])
        points = np.concatenate([points, new])
        fitted = fit(points, values, np.arange(last) % num_groups, box)
        found = [*(fitted.peak(start, caution) for caution in CAUTIONS), *found[1:2]]
        box = box.around(found[0], outer)
    found.append((start + found[0]) / 2)
    width, kept = np.maximum(outer.high - outer.low, 1e-12), [start]
    for point in found:
        if not any(np.all(np.abs(point - one) <= _SAME * width) for one in kept):
            kept.append(point)
    return kept[1:]
