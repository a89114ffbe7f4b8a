"""What a run will take, before it starts: records, disk, device memory; the rate, measured.

No device is touched but by `probe`. See `tell` for how it is put into words.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from miro_jax.annotate import sizes
from miro_jax.annotate.gauge import Gauge
from miro_jax.annotate.models import CAPTIONS, IMAGE, SECOND_SIZE, Toolbox
from miro_jax.annotate.plan import Plan
from miro_jax.annotate.sizes import Size
from miro_jax.annotate.work import Run
from miro_jax.data.sources import Piece, expected_samples
from miro_jax.data.storage import LocalFolder
from miro_jax.pretrained.card import TOKENS_PER_WORD
from miro_jax.pretrained.encoders import build_image_encoder

_PIECES_READ, _SAMPLES_READ = 3, 5_000
_TAR_BYTES = 4096  # of a sample, besides its picture: three headers, texts, filling
_OTHER_BYTES = 900  # of a record: names, sizes, header, index
# Compiled while warming up are the programs of the very samples that are timed then.
_WARM_CHUNKS = _TIMED_CHUNKS = 4
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Look:
    """What a few pieces say about all. samples: in all pieces, about. usable: share of them.

    synthetic: share of the usable ones. words, synthetic_words: mean of the captions. causes: why
    others cannot be used -> their share and the first of them.
    """

    samples: float
    usable: float
    synthetic: float
    words: float
    synthetic_words: float
    causes: dict[str, tuple[float, str]]


def look(pieces: list[Piece]) -> Look:
    """Count the samples of some pieces, evenly spread; pictures are not decoded."""
    step = max(1, len(pieces) // _PIECES_READ)
    chosen = pieces[::step][:_PIECES_READ]
    facts, samples = [], 0
    for piece in chosen:
        begin = list(itertools.islice(_facts(piece), _SAMPLES_READ + 1))
        samples += piece.count or _whole(piece, begin)
        facts += begin
    words = [one.words for one in facts if one.words is not None]
    causes = collections.Counter(one.problem for one in facts if one.problem)
    firsts = {one.problem: one.example for one in reversed(facts)}
    synthetic = [one.synthetic_words for one in facts if one.synthetic_words is not None]
    return Look(
        expected_samples(pieces, chosen, samples),
        len(words) / max(len(facts), 1),
        len(synthetic) / max(len(words), 1),
        statistics.mean(words or [0]),
        statistics.mean(synthetic or [0]),
        {cause: (n / len(facts), firsts[cause]) for cause, n in causes.most_common()},
    )


class _Facts(NamedTuple):
    """Of a sample: bytes of its picture; words of its captions, None where there is none.

    problem: of it, or "". example: the sample, where there is one.
    """

    num_bytes: int
    words: int | None = None
    synthetic_words: int | None = None
    problem: str = ""
    example: str = ""


def _facts(piece: Piece) -> Iterator[_Facts]:
    for sample in piece.samples():
        if sample.problem:
            example = f"{sample.key}{': ' if sample.detail else ''}{sample.detail}"
            yield _Facts(sample.num_bytes, problem=sample.problem, example=example)
            continue
        long = sample.synthetic.get("long")
        yield _Facts(sample.num_bytes, len(sample.caption.split()), long and len(long.split()))


def _whole(piece: Piece, begin: list[_Facts]) -> int:
    """Tell how many samples a piece has, from its beginning or all of it."""
    if len(begin) <= _SAMPLES_READ or not piece.num_bytes:
        return len(begin)
    read = sum(one.num_bytes + _TAR_BYTES for one in begin)
    return max(len(begin), round(len(begin) * piece.num_bytes / read))


def disk(todo: Plan, seen: Look) -> dict[str, float]:
    """Return the bytes of a record, by field, before compression."""
    toolbox = todo.toolbox
    fields = {}
    image = toolbox.image_encoder
    encoder = build_image_encoder(**image) if isinstance(image, Mapping) else image
    height, width, channels = encoder.latent_shape
    fields["image_mean, image_std"] = 4.0 * height * width * channels
    if toolbox.encode_512:
        side = SECOND_SIZE * height // encoder.size
        fields[f"image_mean_{SECOND_SIZE}, image_std_{SECOND_SIZE}"] = 4.0 * side**2 * channels
    text = toolbox.caption_encoder
    given = text if isinstance(text, Mapping) else vars(text)
    usual = (64, 32) if given.get("name") == "words" else (2048, 77)
    width, most = given.get("width") or usual[0], given.get("max_tokens", usual[1])

    def tokens(words: float) -> float:
        return min(words * TOKENS_PER_WORD + 1, most) * width * 2

    fields["caption_tokens"] = tokens(seen.words)
    fields["synthetic_caption_tokens"] = tokens(seen.synthetic_words) * seen.synthetic
    fields["scores and the rest"] = _OTHER_BYTES + 8 * len(toolbox.rewards)
    return fields


def model_sizes(todo: Plan, seen: Look, data: int, model: int) -> dict[str, list[Size]]:
    """Return the sizes of the networks of each group that is to run.

    Args:
        data, model: devices along the axes of the mesh.
    """
    toolbox = todo.toolbox
    own, synthetic = (seen.words, 1.0), (seen.synthetic_words, seen.synthetic)
    # Where some samples of a chunk have a synthetic caption, rewards judge a second one of all.
    second = [(seen.synthetic_words, 1.0)] if seen.synthetic else []
    rewards = sizes.Work(todo.batch_size, data, model, (own, *second))
    encoders = sizes.Work(todo.batch_size, data, model, (own, synthetic))
    found = {}
    for group in todo.groups:
        some = [
            sizes.size_of_reward(name, toolbox.weights.get(name), toolbox.dtype, rewards)
            for name in toolbox.names
            if name in group.members
        ]
        if IMAGE in group.members and isinstance(toolbox.image_encoder, Mapping):
            sides = [toolbox.image_size, *([SECOND_SIZE] if toolbox.encode_512 else [])]
            both = [sizes.size_of_encoder(toolbox.image_encoder, encoders, side) for side in sides]
            if both[0] is not None:
                work, gflop = max(one.work for one in both), sum(one.gflop for one in both)
                some.append(dataclasses.replace(both[0], work=work, gflop=gflop))
        if CAPTIONS in group.members and isinstance(toolbox.caption_encoder, Mapping):
            some.append(sizes.size_of_encoder(toolbox.caption_encoder, encoders))
        found[group.name] = _without_copies([one for one in some if one is not None], toolbox)
    return found


def _without_copies(found: list[Size], toolbox: Toolbox) -> list[Size]:
    """Count a vision tower that two rewards share once."""
    names = {one.name for one in found}
    shared = {"aesthetic", "openai_clip"}
    if not shared <= names or len({toolbox.weights.get(name) for name in shared}) > 1:
        return found
    return [
        dataclasses.replace(one, resident=0.0) if one.name == "aesthetic" else one for one in found
    ]


def probe(todo: Plan) -> tuple[dict[str, float], float | None]:
    """Run the models over the first samples of a piece, and throw the result away.

    Returns:
        Pictures a second of each set of groups that are loaded together, compilation not counted;
        and the memory of a device in GiB, where it is known.
    """
    sets = [(group,) for group in todo.groups] if todo.one_by_one else [todo.groups]
    rates = {}
    for groups in sets:
        with tempfile.TemporaryDirectory(prefix="miro-jax-probe-") as folder:
            short = [
                _shortened((todo.pieces or todo.source.pieces)[0], number, count * todo.batch_size)
                for number, count in enumerate((_WARM_CHUNKS, _TIMED_CHUNKS))
            ]
            trial = dataclasses.replace(
                todo, folder=LocalFolder(folder), pieces=tuple(short), max_failure_rate=1.0
            )
            run, gauge = Run(trial, groups), Gauge()
            run.over(short[:1], Gauge(), "warm up")
            run.over(short[1:], gauge, "probe")
            rates[", ".join(group.name for group in groups)] = gauge.rate
    statistics_of = jax.local_devices()[0].memory_stats() or {}
    memory = statistics_of.get("bytes_limit")
    return rates, None if memory is None else memory / _GIB


def _shortened(piece: Piece, number: int, samples: int) -> Piece:
    """Return the beginning of a piece as a piece."""
    return dataclasses.replace(
        piece, number=number, read=lambda: itertools.islice(piece.read(), samples), count=None
    )
