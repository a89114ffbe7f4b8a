"""The engine: chunks of pieces through the groups of models, stored as parts, published.

What runs at the same time: one thread reads pieces, some decode and prepare images two chunks
ahead, one makes the next batch of them, this one runs the models, one writes parts and publishes
pieces.
"""

import collections
import contextlib
import functools
import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from miro_jax.annotate import origin, parts
from miro_jax.annotate.batches import Batch, Chunk, Loader, ahead, cut, failure
from miro_jax.annotate.compute import Trouble, compute
from miro_jax.annotate.models import Group
from miro_jax.annotate.parts import Fields, Part
from miro_jax.annotate.plan import Job
from miro_jax.annotate.publish import discard_changed, merge_failures
from miro_jax.annotate.tally import MIN_SAMPLES, Tally
from miro_jax.cli.exit import note
from miro_jax.cli.progress import Progress
from miro_jax.data.printable import counted
from miro_jax.data.sources import Piece, Sample, causes, expected_samples
from miro_jax.data.storage import Folder
from miro_jax.data.storage.ahead import map_ahead
from miro_jax.rewards.failure import naming

_CHUNKS_AHEAD = 2
_CHUNKS_BEHIND = 2  # that wait to be written
log = logging.getLogger("miro_jax")


def work_on(job: Job, name: str, report: Callable[[str], object] = log.info) -> None:
    """Run the groups of a job over its pieces; publish the pieces that all groups have done.

    Args:
      name: shown beside the progress. report: takes the speed of each pass, in words.

    Raises:
      TooManyFailures: more samples failed than may; finished work is kept.
      ValueError, OSError: models cannot be loaded or are others than before, or the storage fails.
      RewardFailed: a reward raised; it names the reward and the keys of the images.
    """
    _try_unreachable_again(job)
    _work_once(job, name, report)
    # A damaged part, as a power cut leaves it, shows when its piece is to be published.
    if job.groups == job.toolbox.groups and job.missing_pieces(job.pieces):
        _work_once(job, name, report)


def _try_unreachable_again(job: Job) -> None:
    """Forget what an earlier start made without images whose server gave no answer."""
    folder, begun = job.listed(), job.begun_pieces()

    def forget(piece: Piece) -> int:
        job.sink.discard_spoiled(folder, piece.number)
        if (facts := _facts_of(job, folder, piece.number)) is not None:
            count = _unreachable(facts["failures"])
            if count:
                job.sink.discard(folder, piece.number)
            return count
        return _forget_parts(job, piece.number) if piece.number in begun else 0

    if number := sum(map_ahead(forget, job.pieces)):
        were, again = ("was", "it is") if number == 1 else ("were", "they are")
        note(f"{counted(number, 'image')} {were} unreachable; {again} tried again")


def _forget_parts(job: Job, piece: int) -> int:
    """Delete the parts without images whose server gave no answer; return how many images."""
    lost: set[int] = set()
    for part in parts.list_parts(job.folder, piece):
        file = parts.part_name(piece, *part)
        made = parts.load_part(job.folder, file)
        if made is not None and _unreachable(made.failures):
            job.folder.remove(file)
            lost |= {f["position"] for f in made.failures if _unreachable([f])}
    return len(lost)


def _facts_of(job: Job, folder: Folder, piece: int) -> Mapping[str, Any] | None:
    """Return num_samples and failures of a piece; None where it is not published.

    folder: see `Job.listed`.
    """
    if not job.sink.is_done(folder, piece):
        return None
    try:
        return job.sink.facts(folder, piece)
    except FileNotFoundError:
        if job.sink.is_done(job.folder, piece):
            raise
        return None  # another process discarded it


def _unreachable(failures: Sequence[Mapping[str, Any]]) -> int:
    return sum(failure["cause"] == causes.UNREACHABLE for failure in failures)


def _work_once(job: Job, name: str, report: Callable[[str], object]) -> None:
    sets = [(group,) for group in job.groups] if job.settings.one_by_one else [job.groups]
    for number, groups in enumerate(sets):
        pending = _pending(job, groups)
        if not pending:
            continue
        if number == 0:  # what does not fit or is missing must show now, and not days later
            job.toolbox.make_mesh(job.groups)
            job.toolbox.require_weights(job.groups)
        gauge = Gauge()
        Run(job, groups).over(pending, gauge, name)
        names = ", ".join(group.name for group in groups)
        report(f"{names}: {gauge}" if sets[1:] else str(gauge))
        if sets[1:]:
            gc.collect()  # the next models need the memory of these


def _pending(job: Job, groups: Sequence[Group]) -> list[Piece]:
    """Return the pieces that are left to do for some groups; publish what was left unpublished."""
    folder, begun = job.listed(), job.begun_pieces()

    def is_whole(piece: Piece) -> bool:
        return all(job.assembly.is_whole(piece.number, group.name) for group in groups)

    def look(piece: Piece) -> tuple[bool, bool]:
        done = job.sink.is_done(folder, piece.number)
        if done and piece.number in begun:
            job.folder.remove(parts.folder_of(piece.number))
        return done, not done and piece.number in begun and is_whole(piece)

    # A damaged part disappears when its piece is to be published.
    return [
        piece
        for piece, (done, whole) in zip(job.pieces, map_ahead(look, job.pieces), strict=True)
        if not done
        and not (whole and (job.assembly.publish(piece.number, piece.id) or is_whole(piece)))
    ]


class Run:
    """Some groups, loaded, at work on pieces."""

    def __init__(self, job: Job, groups: Sequence[Group]):
        self._job, self._folder, self._sink = job, job.folder, job.sink
        self._batch_size = job.settings.batch_size
        mesh = job.toolbox.make_mesh(groups)
        self._models = {group.name: job.toolbox.load(group, mesh) for group in groups}
        facts = {name: loaded.facts() for name, loaded in self._models.items()}
        # Not before: a run that cannot start leaves nothing that others would have to agree with.
        job.claim.begin(job.request, again=True)
        for name in self._models:
            origin.claim_models(self._folder, name, facts[name])

    def over(self, pieces: Sequence[Piece], gauge: "Gauge", name: str = "annotate") -> None:
        """Put pieces through the models, and measure it; `name` is what people see."""
        self._gauge, self._since = gauge, time.monotonic()
        self._tally = Tally(self._job.settings.max_failure_rate, self._job.remedy)
        self._doubt = Doubt(pieces if self._sink.takes_synthetic else ())
        folder = self._job.listed()
        for facts in map_ahead(lambda p: _facts_of(self._job, folder, p.number), self._job.pieces):
            if facts is not None:
                self._tally.add(facts["num_samples"], facts["failures"])
        places = {piece.number: place for place, piece in enumerate(pieces, 1)}
        with (
            ThreadPoolExecutor(1, "writer") as writer,
            Loader(self._job.num_threads) as self._loader,
            contextlib.closing(self._ready(pieces)) as ready,
            Progress(name, "images", expected_samples(pieces)) as progress,
            self._gauge.time("running"),
        ):
            unwritten: collections.deque[list[Future]] = collections.deque()
            try:
                for chunk, batches in ready:
                    unwritten.append(self._process(chunk, batches, writer))
                    while len(unwritten) > _CHUNKS_BEHIND:
                        _wait(unwritten.popleft())
                    number = places[chunk.piece.number]
                    progress.update(chunk.count, self._where(number, len(pieces)))
                    if chunk.last:  # what is left can be estimated from what is behind
                        progress.total = expected_samples(pieces, pieces[:number], progress.done)
                    self._tally.check(MIN_SAMPLES)
                    self._doubt.warn(MIN_SAMPLES)
                while unwritten:
                    _wait(unwritten.popleft())
                self._doubt.warn()
            except BaseException:
                self._loader.stop()
                raise

    def _where(self, number: int, count: int) -> str:
        """Return where the run is, for people."""
        failed = f", {self._tally.failures:,} failed" if self._tally.failures else ""
        return f"{'+'.join(self._models)}, piece {number} of {count}{failed}"

    def _ready(self, pieces: Sequence[Piece]) -> Iterator[tuple[Chunk, dict[str, Batch]]]:
        """Yield chunks with their images, timing the wait for them."""
        with contextlib.closing(ahead(self._batches(pieces), 1)) as ready:
            while True:
                with self._gauge.time("waiting"):
                    item = next(ready, None)
                if item is None:
                    return
                yield item

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[tuple[Chunk, dict[str, Batch]]]:
        with contextlib.closing(ahead(self._chunks(pieces), _CHUNKS_AHEAD)) as chunks:
            for chunk in chunks:
                yield chunk, chunk.collect(self._batch_size)

    def _chunks(self, pieces: Sequence[Piece]) -> Iterator[Chunk]:
        for piece in pieces:
            if self._sink.is_done(self._folder, piece.number):  # by another process, meanwhile
                continue
            # Listed once: asking for each part in turn takes long.
            there = set(self._folder.names(parts.folder_of(piece.number)))
            yield from cut(
                piece,
                self._batch_size,
                self._sink.needs_caption,
                self._sink.reads_every_image,
                self._sink.takes_synthetic,
                functools.partial(self._missing, piece.number, there),
                self._decode,
            )

    def _missing(
        self, piece: int, there: set[str], start: int
    ) -> tuple[tuple[str, ...], list[dict]]:
        """Return which groups have no part yet, and the failures in the parts of the others.

        there: files of the piece when its reading began.
        """
        files = {name: self._part_name(piece, name, start) for name in self._models}
        known = {
            name: part
            for name, file in files.items()
            if file.rpartition("/")[2] in there
            and (part := parts.load_part(self._folder, file)) is not None
        }
        return tuple(n for n in files if n not in known), merge_failures(known.values())

    def _part_name(self, piece: int, group: str, start: int) -> str:
        return parts.part_name(piece, group, start, self._batch_size)

    def _decode(self, sample: Sample, groups: tuple[str, ...]) -> Future:
        return self._loader.submit(sample, {name: self._models[name] for name in groups})

    def _process(
        self, chunk: Chunk, batches: dict[str, Batch], writer: ThreadPoolExecutor
    ) -> list[Future]:
        """Run the missing groups over a chunk; return what is being written."""
        futures, failures = [], [*chunk.known]
        for name, batch in batches.items():
            fields, trouble = {}, {}
            if batch.samples:
                with self._gauge.time("busy"), naming([s.key for s in batch.samples]):
                    fields, trouble = compute(self._models[name], batch, self._job.stored)
            since, self._since = self._since, time.monotonic()
            file = self._part_name(chunk.piece.number, name, chunk.start)
            part = make_part(chunk, batch, fields, trouble, file, self._since - since)
            failures += part.failures
            futures.append(writer.submit(parts.save_part, self._folder, part))
        if chunk.last:
            futures.append(writer.submit(self._publish, chunk.piece))
        most = max((batch.samples for batch in batches.values()), key=len, default=[])
        self._doubt.see(most)
        self._gauge.images += len(most)
        # Of several failures of a sample the first counts, as in what is published.
        first = {one["position"]: one for one in reversed(failures)}
        self._tally.add(chunk.count, [first[position] for position in sorted(first)])
        return futures

    def _publish(self, piece: Piece) -> None:
        """Publish a piece if all groups have done it, and its file is still what it was."""
        known = self._job.digests[piece.id]
        if piece.fingerprint(again=True) != known:
            raise discard_changed(self._folder, piece.number, piece.id)
        self._job.assembly.publish(piece.number, piece.id)


class Doubt:
    """Warns once that a table of synthetic captions seems to be that of other images."""

    def __init__(self, pieces: Sequence[Piece]):
        self._table = next((p.tables.synthetic for p in pieces if p.tables.synthetic), None)
        self._seen = 0

    def see(self, samples: Sequence[Sample]) -> None:
        """Look at usable samples."""
        self._seen += len(samples)
        if any(sample.synthetic for sample in samples):
            self._table = None

    def warn(self, least: int = 1) -> None:
        """Print the warning if none of at least so many had a synthetic caption."""
        if self._table is not None and self._seen >= least:
            text = f"none of {self._seen:,} images has a synthetic caption"
            note(f"warning: {text}: {self._table.describe_missing()}")
            self._table = None


def make_part(
    chunk: Chunk,
    batch: Batch,
    fields: Fields,
    trouble: Trouble,
    name: str,
    seconds: float,
) -> Part:
    """Return what is stored of a chunk: the rows without trouble, and why others are missing.

    Args:
      chunk: with the failures of its images. batch: of the group.
      fields, trouble: see `compute`. name: of the part's file. seconds: that the batch took.
    """
    samples = batch.samples
    bad = [(sample, "unfit for a model", detail) for sample, detail in batch.refused]
    bad += [(samples[row], *why) for row, why in sorted(trouble.items())]
    failures = [*chunk.failures, *(failure(chunk.piece.id, *one) for one in bad)]
    good = [row for row in range(len(samples)) if row not in trouble]
    rows = parts.take(fields, good) if trouble else fields
    usable = [samples[row] for row in good]
    return Part(chunk.count, chunk.last, usable, failures, rows, name, round(seconds, 4))


def _wait(futures: Sequence[Future]) -> None:
    for future in futures:
        future.result()


class Gauge:
    """Counts images, and seconds of three kinds; `images` is to be counted up.

    running: while there is work, loading models not included. busy: in calls of models, the
    splitting of captions into tokens included. waiting: for images.
    """

    def __init__(self):
        self._seconds = dict.fromkeys(("running", "busy", "waiting"), 0.0)
        self.images = 0

    @contextlib.contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Time what happens inside as one of the kinds."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[kind] += time.monotonic() - begin

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(self._seconds["running"], 1e-9)

    def __str__(self) -> str:
        if not self.images:
            return "no usable image was left to do"
        seconds = max(self._seconds["running"], 1e-9)
        # While models are called, devices also wait for the host: for tokens, for copies.
        idle = max(0.0, 1 - self._seconds["busy"] / seconds)
        return (
            f"{counted(self.images, 'image')} in {seconds:.1f} s, {self.rate:.1f} a second; "
            f"devices idle at least {idle:.0%} of the time "
            f"({self._seconds['waiting'] / seconds:.0%} waiting for images)"
        )
