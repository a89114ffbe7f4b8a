"""The work itself: chunks of pieces through the groups of models, kept as parts, published.

What runs at the same time: one thread reads pieces, some decode and prepare pictures two chunks
ahead, one makes the next batch of them, this one runs the models, one writes parts and publishes
pieces.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from miro_jax.annotate import models, origin, parts
from miro_jax.annotate.chunks import (
    Batch,
    Chunk,
    Example,
    ahead,
    failure,
    read_chunks,
)
from miro_jax.annotate.compute import Trouble, compute
from miro_jax.annotate.gauge import Gauge
from miro_jax.annotate.loading import Loader
from miro_jax.annotate.models import Group
from miro_jax.annotate.parts import Part, Usable
from miro_jax.annotate.plan import Plan
from miro_jax.annotate.publish import (
    discard_changed,
    discard_orphan,
    is_done,
    merge_failures,
    shard_name,
)
from miro_jax.annotate.tally import MIN_SAMPLES, Tally
from miro_jax.cli.progress import Progress
from miro_jax.data.records.shards import read_published
from miro_jax.data.sources import Piece, Sample, expected_samples

_CHUNKS_AHEAD = 2
_CHUNKS_BEHIND = 2  # that wait to be written
log = logging.getLogger("miro_jax")


def annotate_pieces(todo: Plan) -> None:
    """Run the groups of a plan over its pieces; publish the pieces that all groups have done.

    Raises:
        TooManyFailures: more samples failed than may; what is done is kept.
        ValueError, OSError: models cannot be loaded or are others than before, or the storage
            fails.
    """
    _annotate_once(todo)
    if todo.groups == todo.toolbox.groups and not all(
        is_done(todo.folder, piece.number) for piece in todo.pieces
    ):  # a damaged part, as a power cut leaves it, shows when its piece is to be published
        _annotate_once(todo)


def _annotate_once(todo: Plan) -> None:
    sets = [(group,) for group in todo.groups] if todo.one_by_one else [todo.groups]
    for number, groups in enumerate(sets):
        pending = [piece for piece in todo.pieces if not _is_settled(todo, piece, groups)]
        if not pending:
            continue
        if number == 0:  # what is missing should be told now, and not days later
            todo.toolbox.require_weights(todo.groups)
        gauge = Gauge()
        Run(todo, groups).over(pending, gauge)
        text = f"{', '.join(group.name for group in groups)}: {gauge}" if sets[1:] else str(gauge)
        log.info("%s", text)
        print(text, file=sys.stderr)
        if sets[1:]:
            gc.collect()  # the next models need the memory of these


def _is_settled(todo: Plan, piece: Piece, groups: Sequence[Group]) -> bool:
    """Tell whether nothing is left to do for some groups; publish what was left unpublished."""
    if is_done(todo.folder, piece.number):
        todo.folder.remove(parts.place(piece.number))
        return True
    discard_orphan(todo.folder, piece.number)

    def is_whole() -> bool:
        return all(todo.assembly.is_whole(piece.number, group.name) for group in groups)

    # A damaged part disappears when its piece is to be published.
    return is_whole() and (todo.assembly.publish(piece.number, piece.id) or is_whole())


class Run:
    """Some groups, loaded, at work on pieces."""

    def __init__(self, todo: Plan, groups: Sequence[Group]):
        self._todo, self._folder = todo, todo.folder
        mesh = todo.toolbox.make_mesh(groups)
        self._models = {group.name: todo.toolbox.load(group, mesh) for group in groups}
        facts = {name: loaded.facts() for name, loaded in self._models.items()}
        # Not before: a run that cannot start leaves nothing that others would have to agree with.
        origin.begin(self._folder, todo.configuration)
        for name in self._models:
            origin.claim_models(self._folder, name, facts[name])

    def over(self, pieces: Sequence[Piece], gauge: Gauge, name: str = "annotate") -> None:
        """Annotate pieces, and measure it; `name` is what people see."""
        self._gauge = gauge
        self._tally = Tally(self._todo.max_failure_rate, self._todo.remedy)
        self._doubt = Doubt(pieces)
        for piece in self._todo.pieces:
            if is_done(self._folder, piece.number):
                sidecar, _ = read_published(self._folder, shard_name(piece.number))
                self._tally.add(sidecar["num_samples"], sidecar["failures"])
        with (
            ThreadPoolExecutor(1, "writer") as writer,
            Loader(self._todo.num_threads) as self._loader,
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
                    number = pieces.index(chunk.piece) + 1
                    progress.update(chunk.count, self._where(number, len(pieces)))
                    if chunk.last:  # what is left can be told from what is behind
                        progress.total = expected_samples(pieces, pieces[:number], progress.done)
                    self._tally.check(MIN_SAMPLES)
                    self._doubt.voice(MIN_SAMPLES)
                while unwritten:
                    _wait(unwritten.popleft())
                self._doubt.voice()
            except BaseException:
                self._loader.stop()
                raise

    def _where(self, number: int, count: int) -> str:
        """Say where the run is, for people."""
        failed = f", {self._tally.failures:,} failed" if self._tally.failures else ""
        return f"{'+'.join(self._models)}, piece {number} of {count}{failed}"

    def _ready(self, pieces: Sequence[Piece]) -> Iterator[tuple[Chunk, dict[str, Batch]]]:
        """Yield chunks with their pictures, timing the wait for them."""
        with contextlib.closing(ahead(self._batches(pieces), 1)) as ready:
            while True:
                with self._gauge.time("waiting"):
                    found = next(ready, None)
                if found is None:
                    return
                yield found

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[tuple[Chunk, dict[str, Batch]]]:
        with contextlib.closing(ahead(self._chunks(pieces), _CHUNKS_AHEAD)) as chunks:
            for chunk in chunks:
                yield chunk, chunk.collect()

    def _chunks(self, pieces: Sequence[Piece]) -> Iterator[Chunk]:
        for piece in pieces:
            if is_done(self._folder, piece.number):  # by another worker, meanwhile
                continue
            there = set(self._folder.names(parts.place(piece.number)))
            missing = functools.partial(self._missing, piece.number, there)
            yield from read_chunks(piece, self._todo.batch_size, missing, self._decode)

    def _missing(
        self, piece: int, there: set[str], start: int
    ) -> tuple[tuple[str, ...], list[dict]]:
        """Return which groups have no part yet, and the failures in the parts of the others.

        there: files of the piece when its reading began; asking for each in turn takes long.
        """
        names, found = [], []
        for name in self._models:
            file = self._part_name(piece, name, start)
            is_there = file.rpartition("/")[2] in there
            part = parts.load_part(self._folder, file) if is_there else None
            if part is None:
                names.append(name)
            else:
                found.append(part)
        return tuple(names), merge_failures(found)

    def _part_name(self, piece: int, group: str, start: int) -> str:
        return parts.part_name(piece, group, start, self._todo.batch_size)

    def _decode(self, sample: Sample, groups: tuple[str, ...]) -> Future:
        chosen = {name: self._models[name] for name in groups}
        return self._loader.submit(sample, functools.partial(models.prepare_each, chosen))

    def _process(self, chunk: Chunk, batches: dict[str, Batch], writer) -> list[Future]:
        """Run the missing groups over a chunk; return what is being written."""
        futures, found = [], [*chunk.known]
        for name, batch in batches.items():
            arrays, trouble = {}, {}
            if batch.examples:
                with self._gauge.time("busy"):
                    arrays, trouble = compute(self._models[name], batch)
            part = make_part(chunk, batch, arrays, trouble)
            found += part.failures
            place = self._part_name(chunk.piece.number, name, chunk.start)
            futures.append(writer.submit(parts.save_part, self._folder, place, part))
        if chunk.last:
            futures.append(writer.submit(self._publish, chunk.piece))
        most = max((batch.examples for batch in batches.values()), key=len, default=[])
        self._doubt.see(most)
        self._gauge.images += len(most)
        # Of several failures of a sample the first counts, as in the sidecar.
        first = {one["position"]: one for one in reversed(found)}
        self._tally.add(chunk.count, [first[position] for position in sorted(first)])
        return futures

    def _publish(self, piece: Piece) -> None:
        """Publish a piece if all groups have done it, and its file is still what it was."""
        if piece.fingerprint(again=True) != self._todo.configuration["pieces"][piece.id]:
            raise discard_changed(self._folder, piece.number, piece.id)
        self._todo.assembly.publish(piece.number, piece.id)


class Doubt:
    """Says once that a table of synthetic captions seems to be that of other pictures."""

    def __init__(self, pieces: Sequence[Piece]):
        self._table = next((p.tables.synthetic for p in pieces if p.tables.synthetic), None)
        self._seen = 0

    def see(self, examples: Sequence[Example]) -> None:
        """Look at usable samples."""
        self._seen += len(examples)
        if any(example.synthetic for example in examples):
            self._table = None

    def voice(self, least: int = 1) -> None:
        """Speak up if none of at least so many had a synthetic caption."""
        if self._table is not None and self._seen >= least:
            said = f"none of {self._seen:,} pictures has a synthetic caption"
            print(f"warning: {said}: {self._table.describe_missing()}", file=sys.stderr)
            self._table = None


def make_part(chunk: Chunk, batch: Batch, arrays: dict[str, np.ndarray], trouble: Trouble) -> Part:
    """Return what is kept of a chunk: the rows without trouble, and why the others are not there.

    Args:
        chunk: with the failures of its pictures.
        batch: of the group. arrays, trouble: see `compute`.
    """
    examples = batch.examples
    bad = [(example, "unfit for a model", detail) for example, detail in batch.refused]
    bad += [(examples[row], *why) for row, why in sorted(trouble.items())]
    failures = [
        *chunk.failures,
        *(failure(chunk.piece.id, e.position, e.key, *why) for e, *why in bad),
    ]
    good = [row for row in range(len(examples)) if row not in trouble]
    samples = [
        Usable(e.position, e.key, e.caption, e.synthetic.get("long"), e.width, e.height, e.digest)
        for e in (examples[row] for row in good)
    ]
    kept = _rows(arrays, good) if trouble else arrays
    return Part(chunk.count, chunk.last, samples, failures, kept)


def _rows(arrays: dict[str, np.ndarray], rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Take some rows of the arrays of `compute`."""
    kept = {}
    for name, array in arrays.items():
        if name.endswith("tokens"):
            cuts = np.cumsum(arrays[name.removesuffix("tokens") + "lengths"])[:-1]
            every = np.split(array, cuts)
            kept[name] = np.concatenate([every[row] for row in rows] or [array[:0]])
        else:
            kept[name] = array[list(rows)]
    return kept


def _wait(futures: Sequence[Future]) -> None:
    for future in futures:
        future.result()
