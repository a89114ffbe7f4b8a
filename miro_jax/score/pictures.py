"""From entries to scores, batch by batch: read, decode and prepare in threads ahead of the device.

A batch is `batch_size` entries that follow each other, also where some of them fail: another
picture takes the place of one that failed, and its score is thrown away. So a score depends neither
on which of its neighbours can be read nor on where a run was interrupted.

Letters: B entries of a batch, R rewards.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from miro_jax.budget import Budget
from miro_jax.images import BadImage, load_rgb
from miro_jax.rewards import base
from miro_jax.score.inputs import Cursor, Entry

_ENCODED = Budget(1 << 30)  # bytes of pictures that were read and wait to be decoded


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
class _Picture:
    """What a thread makes of an entry: prepared, see `base.prepare_image`; or why it failed."""

    width: int = 0
    height: int = 0
    prepared: dict[str, np.ndarray] | None = None
    cause: str = ""
    detail: str = ""

    @property
    def shapes(self) -> tuple:
        """What must be equal in a batch."""
        return tuple((name, array.shape) for name, array in sorted(self.prepared.items()))


def score_entries(
    entries: Iterable[Entry],
    rewards: Sequence[base.Reward],
    pool: ThreadPoolExecutor,
    batch_size: int,
    stored: bool,
) -> Iterator[Scored]:
    """Score entries in batches.

    Args:
        entries: in order.
        rewards: the R rewards.
        pool: prepares pictures, up to two batches ahead.
        batch_size: B; the last batch may be smaller.
        stored: scores are on the scale that records keep, and not on the model's own.
    """
    needs_caption = any(reward.needs_caption for reward in rewards)
    ahead = _ahead(pool, entries, rewards, needs_caption, 2 * batch_size)
    while batch := list(itertools.islice(ahead, batch_size)):
        yield _score(batch, rewards, stored)


def _ahead(pool, entries, rewards, needs_caption, count) -> Iterator[tuple[Entry, Future]]:
    """Yield each entry with its picture in the making, `count` of them ahead of the reader."""
    waiting = collections.deque()
    for entry in entries:
        _ENCODED.take(entry.num_bytes)
        future = pool.submit(_prepare, entry, rewards, needs_caption)
        future.add_done_callback(lambda _, size=entry.num_bytes: _ENCODED.give(size))
        waiting.append((entry, future))
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _prepare(entry: Entry, rewards: Sequence[base.Reward], needs_caption: bool) -> _Picture:
    if entry.problem:
        return _Picture(cause=entry.problem, detail=entry.detail)
    if needs_caption and not entry.caption:
        return _Picture(cause="missing caption")
    try:
        image = load_rgb(entry.read())
    except BadImage as error:
        return _Picture(cause=error.cause, detail=error.detail)
    height, width, _ = image.shape
    try:
        return _Picture(width, height, base.prepare_image(rewards, image))
    except ValueError as error:  # so narrow that no scorer can resize it
        return _Picture(cause="cannot be prepared", detail=str(error))


def _score(
    batch: list[tuple[Entry, Future]], rewards: Sequence[base.Reward], stored: bool
) -> Scored:
    entries = [entry for entry, _ in batch]
    pictures = [future.result() for _, future in batch]
    captions = [entry.caption or "" for entry in entries]
    scores = np.full((len(batch), len(rewards)), np.nan, np.float32)  # [B, R]
    failures = {row: (p.cause, p.detail) for row, p in enumerate(pictures) if p.cause}
    for rows, filled in _groups(pictures):
        prepared = base.stack_images([pictures[row].prepared for row in filled])
        texts = [{"caption": [captions[row] for row in rows]}]
        scores[rows] = base.score_prepared(rewards, prepared, texts, stored)[0]
    for row in range(len(batch)):
        if row not in failures and (cause := _not_finite(scores[row], rewards)):
            failures[row] = (cause, "")
    good = [row for row in range(len(batch)) if row not in failures]
    return Scored(
        keys=[entries[row].key for row in good],
        captions=[captions[row] or None for row in good],
        widths=[pictures[row].width for row in good],
        heights=[pictures[row].height for row in good],
        scores=scores[good],
        failures=[
            {"key": entries[row].key, "cause": failures[row][0], "detail": failures[row][1]}
            for row in sorted(failures)
        ],
        after=entries[-1].after,
        share=entries[-1].share,
    )


def _groups(pictures: Sequence[_Picture]) -> Iterator[tuple[list[int], list[int]]]:
    """Part a batch into what can be stacked; most rewards bring all pictures to one shape.

    Yields:
        Rows, and for each of them the row whose picture is in its place. Rows that failed are in
        the first group, with its first picture. Nothing where all failed.
    """
    groups: dict[tuple, list[int]] = {}
    for row, picture in enumerate(pictures):
        if not picture.cause:
            groups.setdefault(picture.shapes, []).append(row)
    failed = [row for row, picture in enumerate(pictures) if picture.cause]
    for rows in groups.values():
        first = rows[0]
        rows, failed = sorted(rows + failed), []
        yield rows, [first if pictures[row].cause else row for row in rows]


def _not_finite(scores: np.ndarray, rewards: Sequence[base.Reward]) -> str:
    """Name the first score [R] that is not finite and may not be missing, or return ""."""
    for score, reward in zip(scores, rewards, strict=True):
        missing_is_fine = getattr(reward, "may_be_missing", False) and np.isnan(score)
        if not np.isfinite(score) and not missing_is_fine:
            return f"score not finite: {reward.identity}"
    return ""
