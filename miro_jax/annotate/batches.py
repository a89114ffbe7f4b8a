"""From the samples of a piece to batches of one size, decoded ahead of the devices.

A chunk is `batch_size` samples that follow each other in the piece, usable or not: which ones they
are depends neither on where a run stopped nor on which process reads them. Its batch always has
`batch_size` rows, one for each sample: a row whose sample cannot be used, or that lies behind the
end of the piece, is filled with another image of the batch, and its result is thrown away. So
nothing is compiled for a last chunk or for an image that failed, and a failed image changes no
other result.

Letters: B rows of a batch.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from miro_jax.annotate.models import Loaded, Prepared
from miro_jax.data.sources import Piece, Sample, causes, images, texts
from miro_jax.data.sources.budget import Budget

T = TypeVar("T")
MAX_WAITING_BYTES = 1 << 30  # of images that were read with their piece and wait to be decoded
_DIGEST_BYTES = 8


@dataclasses.dataclass
class Example:
    """A sample that is usable so far.

    position: in its piece. synthetic: {"long": text, "short": text}, or empty. cause, detail: why
    it has no caption. width, height: pixels of the image as it came. digest: of its file.
    """

    position: int
    key: str
    caption: str | None
    synthetic: dict[str, str]
    cause: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the models of a group take of a chunk.

    examples: the usable ones. rows: where they stand in the batch. prepared: for the rewards,
    preprocessing -> [B, ...], or B arrays where they differ in shape. captions, synthetic: {form: B
    texts}; the latter None where no example has any. squares: [B, size, size, 3] uint8 for each
    image encoder. refused: examples that a model does not take, and why.
    """

    examples: list[Example]
    rows: list[int]
    prepared: dict[str, np.ndarray | list[np.ndarray]]
    captions: dict[str, list[str]]
    synthetic: dict[str, list[str]] | None
    squares: tuple[np.ndarray, ...]
    refused: list[tuple[Example, str]]


@dataclasses.dataclass
class Chunk:
    """Samples of a piece that go through the models together.

    start: position of the first. missing: names of the groups of models that still need them.
    known: failures that other groups met before. count: samples so far, damage of the piece not
    counted. last: of its piece. failures: of samples that cannot be used. texts: of each row its
    caption and its synthetic captions, where they can be read. waiting: images that are decoded.
    """

    piece: Piece
    start: int
    missing: tuple[str, ...]
    known: list[dict]
    count: int = 0
    last: bool = False
    failures: list[dict] = dataclasses.field(default_factory=list)
    texts: list[tuple[str | None, dict[str, str]]] = dataclasses.field(default_factory=list)
    waiting: list[tuple[Example, Future]] = dataclasses.field(default_factory=list)

    def fail(self, position: int, key: str, cause: str, detail: str = "") -> None:
        """Note that a sample cannot be used."""
        self.failures.append(failure(self.piece.id, position, key, cause, detail))

    def collect(self, batch_size: int) -> dict[str, Batch]:
        """Wait for the images; return a batch for each missing group.

        Images that cannot be decoded become failures of the chunk.
        """
        decoded = []
        for example, future in self.waiting:
            try:
                example.width, example.height, example.digest, prepared = future.result()
            except images.BadImage as error:
                self.fail(example.position, example.key, error.cause, error.detail)
                continue
            decoded.append((example, prepared))
        self.waiting = []
        return {
            name: self._batch([(one, prepared[name]) for one, prepared in decoded], batch_size)
            for name in self.missing
        }

    def _batch(self, prepared: Sequence[tuple[Example, Prepared]], size: int) -> Batch:
        """Stack what a group of models takes."""
        refused = [(one, str(made)) for one, made in prepared if isinstance(made, ValueError)]
        taken = [(one, made) for one, made in prepared if not isinstance(made, ValueError)]
        examples = [example for example, _ in taken]
        rows = [example.position - self.start for example in examples]
        if not taken:
            return Batch([], [], {}, {}, None, (), refused)
        number_at = {row: number for number, row in enumerate(rows)}
        filled = [taken[number_at.get(row, 0)][1] for row in range(size)]
        captions, synthetic = self._captions(size, examples)
        return Batch(
            examples,
            rows,
            {name: _stack([images[name] for images, _ in filled]) for name in filled[0][0]},
            captions,
            synthetic,
            tuple(np.stack(one) for one in zip(*(squares for _, squares in filled), strict=True)),
            refused,
        )

    def _captions(
        self, size: int, examples: Sequence[Example]
    ) -> tuple[dict[str, list[str]], dict[str, list[str]] | None]:
        """Return a caption for each row, and synthetic ones; the first one stands in."""
        first = next((e.caption for e in examples if e.caption is not None), "")
        texts = self.texts + [(None, {})] * (size - len(self.texts))
        captions = [first if caption is None else caption for caption, _ in texts]
        if not any(example.synthetic for example in examples):
            return {"caption": captions}, None
        forms = {
            # Rows without a synthetic caption get their own; that score is not used.
            form: [s.get(form, own) for (_, s), own in zip(texts, captions, strict=True)]
            for form in ("long", "short")
        }
        return {"caption": captions}, forms


def _stack(prepared: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Make one array of images of one shape."""
    return np.stack(prepared) if len({one.shape for one in prepared}) == 1 else prepared


def failure(piece: str, position: int, key: str, cause: str, detail: str = "") -> dict:
    """Return what is stored of a sample that cannot be used."""
    return {
        "piece": piece,
        "position": position,
        "key": key,
        "cause": causes.check(cause),
        "detail": detail,
    }


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pieces are read.

    batch_size: samples of a chunk. needs_caption: a sample without a caption is a failure.
    takes_synthetic: synthetic captions are used.
    """

    batch_size: int
    needs_caption: bool
    takes_synthetic: bool

    def chunks(
        self,
        piece: Piece,
        missing: Callable[[int], tuple[tuple[str, ...], list[dict]]],
        decode: Callable[[Sample, tuple[str, ...]], Future],
    ) -> Iterator[Chunk]:
        """Cut a piece into chunks; the last one may be short, and is empty where the piece is.

        Args:
          piece: to be read.
          missing: start of a chunk -> the groups that still need it, the failures of the others.
          decode: starts to load a sample's image for some groups.
        """
        chunk = Chunk(piece, 0, *missing(0))
        for position, sample in enumerate(piece.samples(self.needs_caption)):
            if position == chunk.start + self.batch_size:
                yield chunk
                chunk = Chunk(piece, position, *missing(position))
            chunk.count += sample.problem not in causes.OF_A_PIECE
            synthetic = sample.synthetic if self.takes_synthetic else {}
            chunk.texts.append((sample.caption, synthetic) if _readable(sample) else (None, {}))
            if sample.problem:
                chunk.fail(position, sample.key, sample.problem, sample.detail)
            elif chunk.missing:
                example = Example(
                    position, sample.key, sample.caption, synthetic, *sample.no_caption
                )
                chunk.waiting.append((example, decode(sample, chunk.missing)))
        chunk.last = True
        yield chunk


def _readable(sample: Sample) -> bool:
    """Return whether the texts of a sample can be read, usable or not."""
    every = [sample.caption, *sample.synthetic.values()]
    return all(isinstance(text, str) and not texts.check(text)[0] for text in every)


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


class Loader:
    """Reads, decodes and prepares images in threads; a context manager.

    Args:
      num_threads: that decode.
    """

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(num_threads, "decoder")
        self._waiting = Budget(MAX_WAITING_BYTES)

    def submit(self, sample: Sample, models: Mapping[str, Loaded]) -> Future:
        """Begin to load an image for groups of models; waits while too many bytes wait.

        Returns:
          Of (width, height, digest of the file, {group: what its models take}), or BadImage.
        """
        # What nobody reads any more must not stay in memory until the image is decoded.
        sample, size = dataclasses.replace(sample, meta={}), sample.num_bytes
        self._waiting.take(size)
        future = self._pool.submit(_load, sample, models)
        future.add_done_callback(lambda _: self._waiting.give(size))
        return future

    def stop(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown()


def _load(sample: Sample, models: Mapping[str, Loaded]) -> tuple[int, int, str, dict]:
    data = sample.read()
    image = images.load_rgb(data)
    digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    prepared: dict[str, Prepared] = {}
    for name, loaded in models.items():  # what a group gets does not depend on the others
        try:
            prepared[name] = loaded.prepare(image)
        except ValueError as error:  # a model has limits of its own, as of a side's length
            prepared[name] = error
    return image.shape[1], image.shape[0], digest, prepared
