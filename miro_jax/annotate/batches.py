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
from miro_jax.rewards.failure import naming

T = TypeVar("T")
MAX_WAITING_BYTES = 1 << 30  # of images that were read with their piece and wait to be decoded
_DIGEST_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the models of a group take of a chunk.

    samples: the usable ones. rows: where they stand in the batch. prepared: for the rewards,
    preprocessing -> [B, ...], or B arrays where they differ in shape. captions, synthetic: {form: B
    texts}; the latter None where no sample has any. squares: [B, size, size, 3] uint8 for each
    image encoder. refused: samples that a model does not take, and why.
    """

    samples: list[Sample]
    rows: list[int]
    prepared: dict[str, np.ndarray | list[np.ndarray]]
    captions: dict[str, list[str]]
    synthetic: dict[str, list[str]] | None
    squares: tuple[np.ndarray, ...]
    refused: list[tuple[Sample, str]]


@dataclasses.dataclass
class Chunk:
    """Samples of a piece that go through the models together.

    start: position of the first. missing: names of the groups of models that still need them.
    known: failures that other groups met before. needs_caption: an image without a usable caption
    is a failure, of the caption only where the image can be decoded. count: samples so far, damage
    of the piece not counted. last: of its piece. failures: of samples that cannot be used. texts:
    of each row its caption and its synthetic captions, where they can be read. waiting: images that
    are decoded.
    """

    piece: Piece
    start: int
    missing: tuple[str, ...]
    known: list[dict]
    needs_caption: bool = False
    count: int = 0
    last: bool = False
    failures: list[dict] = dataclasses.field(default_factory=list)
    texts: list[tuple[str | None, dict[str, str]]] = dataclasses.field(default_factory=list)
    waiting: list[tuple[Sample, Future]] = dataclasses.field(default_factory=list)

    def fail(self, sample: Sample, cause: str, detail: str = "") -> None:
        """Note that a sample cannot be used."""
        self.failures.append(failure(self.piece.id, sample, cause, detail))

    def collect(self, batch_size: int) -> dict[str, Batch]:
        """Wait for the images; return a batch for each missing group.

        Images that cannot be decoded become failures of the chunk.
        """
        decoded = []
        for sample, future in self.waiting:
            try:
                made = future.result()
            except images.BadImage as error:
                self.fail(sample, error.cause, error.detail)
            else:
                if self.needs_caption and sample.no_caption[0]:
                    self.fail(sample, *sample.no_caption)
                else:
                    decoded.append(made)
        self.waiting = []
        return {
            name: self._batch(
                [(sample, prepared[name]) for sample, prepared in decoded], batch_size
            )
            for name in self.missing
        }

    def _batch(self, prepared: Sequence[tuple[Sample, Prepared]], size: int) -> Batch:
        """Stack what a group of models takes."""
        refused = [(one, str(made)) for one, made in prepared if isinstance(made, ValueError)]
        taken = [(one, made) for one, made in prepared if not isinstance(made, ValueError)]
        samples = [sample for sample, _ in taken]
        rows = [sample.position - self.start for sample in samples]
        if not taken:
            return Batch([], [], {}, {}, None, (), refused)
        number_at = {row: number for number, row in enumerate(rows)}
        filled = [taken[number_at.get(row, 0)][1] for row in range(size)]
        captions, synthetic = self._captions(size, samples)
        return Batch(
            samples,
            rows,
            {name: _stack([images[name] for images, _ in filled]) for name in filled[0][0]},
            captions,
            synthetic,
            tuple(np.stack(one) for one in zip(*(squares for _, squares in filled), strict=True)),
            refused,
        )

    def _captions(
        self, size: int, samples: Sequence[Sample]
    ) -> tuple[dict[str, list[str]], dict[str, list[str]] | None]:
        """Return a caption for each row, and synthetic ones; the first one stands in."""
        first = next((s.caption for s in samples if s.caption is not None), "")
        texts = self.texts + [(None, {})] * (size - len(self.texts))
        captions = [first if caption is None else caption for caption, _ in texts]
        if not any(sample.synthetic for sample in samples):
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


def failure(piece: str, sample: Sample, cause: str, detail: str = "") -> dict:
    """Return what is stored of a sample that cannot be used."""
    return {
        "piece": piece,
        "position": sample.position,
        "key": sample.key,
        "cause": causes.check(cause),
        "detail": detail,
    }


def cut(
    piece: Piece,
    batch_size: int,
    needs_caption: bool,
    reads_every_image: bool,
    takes_synthetic: bool,
    missing: Callable[[int], tuple[tuple[str, ...], list[dict]]],
    decode: Callable[[Sample, tuple[str, ...]], Future],
) -> Iterator[Chunk]:
    """Cut a piece into chunks; the last one may be short, and is empty where the piece is.

    Args:
      piece: to be read. batch_size: samples of a chunk.
      needs_caption, reads_every_image, takes_synthetic: see `publish.Sink`.
      missing: start of a chunk -> the groups that still need it, the failures of the others.
      decode: starts to load a sample's image for some groups, see `Loader.submit`.
    """
    chunk = Chunk(piece, 0, *missing(0), needs_caption)
    samples = piece.samples(needs_caption and not reads_every_image)
    for position, sample in enumerate(samples):
        if position == chunk.start + batch_size:
            yield chunk
            chunk = Chunk(piece, position, *missing(position), needs_caption)
        chunk.count += sample.problem not in causes.OF_A_PIECE
        synthetic = sample.synthetic if takes_synthetic else {}
        sample = dataclasses.replace(sample, position=position, synthetic=synthetic, meta={})
        chunk.texts.append((sample.caption, synthetic) if _readable(sample) else (None, {}))
        if sample.problem:
            chunk.fail(sample, sample.problem, sample.detail)
        elif chunk.missing:
            is_used = not (needs_caption and sample.no_caption[0])
            future = decode(sample, chunk.missing if is_used else ())
            # What nobody reads any more must not stay in memory until the chunk is done.
            chunk.waiting.append((dataclasses.replace(sample, image=None), future))
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
          Of (the sample as decoded, {group: what its models take}), or BadImage.
        """
        size = sample.num_bytes
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


def _load(sample: Sample, models: Mapping[str, Loaded]) -> tuple[Sample, dict[str, Prepared]]:
    data = sample.read()
    image = images.load_rgb(data)
    digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    prepared: dict[str, Prepared] = {}
    for name, loaded in models.items():  # what a group gets does not depend on the others
        try:
            with naming([sample.key]):
                prepared[name] = loaded.prepare(image)
        except ValueError as error:  # a model has limits of its own, as of a side's length
            prepared[name] = error
    height, width, _ = image.shape
    sample = dataclasses.replace(sample, image=None, width=width, height=height, digest=digest)
    return sample, prepared
