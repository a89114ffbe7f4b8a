"""The best of a few candidates under noise, never worse than the first beyond chance.

Successive halving (Karnin, Koren and Somekh, 2013): each round gives all candidates that are left
the same number of evaluations, and the better half goes on. The first candidate, what is to be
improved, stays to the end. Evaluations of one number share their noise, so that differences are
taken pair by pair.
"""

from collections.abc import Callable

import numpy as np

ROUNDS = 3
_MARGIN = 1.0  # standard errors by which the best must exceed the first


def select(evaluate: Callable[[int, np.ndarray], np.ndarray], count: int, numbers: range) -> int:
    """Return the index of the best candidate; 0 unless another is better beyond a standard error.

    Args:
      evaluate: (index of a candidate, numbers [n] int) -> values [n].
      count: of the candidates.
      numbers: of all evaluations; a candidate gets the same ones as the others of its round.
    """
    values: list[np.ndarray] = [np.zeros(0)] * count
    alive, start = list(range(count)), numbers.start
    for turn in range(ROUNDS):
        stop = numbers.start + len(numbers) * (turn + 1) // ROUNDS
        each = (stop - start) // len(alive)
        if len(alive) < 2 or not each:
            continue
        for index in alive:
            new = evaluate(index, np.arange(start, start + each))
            values[index] = np.concatenate([values[index], new])
        others = sorted(alive[1:], key=lambda index: -values[index].mean())
        alive = [0, *others[: max(1, len(alive) // 2)]]
        start = stop
    if len(alive) < 2 or not len(values[0]):
        return 0
    best = alive[1]
    gain = values[best] - values[0][: len(values[best])]
    return best if gain.mean() > _MARGIN * gain.std() / np.sqrt(len(gain)) else 0
