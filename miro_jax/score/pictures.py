"""From entries to scores, batch by batch: read, decode and prepare in threads ahead of the device.

A batch is `batch_size` entries that follow each other, also where some of them fail: another
picture takes the place of one that failed, and its score is thrown away. So a score depends neither
on which of its neighbours can be read nor on where a run was interrupted.

Letters: B entries of a batch, R rewards.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from miro_jax.annotate.loading import Loader, Picture
from miro_jax.data.sources import causes
from miro_jax.data.sources.images import BadImage
from miro_jax.rewards import base
from miro_jax.score.inputs import Cursor, Entry


@dataclasses.dataclass(frozen=True)
class Scored:
    """A batch when it is done.

    keys, captions, widths, heights: of the n pictures that have scores. scores: [n, R] float32.
    failures: key, cause, detail of the others. after, share: see `Entry`.
    """

    keys: list[str]
    captions: list[str | None]
    widths: list[int]
    heights: list[int]
    scores: np.ndarray
    failures: list[dict[str, str]]
    after: Cursor
    share: float

    @property
    def num_entries(self) -> int:
        """Entries of the batch, B."""
        return len(self.keys) + len(self.failures)


@dataclasses.dataclass(frozen=True)
class _Ready:
    """An entry whose picture is loaded, or why it could not be."""

    entry: Entry
    picture: Picture | None
    cause: str = ""
    detail: str = ""

    @property
    def shapes(self) -> tuple:
        """What must be equal in a batch."""
        prepared = self.picture.prepared
        return tuple((name, array.shape) for name, array in sorted(prepared.items()))


def score_entries(
    entries: Iterable[Entry],
    rewards: Sequence[base.Reward],
    loader: Loader,
    batch_size: int,
    stored: bool,
) -> Iterator[Scored]:
    """Score entries in batches.

    Args:
        entries: in order.
        rewards: the R rewards.
        loader: prepares pictures, up to two batches ahead.
        batch_size: B; the last batch may be smaller.
        stored: scores are on the scale that records keep, and not on the model's own.
    """
    ahead = _ahead(loader, entries, rewards, 2 * batch_size)
    while batch := [_ready(*pair) for pair in itertools.islice(ahead, batch_size)]:
        yield _score(batch, rewards, stored)


def _ahead(loader, entries, rewards, count) -> Iterator[tuple[Entry, Future | None]]:
    """Yield each entry with its picture in the making, `count` of them ahead of the reader."""
    prepare = functools.partial(base.prepare_image, rewards)
    waiting = collections.deque()
    for entry in entries:
        future = None if entry.sample.problem else loader.submit(entry.sample, prepare)
        waiting.append((entry, future))
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _ready(entry: Entry, future: Future | None) -> _Ready:
    """Wait for a picture."""
    if future is None:
        return _Ready(entry, None, entry.sample.problem, entry.sample.detail)
    try:
        return _Ready(entry, future.result())
    except BadImage as error:
        return _Ready(entry, None, error.cause, error.detail)


def _score(batch: list[_Ready], rewards: Sequence[base.Reward], stored: bool) -> Scored:
    samples = [one.entry.sample for one in batch]
    captions = [sample.caption or "" for sample in samples]
    scores = np.full((len(batch), len(rewards)), np.nan, np.float32)  # [B, R]
    failures = {row: (one.cause, one.detail) for row, one in enumerate(batch) if one.cause}
    for rows, filled in _groups(batch):
        prepared = base.stack_images([batch[row].picture.prepared for row in filled])
        texts = [{"caption": [captions[row] for row in rows]}]
        scores[rows] = base.score_prepared(rewards, prepared, texts, stored)[0]
    usable = base.usable(scores, rewards)
    for row in range(len(batch)):
        if row not in failures and not usable[row].all():
            first = rewards[int(usable[row].argmin())]
            failures[row] = ("score not finite", first.identity)
    good = [row for row in range(len(batch)) if row not in failures]
    return Scored(
        keys=[samples[row].key for row in good],
        captions=[captions[row] or None for row in good],
        widths=[batch[row].picture.width for row in good],
        heights=[batch[row].picture.height for row in good],
        scores=scores[good],
        failures=[
            {
                "key": samples[row].key,
                "cause": causes.check(failures[row][0]),
                "detail": failures[row][1],
            }
            for row in sorted(failures)
        ],
        after=batch[-1].entry.after,
        share=batch[-1].entry.share,
    )


def _groups(batch: Sequence[_Ready]) -> Iterator[tuple[list[int], list[int]]]:
    """Part a batch into what can be stacked; most rewards bring all pictures to one shape.

    Yields:
        Rows, and for each of them the row whose picture is in its place. Rows that failed are in
        the first group, with its first picture. Nothing where all failed.
    """
    groups: dict[tuple, list[int]] = {}
    for row, one in enumerate(batch):
        if not one.cause:
            groups.setdefault(one.shapes, []).append(row)
    failed = [row for row, one in enumerate(batch) if one.cause]
    for rows in groups.values():
        first = rows[0]
        rows, failed = sorted(rows + failed), []
        yield rows, [first if batch[row].cause else row for row in rows]
