"""The plan of a run in words: pieces, disk, device memory, hours, and what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from miro_jax.annotate import origin
from miro_jax.annotate.estimate import Look, disk, look, model_sizes, probe
from miro_jax.annotate.plan import Plan
from miro_jax.annotate.sizes import Size
from miro_jax.data.storage import LocalFolder

_GIB = 2**30


def describe(
    todo: Plan,
    devices: int = 1,
    device_memory: float | None = None,
    measure: bool = False,
) -> str:
    """Return the plan for people.

    Args:
        todo: what is asked for; its pieces are this worker's.
        devices: of a worker, where no probe counts them.
        device_memory: GiB of a device, where no probe can tell.
        measure: run a probe.

    Raises:
        ValueError: devices or their memory are not positive.
    """
    if devices < 1 or (device_memory is not None and device_memory <= 0):
        raise ValueError(
            f"devices and their memory must be positive; got {devices} and {device_memory}."
        )
    if origin.is_complete(todo.folder):
        return f"{todo.folder} is complete; nothing is left to do"
    seen = look(todo.source.pieces)
    records = seen.samples * seen.usable
    share = len(todo.pieces) / len(todo.source.pieces)
    lines = [
        f"pieces: {len(todo.source.pieces):,}, of which this worker does {len(todo.pieces):,}",
        f"samples: about {seen.samples:,.0f}; {seen.usable:.1%} are usable before decoding, "
        f"{seen.synthetic:.0%} of those have synthetic captions",
        *(
            f"  {part:.1%} cannot: {cause}, as {first}"
            for cause, (part, first) in seen.causes.items()
        ),
        *(["  NOTHING IS USABLE: mend the source first"] if not seen.usable else []),
        "",
        *_disk_lines(todo, seen, records),
    ]
    rates = {}
    if measure:
        rates, found = probe(todo)
        devices, device_memory = jax.local_device_count(), found or device_memory
    lines += ["", *_memory_lines(todo, seen, mesh_of(todo, devices), device_memory)]
    lines += ["", *_time_lines(todo, seen, records, share, rates)]
    return "\n".join(lines)


def _disk_lines(todo: Plan, seen: Look, records: float) -> list[str]:
    fields = disk(todo, seen)
    total = sum(fields.values()) * records
    lines = ["disk, before compression (which saves 10 to 20 %):"]
    for name, size in (fields | {"in all": sum(fields.values())}).items():
        lines.append(f"  {name:34} {size / 1e3:9.1f} kB a record {_bytes(size * records):>12}")
    # Until a piece is published it takes its room twice, as parts: one piece at a time, or all of
    # them where other stages are still to come.
    waiting = len(todo.pieces) if len(todo.groups) < len(todo.toolbox.groups) else 1
    parts = total * waiting / len(todo.source.pieces)
    lines.append(f"  {'parts of unfinished pieces, of this worker':56} {_bytes(parts):>12}")
    if isinstance(todo.folder, LocalFolder):
        place = todo.folder.path.absolute()
        there = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(Path(there)).free
        done = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        fits = "fits" if total + parts < free + done else "DOES NOT FIT"
        already = f", {_bytes(done)} are there already" if done else ""
        lines.append(f"  free on {there}: {_bytes(free)}{already}: {fits}")
    return lines


def _bytes(count: float) -> str:
    """Write a number of bytes in the unit that suits it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _memory_lines(
    todo: Plan, seen: Look, mesh: tuple[int, int], device_memory: float | None
) -> list[str]:
    data, model = mesh
    devices = "one device" if data * model == 1 else f"each of {data * model} devices"
    lines = [f"memory of {devices} ({data} x {model}), batches of {todo.batch_size}:"]
    sizes = model_sizes(todo, seen, data, model)
    missing: list[str] = []
    for group, found in sizes.items():
        for one in found:
            missing += [one.fetch] if one.fetch and one.fetch not in missing else []
            source = "" if one.counted else ", as published"
            label, millions = f"{group}: {one.name}", one.parameters / 1e6
            lines.append(
                f"  {label:30} {millions:9,.1f} M parameters{source}: "
                f"{one.resident / _GIB:.2f} GiB, at work {one.work / _GIB:.2f} GiB more"
            )
    if not any(one.resident for found in sizes.values() for one in found):
        return [*lines, "  no model has a network"]
    if missing:
        lines.append(f"  fetched from the hub at the start: {', '.join(missing)}")
    one_by_one, together = _peak(sizes, True), _peak(sizes, False)
    chosen = one_by_one if todo.one_by_one else together
    lines.append(
        f"  one group at a time: {one_by_one / _GIB:.2f} GiB; all groups together: "
        f"{together / _GIB:.2f} GiB; asked for: {'one' if todo.one_by_one else 'all'}"
    )
    if device_memory is None:
        lines.append("  whether that fits is not known; give --device-memory, or --probe")
    elif chosen > device_memory * _GIB:
        remedies = ["more devices", "a smaller batch"]
        for cut in range(model + 1, data * model + 1):
            if data * model % cut == 0:
                sizes = model_sizes(todo, seen, data * model // cut, cut)
                if _peak(sizes, todo.one_by_one) <= device_memory * _GIB:
                    remedies.insert(0, f"--mesh=allx{cut}")
                    break
        if todo.toolbox.dtype != "bfloat16":
            remedies.insert(0, "--dtype=bfloat16")
        if not todo.one_by_one and one_by_one <= device_memory * _GIB:
            remedies = ["--one-by-one"]
        *some, last = remedies
        remedy = f"{', '.join(some)} or {last}" if some else last
        lines.append(f"  DOES NOT FIT into {device_memory:g} GiB; {remedy} would help")
    else:
        lines.append(f"  fits into {device_memory:g} GiB")
    return lines


def _peak(sizes: Mapping[str, Sequence[Size]], one_by_one: bool) -> float:
    """Return the bytes of a device that groups of models need, one by one or all together."""
    resident = [sum(one.resident for one in found) for found in sizes.values()]
    work = [max((one.work for one in found), default=0.0) for found in sizes.values()]
    if one_by_one:
        return max(map(sum, zip(resident, work, strict=True)))
    return sum(resident) + max(work)


def mesh_of(todo: Plan, devices: int) -> tuple[int, int]:
    """Return how many devices lie along `data` and `model`.

    Raises:
        ValueError: `model` does not divide them.
    """
    data, model = todo.toolbox.mesh
    if data is None and devices % model:
        raise ValueError(f"mesh axis model must divide the {devices} devices; got {model}.")
    return devices // model if data is None else data, model


def _time_lines(
    todo: Plan, seen: Look, records: float, share: float, rates: Mapping[str, float]
) -> list[str]:
    found = model_sizes(todo, seen, 1, 1)
    gflop = sum(one.gflop for some in found.values() for one in some)
    lines = ["work: no model has a network"]
    if gflop:
        lines = [f"work: about {gflop:,.0f} GFLOP a record, {gflop * records:.2e} GFLOP in all"]
        hours = gflop * records / 100e3 / 3600
        lines.append(f"  at 100 TFLOP/s, all the time: {_time(hours)}")
    if not rates:
        lines.append("  hours on these devices are not known; --probe measures them")
        return lines
    for groups, rate in rates.items():
        lines.append(f"  {groups}: {rate:,.1f} pictures a second, measured")
    if not all(rates.values()):
        lines.append("  no picture of the first ones could be used, so hours are not known")
        return lines
    hours = sum(records / rate for rate in rates.values()) / 3600
    lines.append(
        f"  all pieces by one such worker: {_time(hours)}; the pieces of this one: "
        f"{_time(hours * share)}"
    )
    return lines


def _time(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"
