"""From one piece of a source to its records: decode, encode, score.

Pictures are decoded once, by threads that run ahead; each image tower reads them once for both
captions; a caption that occurs twice in a batch is encoded once.

Letters: B batch, R rewards.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from miro_jax import images, records, sources
from miro_jax.rewards.base import score_all


@dataclasses.dataclass(frozen=True)
class Tools:
    """What samples are annotated with; see `annotate.plan`."""

    rewards: tuple[Any, ...]
    image_encoder: Any
    caption_encoder: Any
    image_size: int
    batch_size: int


@dataclasses.dataclass
class _Example:
    """A sample on its way through a batch. image: [size, size, 3] uint8."""

    position: int
    sample: sources.Sample
    caption: str
    synthetic: dict[str, str]
    width: int = 0
    height: int = 0
    image: np.ndarray | None = None


def annotate_piece(
    path: str,
    facts: dict,
    tools: Tools,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], object],
) -> Iterator[tuple[str, bytes]]:
    """Annotate the samples of one piece.

    Args:
        path: a tar file.
        facts: filled on the way: `num_samples` is counted up, `failures` gets one entry (piece,
            position, key, cause, detail) for each sample that cannot be used, in order, and one
            for damage of the archive. Holds `piece`, the name to enter there.
        tools: what to annotate with.
        pool: decodes pictures.
        progress: called with the number of samples just done.

    Yields:
        (key, encoded record) of each good sample, in order.
    """

    def fail(position, key, cause, detail=""):
        failure = {"piece": facts["piece"], "position": position, "key": key}
        facts["failures"].append({**failure, "cause": cause, "detail": detail})

    def usable():
        seen = set()
        try:
            for position, sample in enumerate(sources.tar_samples(path)):
                facts["num_samples"] += 1
                caption = _clean(sample.caption or "")
                cause = _cause_to_skip(sample, caption, seen)
                seen.add(sample.key)
                if cause:
                    fail(position, sample.key, cause)
                    continue
                synthetic = {form: _clean(text) for form, text in sample.synthetic.items()}
                synthetic = synthetic if all(synthetic.values()) else {}
                yield _Example(position, sample, caption, synthetic)
        except sources.DamagedTar as damage:
            detail = f"{facts['piece']} at byte {damage.offset}: {damage.reason}"
            fail(facts["num_samples"], "", "damaged tar", detail)

    batch = []
    for example, future in _ahead(pool, usable(), tools.image_size, 2 * tools.batch_size):
        try:
            example.width, example.height, example.image = future.result()
        except images.BadImage as error:
            fail(example.position, example.sample.key, error.cause, error.detail)
            continue
        batch.append(example)
        if len(batch) == tools.batch_size:
            yield from _annotate_batch(tools, batch, fail)
            progress(len(batch))
            batch = []
    if batch:
        yield from _annotate_batch(tools, batch, fail)
        progress(len(batch))
    facts["failures"].sort(key=lambda failure: failure["position"])


def _clean(caption: str) -> str:
    """Drop the placeholder that CC12M puts for names, and superfluous white space."""
    return " ".join(caption.replace("<PERSON>", " ").split())


def _cause_to_skip(sample: sources.Sample, caption: str, seen: set[str]) -> str:
    if sample.problem:
        return sample.problem
    if sample.key in seen:
        return "duplicate key"
    if sample.image is None:
        return "missing image"
    return "" if caption else "missing caption"


def _ahead(
    pool: ThreadPoolExecutor, examples: Iterable[_Example], size: int, count: int
) -> Iterator[tuple[_Example, Future]]:
    """Yield each example with its picture in the making, `count` of them ahead of the reader."""
    waiting = collections.deque()
    for example in examples:
        waiting.append((example, pool.submit(_load, example.sample.image, size)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _load(data: bytes, size: int) -> tuple[int, int, np.ndarray]:
    """Return width and height of the file's picture, and the picture cropped and resized."""
    image = images.load_rgb(data)
    return image.shape[1], image.shape[0], images.center_crop_resize(image, size)


def _annotate_batch(tools: Tools, batch: list[_Example], fail) -> Iterator[tuple[str, bytes]]:
    """Encode and score pictures that decoded; yield the records, report the others to `fail`."""
    pixels = np.stack([example.image for example in batch])  # [B, size, size, 3]
    captions = [example.caption for example in batch]
    texts = [{"caption": captions}]
    if any(example.synthetic for example in batch):
        # Samples without a synthetic caption get their own there; that score is not used.
        texts.append(
            {form: [e.synthetic.get(form, e.caption) for e in batch] for form in ("long", "short")}
        )
    scores = score_all(tools.rewards, pixels, texts)  # [B, R] for each set of captions
    means, stds = tools.image_encoder.encode(pixels)
    wanted = list(dict.fromkeys(captions + texts[-1].get("long", [])))
    tokens = dict(zip(wanted, tools.caption_encoder.encode(wanted), strict=True))
    may_be_missing = [getattr(reward, "may_be_missing", False) for reward in tools.rewards]
    for row, example in enumerate(batch):
        synthetic = example.synthetic.get("long")
        record = records.Record(
            key=example.sample.key,
            caption=example.caption,
            synthetic_caption=synthetic,
            width=example.width,
            height=example.height,
            image_mean=means[row],
            image_std=stds[row],
            caption_tokens=tokens[example.caption],
            synthetic_caption_tokens=None if synthetic is None else tokens[synthetic],
            scores=scores[0][row],
            synthetic_scores=None if synthetic is None else scores[1][row],
        )
        cause = _cause_of_bad_numbers(record, tools.rewards, may_be_missing)
        if cause:
            fail(example.position, record.key, cause)
        else:
            yield record.key, records.encode_record(record)


def _cause_of_bad_numbers(
    record: records.Record, rewards: Sequence[Any], may_be_missing: Sequence[bool]
) -> str:
    """Name the first array that holds a number it must not hold, or return ""."""
    for row in (record.scores, record.synthetic_scores):
        if row is None:
            continue
        bad = ~np.isfinite(row) & ~(np.isnan(row) & np.array(may_be_missing))
        if bad.any():
            return f"score not finite: {rewards[int(bad.argmax())].identity}"
    for name in ("image_mean", "image_std", "caption_tokens", "synthetic_caption_tokens"):
        array = getattr(record, name)
        if array is not None and not np.isfinite(array.astype(np.float32)).all():
            return f"{name} not finite"
    return ""
