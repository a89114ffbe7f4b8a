"""Means over prompts and seeds with intervals: the resampling that all claims share.

An axis is a reward, the GenEval-like share of a category, or their mean over the categories. Its
value is the mean over seeds s and prompts p

    value = 1 / (S P) sum_sp u_s w_p x_sp

with all weights 1. For the interval, weights of seeds and of prompts are resampled B times, those
of prompts within each category, by the rescaled bootstrap (Rao and Wu, 1988)

    w = 1 + sqrt(n / (n - 1)) (m - 1),    m ~ multinomial(n, 1 / n)

whose variance is unbiased also for the few seeds of a study, where that of plain resampling is
(n - 1) / n of it. One prompt has the same weight in all runs, which see it with the same noise, so
that differences are paired over prompts; one seed has the same weight at all steps and settings of
a variant. One seed alone is not resampled: the interval is then over prompts only.

Letters: B resamplings, S seeds, P prompts, R rewards, A axes, N images of a prompt.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from miro_jax.evaluate.study.measured import BEST_OF, DEFAULT, Cell, Measured
from miro_jax.report.statistics import ENDS, Mean
from miro_jax.sample.curve import expected_best

GENEVAL = "geneval"  # the mean over categories; a category is "geneval/NAME"
RESAMPLES = 1000
_SEED = 0
# Bounds of what is estimated: of scores, of shares, of a share less another one.
ANY, SHARE, DIFFERENCE = (-math.inf, math.inf), (0.0, 1.0), (-1.0, 1.0)


def interval(rows: np.ndarray, bounds: tuple[float, float] = ANY) -> Mean:
    """Return the value of rows [1 + B], whose first is the estimate, with its interval."""
    return intervals(rows[:, None], bounds)[0]


def intervals(rows: np.ndarray, bounds: tuple[float, float] = ANY) -> list[Mean]:
    """Return the values of rows [1 + B, K].

    Args:
      bounds: of what is estimated. Rescaled weights of few seeds may be negative, so that a row
        lies beyond: as a share below 0 or above 1, where the interval is cut off. Differences are
        of rows as they are.
    """
    rows = np.clip(rows, *bounds)
    lows, highs = np.percentile(rows[1:], ENDS, axis=0).tolist()
    values = zip(rows[0].tolist(), lows, highs, strict=True)
    return [{"mean": mean, "low": low, "high": high} for mean, low, high in values]


def bounds_of(axis: str) -> tuple[float, float]:
    """Return the bounds of the value of an axis."""
    return SHARE if axis.split("/")[0] == GENEVAL else ANY


class Study:
    """The cells of a study as resampled values.

    Attributes:
      measured: see `Measured`.
      axes: [A], the rewards, "geneval/CATEGORY" of the set "report", "geneval".
      last: the largest step at which default images were measured; 0 without cells.
    """

    def __init__(self, measured: Measured):
        self.measured = measured
        names = dict.fromkeys(measured.categories.get("report", ()))
        self.axes = (*measured.rewards, *(f"{GENEVAL}/{name}" for name in names), GENEVAL)
        self._cells = {(c.variant, c.setting, c.step, c.seed): c for c in measured.cells}
        used = {n: c for n, c in measured.categories.items() if c}
        self._factors = {name: _category_factors(own) for name, own in used.items()}
        self._weights = {name: _prompt_weights(name, f) for name, f in self._factors.items()}
        self.last = max((c.step for c in measured.cells if c.setting == DEFAULT), default=0)

    @property
    def variants(self) -> list[str]:
        """Variants with default images at the last step, in the order of the cells."""
        names = dict.fromkeys(cell.variant for cell in self.measured.cells)
        return [name for name in names if self.seeds(name)]

    def seeds(self, variant: str, setting: str = DEFAULT, step: int | None = None) -> list[int]:
        """Return the seeds of a variant that have such a cell; of the last step unless given."""
        key = (variant, setting, self.last if step is None else step)
        return sorted(name[-1] for name in self._cells if name[:-1] == key)

    def steps(self, variant: str) -> list[int]:
        """Return the steps, ascending, at which all seeds have default images."""
        steps = {name[2] for name in self._cells if name[:2] == (variant, DEFAULT)}
        wanted = set(self.seeds(variant))
        return sorted(s for s in steps if wanted and wanted <= set(self.seeds(variant, step=s)))

    def has(self, variant: str, setting: str = DEFAULT) -> bool:
        """Return whether a variant has such cells, and default ones, at the last step."""
        return bool(self.seeds(variant, setting) and self.seeds(variant))

    def settings(self, variant: str, kind: str) -> dict[float, str]:
        """Return number after `kind` -> setting, of those that most seeds have at the last step."""
        names = {n[1] for n in self._cells if n[0] == variant and n[1].startswith(kind)}
        counts = {n: len(self.seeds(variant, n)) for n in names if self.has(variant, n)}
        most = max(counts.values(), default=0)
        return dict(sorted((float(n[len(kind) :]), n) for n, c in counts.items() if c == most))

    def values(
        self, variant: str, settings: Sequence[str] = (DEFAULT,), steps: Sequence[int] = ()
    ) -> np.ndarray:
        """Return the axes of one image a prompt, by the seeds that have all of the cells.

        Categories stand in the order of the settings' own prompts.

        Args:
          settings: of one set of prompts. steps: the last one where there are none.

        Returns:
          [1 + B, settings * steps, A].
        """
        keys = [(setting, step) for setting in settings for step in steps or (self.last,)]
        seeds = sorted(set.intersection(*(set(self.seeds(variant, *key)) for key in keys)))
        cells = [[self._cells[variant, *key, seed] for key in keys] for seed in seeds]
        x = np.array([[self._columns(cell) for cell in row] for row in cells])  # [S, keys, P, A]
        x = np.moveaxis(x, 2, 1).reshape(len(seeds), x.shape[2], -1)
        rows = self.resample(x, variant, self.measured.prompt_set(settings[0]), seeds)
        return rows.reshape(len(rows), len(keys), -1)

    def best(self, variant: str) -> np.ndarray:
        """Return the expected best of n = 1..N images, [1 + B, R + 1, N].

        Each reward is the best by itself; the last row is the share of prompts of which at least
        one of n images is right, as mean over categories.
        """
        seeds = self.seeds(variant, BEST_OF)
        cells = [self._cells[variant, BEST_OF, self.last, seed] for seed in seeds]
        right = np.stack([cell.right for cell in cells])  # [S, P, N]
        scores = np.moveaxis(np.stack([cell.scores for cell in cells]), -1, -2)  # [S, P, R, N]
        factors = self._factors[BEST_OF].mean(axis=1)
        right = expected_best(right) * factors[:, None]
        curves = np.concatenate([expected_best(scores), right[:, :, None]], axis=2)
        rows = self.resample(curves.reshape(*curves.shape[:2], -1), variant, BEST_OF, seeds)
        return rows.reshape(len(rows), *curves.shape[2:])

    def scores(self, variant: str, settings: list[str]) -> tuple[np.ndarray, list[int]]:
        """Return scores [settings, S, P, R] at the last step, and the seeds that have them all."""
        every = [set(self.seeds(variant, setting)) for setting in settings]
        seeds = sorted(set.intersection(*every))
        cells = [
            [self._cells[variant, one, self.last, s].scores for s in seeds] for one in settings
        ]
        return np.array(cells), seeds

    def resample(self, x: np.ndarray, variant: str, prompts: str, seeds: list[int]) -> np.ndarray:
        """Return the means [1 + B, K] of x [S, P, K]; row 0 is the plain one."""
        size, count = len(seeds), x.shape[1]
        over_prompts = self._weights[prompts] @ np.moveaxis(x, 1, 0).reshape(count, -1)
        by_seed = over_prompts.reshape(len(over_prompts), size, -1) / count
        key = zlib.crc32(f"{variant} {seeds}".encode())
        weights = _weights(size, np.random.default_rng([_SEED, key]))
        return np.einsum("bs,bsk->bk", weights, by_seed) / size

    def _columns(self, cell: Cell) -> np.ndarray:
        """Return [P, A]: its mean over prompts is the value of each axis."""
        factors = self._factors[self.measured.prompt_set(cell.setting)]
        shares = cell.right[:, None] * factors
        return np.concatenate([cell.scores, shares, shares.mean(axis=1, keepdims=True)], axis=1)


def _category_factors(categories: Sequence[str]) -> np.ndarray:
    """Return [P, categories]: 1 over the share of the prompt's own category, else 0."""
    own = np.array(categories)[:, None] == np.array(list(dict.fromkeys(categories)))
    return own / own.mean(axis=0)


def _prompt_weights(name: str, factors: np.ndarray) -> np.ndarray:
    """Return [1 + B, P], resampled within each category."""
    rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    weights = np.ones((1 + RESAMPLES, len(factors)))
    for own in factors.T > 0:
        weights[:, own] = _weights(own.sum(), rng)
    return weights


def _weights(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return [1 + B, count]; the first row is 1, and each has the mean 1."""
    weights = np.ones((1 + RESAMPLES, count))
    if count > 1:
        drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
        weights[1:] += math.sqrt(count / (count - 1)) * (drawn - 1)
    return weights
