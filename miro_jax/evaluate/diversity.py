r"""How diverse images are, and how far their distribution is from that of others: Vendi, CMMD.

With unit features x_i of n images and their cosines K_ij = <x_i, x_j>

    Vendi      exp(-sum_k l_k log l_k),  l the eigenvalues of K / n; from 1 (all alike) to n
    distance   mean over pairs i < j of 1 - K_ij
    CMMD       1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)),
               k(x, y) = exp(-|x - y|^2 / (2 * 10^2)), diagonals included: the biased estimator

All are computed in float64: CMMD is a small difference of numbers near 1. A CMMD or a Vendi score
of a whole set depends on n, and both on the model of the features: numbers of other n or another
model are not compared.

Sources: Friedman and Dieng 2023 (arXiv 2210.02410); Jayasumana et al. 2024 (arXiv 2401.09603).

Letters: n m images, E width of the features.
"""

import numpy as np

BANDWIDTH, SCALE = 10.0, 1000.0  # of CMMD
_ROWS = 1024  # of a block of pairs
_UNIT = 1e-3  # by which the length of a feature may differ from 1


def vendi(features: np.ndarray) -> float:
    """Return the Vendi score of unit features [n, E]: the effective number of distinct images.

    Raises:
      ValueError: there is none, or one is not of length 1.
    """
    x = _checked(features)
    few = x @ x.T if len(x) <= x.shape[1] else x.T @ x  # equal eigenvalues, but for zeros
    values = np.linalg.eigvalsh(few / len(x))
    values = values[values > 0]
    return float(np.exp(-np.sum(values * np.log(values))))


def mean_distance(features: np.ndarray) -> float:
    """Return the mean cosine distance of all pairs of unit features [n, E], n >= 2."""
    x = _checked(features)
    if len(x) < 2:
        raise ValueError(f"a distance needs two images; got {len(x)}.")
    pairs = np.square(x.sum(axis=0)).sum() - np.square(x).sum()
    return float(1 - pairs / (len(x) * (len(x) - 1)))


def cmmd(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the CMMD of unit features [n, E] and [m, E]; 0 for the same set.

    Raises:
      ValueError: a set is empty, features are not of length 1, or widths differ.
    """
    x, y = _checked(features), _checked(reference)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both sets must have one width; got {x.shape[1]} and {y.shape[1]}.")
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of k over all pairs, block by block."""
    squares, total = np.square(y).sum(axis=1), 0.0
    for start in range(0, len(x), _ROWS):
        block = x[start : start + _ROWS]
        apart = np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ y.T
        total += np.exp(-np.maximum(apart, 0) / (2 * BANDWIDTH**2)).sum()
    return total / (len(x) * len(y))


def _checked(features: np.ndarray) -> np.ndarray:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"features must be [n, E] with n >= 1; got {x.shape}.")
    lengths = np.linalg.norm(x, axis=1)
    if not np.abs(lengths - 1).max() < _UNIT:
        worst = int(np.abs(lengths - 1).argmax())
        raise ValueError(
            f"features must have length 1; that of image {worst} is {lengths[worst]:g}."
        )
    return x
