"""The order of records by shards: what stands at each position of the stream of all epochs.

Each epoch takes the shards in a new order, some of them at a time: a window. The records of a
window come in an order of their own. So every epoch is a permutation of all records, as in the
order of single records, and whoever reads it needs few shards at a time. Which record stands at a
position depends on (seed, position) and the sizes of the shards only.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np


class ShardOrder:
    """Positions of the stream -> records.

    Args:
      counts: records of each shard. window: shards that are mixed at a time. seed: of the order.
    """

    def __init__(self, counts: Sequence[int], window: int, seed: int):
        self._starts = [0, *itertools.accumulate(counts)]
        self._counts, self._window, self._seed = np.asarray(counts), window, seed
        self._filled = np.flatnonzero(self._counts)
        # Of the newest epochs and windows: readers of a batch are at most a few apart.
        self._epoch = functools.lru_cache(4)(self._make_epoch)
        self._records = functools.lru_cache(4)(self._make_records)

    def __call__(self, position: int) -> int:
        """Return the record at a position."""
        epoch, window, offset = self._locate(position)
        return int(self._records(epoch, window)[offset])

    def shards_near(self, position: int) -> list[int]:
        """Return the shards of the window at a position, of the next one and of the one before."""
        epoch, window, _ = self._locate(position)
        last = len(self._epoch(epoch)[0]) - 1
        after = (epoch, window + 1) if window < last else (epoch + 1, 0)
        before = (epoch, window - 1) if window else (epoch - 1, last)
        near = [(epoch, window), after, *([before] if before[0] >= 0 else [])]
        shards = (self._epoch(e)[0][w].tolist() for e, w in near)
        return list(dict.fromkeys(itertools.chain.from_iterable(shards)))

    @property
    def most_shards(self) -> int:
        """How many shards `shards_near` names at most."""
        return min(3 * self._window, len(self._filled))

    def _locate(self, position: int) -> tuple[int, int, int]:
        """Return epoch, window and offset in the window of a position."""
        epoch, position = divmod(position, self._starts[-1])
        ends = self._epoch(epoch)[1]
        window = int(np.searchsorted(ends, position, side="right"))
        return epoch, window, position - (int(ends[window - 1]) if window else 0)

    def _make_epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the shards of each window of an epoch, and where in the epoch each window ends."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._filled)
        windows = [order[i : i + self._window] for i in range(0, len(order), self._window)]
        return windows, np.cumsum([self._counts[window].sum() for window in windows])

    def _make_records(self, epoch: int, window: int) -> np.ndarray:
        shards = self._epoch(epoch)[0][window]
        spans = [np.arange(self._starts[s], self._starts[s + 1]) for s in shards]
        rng = np.random.default_rng((self._seed, epoch, 1 + window))
        return rng.permutation(np.concatenate(spans))
