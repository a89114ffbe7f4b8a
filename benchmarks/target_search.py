"""Ways to maximise a noisy function of reward levels with a fixed number of images.

    pip install cmaes
    python benchmarks/target_search.py              # minutes on one core

Functions of eight coordinates in [0, 1], each maximal at a random point with 40 % of its
coordinates at 1: a sum of parabolas, a parabola with interactions, a bump. Each evaluation is one
image with noise of the given standard deviation. Printed: the mean loss against the true maximum
over random functions; that of the start (all at 1) stands first.

CMA-ES and the search along coordinates average 32 images an evaluation, as one batch gives them;
the response surface is `miro_jax.sample.surface` with `miro_jax.sample.halving`.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from cmaes import CMA
from scipy.optimize import minimize

sys.path.insert(0, str(Path(__file__).parent.parent))

from miro_jax.sample import halving
from miro_jax.sample.search import EXPLORING
from miro_jax.sample.surface import Box, propose

D, GROUP, LEVELS = 8, 32, (0.0, 0.25, 0.5, 0.75, 1.0)


def parabolas(rng, center):
    weights = rng.uniform(0.1, 1, D)
    return lambda x: -np.sum(weights / weights.sum() * (x - center) ** 2, -1)


def interactions(rng, center):
    matrix = rng.normal(size=(D, D))
    matrix = matrix @ matrix.T / np.trace(matrix @ matrix.T)
    return lambda x: -np.einsum("...i,ij,...j->...", x - center, matrix, x - center)


def bump(rng, center):
    weights = rng.uniform(0.1, 1, D)
    weights /= weights.sum()
    return lambda x: 0.5 * np.exp(-4 * np.sum(weights * np.abs(x - center) ** 1.5, -1))


def make(kind, seed):
    """Return a function and its maximum in the box."""
    rng = np.random.default_rng(seed)
    center = np.where(rng.random(D) < 0.4, 1.0, rng.uniform(0.1, 1, D))
    value = kind(rng, center)
    found = minimize(lambda x: -value(x), center, bounds=[(0, 1)] * D)
    return value, max(-found.fun, value(center))


def surface(noisy, budget, seed):
    box, start = Box(np.zeros(D), np.ones(D)), np.ones(D)
    exploring = round(EXPLORING * budget)
    points = [start, *propose(lambda p, _: noisy(p), box, exploring, start, seed=seed)]

    def evaluate(index, numbers):
        return noisy(np.tile(points[index], (len(numbers), 1)))

    return points[halving.select(evaluate, len(points), range(exploring, budget))]


def cma_es(noisy, budget, seed):
    one = CMA(np.full(D, 0.75), 0.25, bounds=np.array([[0, 1]] * D), seed=seed)
    for _ in range(budget // (GROUP * one.population_size)):
        asked = [one.ask() for _ in range(one.population_size)]
        one.tell([(x, -noisy(np.tile(x, (GROUP, 1))).mean()) for x in asked])
    return np.clip(one.mean, 0, 1)


def coordinates(noisy, budget, seed):
    rng, x = np.random.default_rng(seed), np.ones(D)
    turns = budget // (GROUP * len(LEVELS))
    order = np.concatenate([rng.permutation(D) for _ in range(turns // D + 1)])
    for coordinate in order[:turns]:
        tries = np.tile(x, (len(LEVELS), 1))
        tries[:, coordinate] = LEVELS
        x = tries[np.argmax([noisy(np.tile(one, (GROUP, 1))).mean() for one in tries])]
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", type=int, default=40)
    count = parser.parse_args().functions
    warnings.simplefilter("ignore")
    for kind in (parabolas, interactions, bump):
        functions = [make(kind, seed) for seed in range(count)]
        start = np.mean([best - value(np.ones(D)) for value, best in functions])
        for noise in (0.2, 0.5):
            for budget in (1024, 4096):
                losses = []
                for way in (surface, cma_es, coordinates):
                    lost = []
                    for seed, (value, best) in enumerate(functions):
                        rng = np.random.default_rng(1000 + seed)

                        def noisy(x, value=value, rng=rng, noise=noise):
                            return value(x) + noise * rng.normal(size=len(x))

                        lost.append(best - value(way(noisy, budget, seed)))
                    losses.append(f"{way.__name__} {np.mean(lost):.3f}")
                case = f"{kind.__name__}, noise {noise}, {budget} images"
                print(f"{case}: start {start:.3f}, {', '.join(losses)}", flush=True)


if __name__ == "__main__":
    main()
