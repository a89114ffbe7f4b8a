"""What a run will take, before it starts: records, disk, device memory; the rate, measured.

No device is touched but by `_probe`.
"""

import collections
import dataclasses
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence

import jax

from miro_jax.annotate import origin
from miro_jax.annotate.models import IMAGE, SECOND_SIZE, Group, Toolbox, find_card
from miro_jax.annotate.plan import Job
from miro_jax.annotate.work import Gauge, Run
from miro_jax.data.printable import counted, in_bytes, in_time
from miro_jax.data.sources import Piece, Sample, expected_samples
from miro_jax.data.storage import LocalFolder, nearest
from miro_jax.pretrained.card import TOKENS_PER_WORD, NetworkCard, Size, Work
from miro_jax.pretrained.encoders import build_image_encoder, sdxl_vae

_PIECES_READ, _SAMPLES_READ = 3, 5_000
_TAR_BYTES = 4096  # of a sample, besides its image: three headers, texts, filling
_OTHER_BYTES = 900  # of a record: names, sizes, header, index
# Compiled while warming up are the programs of the very samples that are timed then.
_WARM_CHUNKS = _TIMED_CHUNKS = 4
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Look:
    """An estimate from a few pieces. samples: in all pieces, about. usable: share of them.

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
    """Count the samples of some pieces, evenly spread; images are not decoded."""
    chosen = pieces[:: max(1, len(pieces) // _PIECES_READ)][:_PIECES_READ]
    seen: list[Sample] = []
    count = 0
    for piece in chosen:
        begin, num_bytes = [], 0
        for sample in itertools.islice(piece.samples(), _SAMPLES_READ + 1):
            num_bytes += sample.num_bytes + _TAR_BYTES
            begin.append(dataclasses.replace(sample, image=None, meta={}))
        seen += begin
        if piece.count or len(begin) <= _SAMPLES_READ or not piece.num_bytes:
            count += piece.count or len(begin)
        else:  # that was its beginning
            count += max(len(begin), round(len(begin) * piece.num_bytes / num_bytes))
    usable = [sample for sample in seen if not sample.problem]
    failed = [sample for sample in seen if sample.problem]
    firsts = {s.problem: ": ".join(filter(None, (s.key, s.detail))) for s in reversed(failed)}
    causes = collections.Counter(sample.problem for sample in failed).most_common()
    synthetic = [sample.synthetic["long"] for sample in usable if "long" in sample.synthetic]
    return Look(
        expected_samples(pieces, chosen, count),
        len(usable) / max(len(seen), 1),
        len(synthetic) / max(len(usable), 1),
        statistics.mean([len(sample.caption.split()) for sample in usable] or [0]),
        statistics.mean([len(text.split()) for text in synthetic] or [0]),
        {cause: (n / len(seen), firsts[cause]) for cause, n in causes},
    )


def disk(toolbox: Toolbox, seen: Look) -> dict[str, float]:
    """Return the bytes of a record, by field."""
    image = toolbox.image_encoder
    encoder = build_image_encoder(**image) if isinstance(image, Mapping) else image
    height, width, channels = encoder.latent_shape
    fields = {"image_mean, image_std": 4.0 * height * width * channels}
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


def model_sizes(
    toolbox: Toolbox, groups: Sequence[Group], batch: int, seen: Look, data: int, model: int
) -> dict[str, list[Size]]:
    """Return the sizes of the networks of each group.

    Args:
      groups: those that are to run. batch: samples at a time. seen: of the source.
      data, model: devices along the axes of the mesh.
    """
    own, synthetic = (seen.words, 1.0), (seen.synthetic_words, seen.synthetic)
    # Where some samples of a chunk have a synthetic caption, rewards judge a second one of all.
    second = [(seen.synthetic_words, 1.0)] if seen.synthetic else []
    judged = Work(batch, data, model, (own, *second))
    encoded = Work(batch, data, model, (own, synthetic))
    sizes: dict[str, list[Size]] = {}
    for group in groups:
        some = sizes[group.name] = []
        for name in toolbox.names:
            if name in group.members and (card := find_card(name)):
                some.append(card.size(judged, toolbox.weights.get(name), toolbox.dtype, name))
        for member, given in toolbox.encoders.items():
            if member not in group.members or not isinstance(given, Mapping):
                continue
            if card := find_card(given["name"]):
                cards = _at_sides(card, toolbox) if member == IMAGE else [card]
                weights, dtype = given.get("weights"), given.get("dtype")
                both = [one.size(encoded, weights, dtype) for one in cards]
                work, gflop = max(one.work for one in both), sum(one.gflop for one in both)
                some.append(dataclasses.replace(both[0], work=work, gflop=gflop))
        _count_copies_once(some, toolbox)
    return sizes


def _sizes(job: Job, seen: Look, data: int, model: int) -> dict[str, list[Size]]:
    batch = job.settings.batch_size
    return model_sizes(job.toolbox, job.groups, batch, seen, data, model)


def _at_sides(card: NetworkCard, toolbox: Toolbox) -> list[NetworkCard]:
    """Return the card of the image encoder for each size that it encodes at."""
    cards = []
    for side in (toolbox.image_size, SECOND_SIZE)[: 1 + toolbox.encode_512]:
        more = (side / sdxl_vae.CARD_SIZE) ** 2
        cost = {"image_gflop": card.image_gflop * more, "work_mb": card.work_mb * more}
        rows = toolbox.image_encoder.get("batch_size", card.rows)
        cards.append(dataclasses.replace(card, **cost, rows=rows))
    return cards


def _count_copies_once(models: list[Size], toolbox: Toolbox) -> None:
    """Count a vision tower that two rewards share once."""
    shared = ("aesthetic", "openai_clip")
    at = {one.name: number for number, one in enumerate(models)}
    if at.keys() >= set(shared) and len({toolbox.weights.get(name) for name in shared}) == 1:
        number = at["aesthetic"]
        models[number] = dataclasses.replace(models[number], resident=0.0)


def _probe(job: Job) -> tuple[dict[str, float], float | None]:
    """Run the models over the first samples of a piece, and throw the result away.

    Returns:
      Images a second of each set of groups that are loaded together, compilation not counted;
      and the memory of a device in GiB, where it is known.
    """
    sets = [(group,) for group in job.groups] if job.settings.one_by_one else [job.groups]
    rates = {}
    for groups in sets:
        with tempfile.TemporaryDirectory(prefix="miro-jax-probe-") as folder:
            first, size = (job.pieces or job.source.pieces)[0], job.settings.batch_size
            short = [
                first.first(chunks * size, number=number, count=None)
                for number, chunks in enumerate((_WARM_CHUNKS, _TIMED_CHUNKS))
            ]
            trial = dataclasses.replace(
                job,
                folder=LocalFolder(folder),
                claim=origin.make_claim(LocalFolder(folder)),
                pieces=tuple(short),
                settings=dataclasses.replace(job.settings, max_failure_rate=1.0),
            )
            run, gauge = Run(trial, groups), Gauge()
            run.over(short[:1], Gauge(), "warm up")
            run.over(short[1:], gauge, "probe")
            rates[", ".join(group.name for group in groups)] = gauge.rate
    statistics_of = jax.local_devices()[0].memory_stats() or {}
    memory = statistics_of.get("bytes_limit")
    return rates, None if memory is None else memory / _GIB


def describe(job: Job) -> str:
    """Return the plan of a job for people; measures the rate where `settings.probe` requests it.

    Raises:
      ValueError: `model` of the mesh does not divide the devices.
    """
    devices, device_memory = job.settings.devices, job.settings.device_memory
    if origin.is_complete(job.folder):
        return f"{job.folder} is complete; nothing is left to do"
    seen = look(job.source.pieces)
    records = seen.samples * seen.usable
    share = len(job.pieces) / len(job.source.pieces)
    lines = [
        f"pieces: {len(job.source.pieces):,}, of which this worker does {len(job.pieces):,}",
        f"samples: about {seen.samples:,.0f}; {seen.usable:.1%} are usable before decoding, "
        f"{seen.synthetic:.0%} of those have synthetic captions",
        *(
            f"  {part:.1%} cannot: {cause}, as {first}"
            for cause, (part, first) in seen.causes.items()
        ),
        *(["  NOTHING IS USABLE: mend the source first"] if not seen.usable else []),
        "",
        *_disk_lines(job, seen, records),
    ]
    rates = {}
    if job.settings.probe:
        rates, memory = _probe(job)
        devices, device_memory = jax.local_device_count(), memory or device_memory
    lines += ["", *_memory_lines(job, seen, mesh_of(job, devices), device_memory)]
    lines += ["", *_time_lines(job, seen, records, share, rates)]
    return "\n".join(lines)


def _disk_lines(job: Job, seen: Look, records: float) -> list[str]:
    fields = disk(job.toolbox, seen)
    total = sum(fields.values()) * records
    lines = ["disk:"]
    for name, size in (fields | {"in all": sum(fields.values())}).items():
        lines.append(f"  {name:34} {size / 1e3:9.1f} kB a record {in_bytes(size * records, 2):>12}")
    # Until a piece is published it takes its room twice, as parts: one piece at a time, or all of
    # them where other stages are still to come.
    waiting = len(job.pieces) if len(job.groups) < len(job.toolbox.groups) else 1
    parts = total * waiting / len(job.source.pieces)
    lines.append(f"  {'parts of unfinished pieces, of this worker':56} {in_bytes(parts, 2):>12}")
    if isinstance(job.folder, LocalFolder):
        root = job.folder.path.absolute()
        there = nearest(root)
        free = shutil.disk_usage(there).free
        done = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        fits = "fits" if total + parts < free + done else "DOES NOT FIT"
        already = f", {in_bytes(done, 2)} are there already" if done else ""
        lines.append(f"  free on {there}: {in_bytes(free, 2)}{already}: {fits}")
    return lines


def _memory_lines(
    job: Job, seen: Look, mesh: tuple[int, int], device_memory: float | None
) -> list[str]:
    data, model = mesh
    devices = "one device" if data * model == 1 else f"each of {data * model} devices"
    lines = [f"memory of {devices} ({data} x {model}), batches of {job.settings.batch_size}:"]
    sizes = _sizes(job, seen, data, model)
    missing: list[str] = []
    for group, models in sizes.items():
        for one in models:
            missing += [one.fetch] if one.fetch and one.fetch not in missing else []
            source = "" if one.counted else ", as published"
            label, millions = f"{group}: {one.name}", one.parameters / 1e6
            lines.append(
                f"  {label:30} {millions:9,.1f} M parameters{source}: "
                f"{one.resident / _GIB:.2f} GiB, at work {one.work / _GIB:.2f} GiB more"
            )
    if not any(one.resident for models in sizes.values() for one in models):
        return [*lines, "  no model has a network"]
    if missing:
        lines.append(f"  fetched from the hub at the start: {', '.join(missing)}")
    one_by_one, together = _peak(sizes, True), _peak(sizes, False)
    chosen = one_by_one if job.settings.one_by_one else together
    lines.append(
        f"  one group at a time: {one_by_one / _GIB:.2f} GiB; all groups together: "
        f"{together / _GIB:.2f} GiB; requested: {'one' if job.settings.one_by_one else 'all'}"
    )
    if device_memory is None:
        lines.append("  whether that fits is not known; give --device-memory, or --probe")
    elif chosen > device_memory * _GIB:
        remedies = ["more devices", "a smaller batch"]
        for cut in range(model + 1, data * model + 1):
            if data * model % cut == 0:
                sizes = _sizes(job, seen, data * model // cut, cut)
                if _peak(sizes, job.settings.one_by_one) <= device_memory * _GIB:
                    remedies.insert(0, f"--mesh=allx{cut}")
                    break
        if job.toolbox.dtype != "bfloat16":
            remedies.insert(0, "--dtype=bfloat16")
        if not job.settings.one_by_one and one_by_one <= device_memory * _GIB:
            remedies = ["--one-by-one"]
        *some, last = remedies
        remedy = f"{', '.join(some)} or {last}" if some else last
        lines.append(f"  DOES NOT FIT into {device_memory:g} GiB; {remedy} would help")
    else:
        lines.append(f"  fits into {device_memory:g} GiB")
    return lines


def _peak(sizes: Mapping[str, Sequence[Size]], one_by_one: bool) -> float:
    """Return the bytes of a device that groups of models need, one by one or all together."""
    resident = [sum(one.resident for one in models) for models in sizes.values()]
    work = [max((one.work for one in models), default=0.0) for models in sizes.values()]
    if one_by_one:
        return max(map(sum, zip(resident, work, strict=True)))
    return sum(resident) + max(work)


def mesh_of(job: Job, devices: int) -> tuple[int, int]:
    """Return how many devices lie along `data` and `model`.

    Raises:
      ValueError: `model` does not divide them.
    """
    data, model = job.toolbox.mesh
    if data is None and devices % model:
        raise ValueError(
            f"MODEL of --mesh=DATAxMODEL must divide the {counted(devices, 'device')}; got {model}."
        )
    return devices // model if data is None else data, model


def _time_lines(
    job: Job, seen: Look, records: float, share: float, rates: Mapping[str, float]
) -> list[str]:
    sizes = _sizes(job, seen, 1, 1)
    gflop = sum(one.gflop for models in sizes.values() for one in models)
    lines = ["work: no model has a network"]
    if gflop:
        lines = [f"work: about {gflop:,.0f} GFLOP a record, {gflop * records:.2e} GFLOP in all"]
        hours = gflop * records / 100e3 / 3600
        lines.append(f"  at 100 TFLOP/s, all the time: {in_time(hours)}")
    if not rates:
        lines.append("  hours on these devices are not known; --probe measures them")
        return lines
    for groups, rate in rates.items():
        lines.append(f"  {groups}: {rate:,.1f} images a second, measured")
    if not all(rates.values()):
        lines.append("  no image of the first ones could be used, so hours are not known")
        return lines
    hours = sum(records / rate for rate in rates.values()) / 3600
    lines.append(
        f"  all pieces by one such worker: {in_time(hours)}; the pieces of this one: "
        f"{in_time(hours * share)}"
    )
    return lines
