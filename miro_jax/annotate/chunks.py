"""From the samples of a piece to chunks of decoded pictures, ahead of the devices.

A chunk is `batch_size` samples that follow each other in the piece, usable or not: which ones they
are depends neither on where a run stopped nor on who runs it. One thread reads, others decode and
prepare, and the devices find the next chunk ready.

Letters: B pictures, H W picture.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from miro_jax.annotate.models import Prepared
from miro_jax.data.sources import Piece, Sample, causes, images
from miro_jax.rewards import base

T = TypeVar("T")


@dataclasses.dataclass
class Example:
    """A usable sample. position: in its piece. synthetic: {"long": text, "short": text}, or empty.

    width, height: pixels of the picture as it came. digest: of its file.
    """

    position: int
    key: str
    caption: str
    synthetic: dict[str, str]
    width: int = 0
    height: int = 0
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Batch:
    """B usable samples of a chunk, ready for the models of a group.

    prepared: for the rewards, see `base.stack_images`. squares: [B, size, size, 3] uint8 for each
    image encoder. refused: further ones that a model does not take, and why.
    """

    examples: list[Example] = dataclasses.field(default_factory=list)
    prepared: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    squares: tuple[np.ndarray, ...] = ()
    refused: list[tuple[Example, str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Chunk:
    """Samples that are annotated together.

    piece: that they are of. start: position of the first. missing: names of the groups of models
    that they still need. known: failures that other groups met before. count: samples so far,
    damage of the piece not counted. last: of its piece. failures: of samples that cannot be used,
    see `fail`.
    """

    piece: Piece
    start: int
    missing: tuple[str, ...]
    known: list[dict]
    count: int = 0
    last: bool = False
    failures: list[dict] = dataclasses.field(default_factory=list)
    waiting: list[tuple[Example, Future]] = dataclasses.field(default_factory=list)

    def fail(self, position: int, key: str, cause: str, detail: str = "") -> None:
        """Note that a sample cannot be used."""
        self.failures.append(failure(self.piece.id, position, key, cause, detail))

    def collect(self) -> dict[str, Batch]:
        """Wait for the pictures; return a batch for each missing group.

        Pictures that cannot be decoded become failures of the chunk.
        """
        found = []
        for example, future in self.waiting:
            try:
                picture = future.result()
            except images.BadImage as error:
                self.fail(example.position, example.key, error.cause, error.detail)
                continue
            example.width, example.height = picture.width, picture.height
            example.digest = picture.digest
            found.append((example, picture.prepared))
        self.waiting = []
        return {
            name: make_batch([(example, prepared[name]) for example, prepared in found])
            for name in self.missing
        }


def make_batch(found: Sequence[tuple[Example, Prepared]]) -> Batch:
    """Stack what a group of models takes."""
    refused = [(one, str(made)) for one, made in found if isinstance(made, ValueError)]
    taken = [(one, made) for one, made in found if not isinstance(made, ValueError)]
    if not taken:
        return Batch(refused=refused)
    return Batch(
        [example for example, _ in taken],
        base.stack_images([prepared for _, (prepared, _) in taken]),
        tuple(np.stack(one) for one in zip(*(squares for _, (_, squares) in taken), strict=True)),
        refused,
    )


def failure(piece: str, position: int, key: str, cause: str, detail: str = "") -> dict:
    """Return what is kept of a sample that cannot be used."""
    return {
        "piece": piece,
        "position": position,
        "key": key,
        "cause": causes.check(cause),
        "detail": detail,
    }


def read_chunks(
    piece: Piece,
    batch_size: int,
    missing: Callable[[int], tuple[tuple[str, ...], list[dict]]],
    decode: Callable[[Sample, tuple[str, ...]], Future],
) -> Iterator[Chunk]:
    """Cut a piece into chunks; the last one may be short, and is empty where the piece is.

    Args:
        piece: to be read.
        batch_size: samples in a chunk.
        missing: tells which groups the chunk that begins at a position needs, and the failures of
            the others.
        decode: starts to load a sample's picture for some groups.
    """
    chunk = Chunk(piece, 0, *missing(0))
    for position, sample in enumerate(piece.samples()):
        if position == chunk.start + batch_size:
            yield chunk
            chunk = Chunk(piece, position, *missing(position))
        chunk.count += sample.problem not in causes.OF_A_PIECE
        if sample.problem:
            chunk.fail(position, sample.key, sample.problem, sample.detail)
        elif chunk.missing:
            example = Example(position, sample.key, sample.caption, sample.synthetic)
            chunk.waiting.append((example, decode(sample, chunk.missing)))
    chunk.last = True
    yield chunk


def ahead(iterator: Iterator[T], count: int) -> Iterator[T]:
    """Yield what an iterator yields, `count` items ahead of the reader, by one thread."""
    end = object()
    with ThreadPoolExecutor(1, "reader") as reader:
        waiting = collections.deque(reader.submit(next, iterator, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(reader.submit(next, iterator, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()
