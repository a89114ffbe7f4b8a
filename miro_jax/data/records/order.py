"""The order of records by shards: what stands at each position of the stream of all epochs.

Each epoch takes the shards in a new order, some of them at a time: a window. The records of a
window come in an order of their own. So every epoch is a permutation of all records, as in the
order of single records, and whoever reads it needs few shards at a time. Which record stands at a
position depends on (seed, position), the sizes of the shards, the window and the lanes only.

Lanes let several hosts read different shards. An epoch's shards, in its order, are cut into as many
runs of records as there are lanes, all of one length but for a record; a lane has windows of its
own. Position i of the stream is of lane i mod lanes, and `row_position` gives neighbouring rows of
a batch to the same lane. So a host that reads some rows of every batch reads the shards of a few
lanes. Neither batch size nor hosts change what stands at a position.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def row_position(row: int, batch_size: int, lanes: int) -> int:
    """Return which position of a batch a row is: each lane has `batch_size / lanes` rows."""
    lane, offset = divmod(row, batch_size // lanes)
    return offset * lanes + lane


class ShardOrder:
    """Positions of the stream -> records.

    Args:
      counts: records of each shard. window: shards that are mixed at a time, by all lanes together.
      seed: of the order. lanes: see the module.

    Raises:
      ValueError: more lanes than records.
    """

    def __init__(self, counts: Sequence[int], window: int, seed: int, lanes: int = 1):
        self._starts = [0, *itertools.accumulate(counts)]
        if lanes > self._starts[-1]:
            raise ValueError(f"lanes must be at most the {self._starts[-1]} records; got {lanes}.")
        self._counts, self._seed, self._lanes = np.asarray(counts), seed, lanes
        self._window = -(-window // lanes)
        self._filled = np.flatnonzero(self._counts)
        # Of the newest epochs and windows: readers of a batch are at most a few apart.
        self._epoch = functools.lru_cache(4)(self._make_epoch)
        self._records = functools.lru_cache(4 * lanes)(self._make_records)

    def __call__(self, position: int) -> int:
        """Return the record at a position."""
        epoch, lane, window, offset = self._locate(position)
        return int(self._records(epoch, lane, window)[offset])

    def shards_near(self, position: int, lanes: Sequence[int] = (0,)) -> list[int]:
        """Return the shards of the windows of lanes from a position on, the first ones first.

        Those are the window that is read, the next one and the one before.
        """
        near: list[list[tuple[int, int, int]]] = [[], [], []]
        for lane in lanes:
            first = position + (lane - position) % self._lanes
            epoch, _, window, _ = self._locate(first)
            near[0].append((epoch, lane, window))
            near[1].append(self._neighbour(epoch, lane, window, 1))
            near[2].append(self._neighbour(epoch, lane, window, -1))
        windows = (
            self._epoch(e)[lane].windows[w] for e, lane, w in itertools.chain(*near) if e >= 0
        )
        return list(dict.fromkeys(shard for window in windows for shard, _, _ in window))

    def most_shards(self, lanes: Sequence[int] = (0,)) -> int:
        """Return how many shards `shards_near` names at most."""
        return min(3 * self._window * len(lanes), len(self._filled))

    def _neighbour(self, epoch: int, lane: int, window: int, step: int) -> tuple[int, int, int]:
        """Return the window before or after another one of a lane; the epoch is -1 at the start."""
        if 0 <= window + step < len(self._epoch(epoch)[lane].windows):
            return epoch, lane, window + step
        last = -1 if step < 0 else 0  # of the other epoch
        return epoch + step, lane, last

    def _locate(self, position: int) -> tuple[int, int, int, int]:
        """Return epoch, lane, window and offset in the window of a position."""
        epoch, inside = divmod(position, self._starts[-1])
        lane, offset = position % self._lanes, inside // self._lanes
        ends = self._epoch(epoch)[lane].ends
        window = int(np.searchsorted(ends, offset, side="right"))
        return epoch, lane, window, offset - (int(ends[window - 1]) if window else 0)

    def _make_epoch(self, epoch: int) -> list["_Lane"]:
        order = np.random.default_rng((self._seed, epoch)).permutation(self._filled)
        ends, total = np.cumsum(self._counts[order]), self._starts[-1]
        begins = ends - self._counts[order]
        lanes, low, number = [], 0, 0
        for lane in range(self._lanes):
            # As many records as the epoch has positions of this lane.
            high = low + len(range((lane - epoch * total) % self._lanes, total, self._lanes))
            pieces = []
            for i in range(np.searchsorted(ends, low, "right"), np.searchsorted(begins, high)):
                shift = self._starts[order[i]] - begins[i]
                span = max(low, begins[i]) + shift, min(high, ends[i]) + shift
                pieces.append((int(order[i]), *span))
            windows = [pieces[i : i + self._window] for i in range(0, len(pieces), self._window)]
            sizes = [sum(end - begin for _, begin, end in window) for window in windows]
            lanes.append(_Lane(windows, np.cumsum(sizes), number))
            low, number = high, number + len(windows)
        return lanes

    def _make_records(self, epoch: int, lane: int, window: int) -> np.ndarray:
        its = self._epoch(epoch)[lane]
        spans = [np.arange(begin, end) for _, begin, end in its.windows[window]]
        rng = np.random.default_rng((self._seed, epoch, 1 + its.number + window))
        return rng.permutation(np.concatenate(spans))


class _Lane(NamedTuple):
    """The windows of a lane in an epoch.

    Attributes:
      windows: of each the pieces of shards (shard, first record, end). ends: where in the lane.
      number: of its first window among those of all lanes.
    """

    windows: list[list[tuple[int, int, int]]]
    ends: np.ndarray
    number: int
