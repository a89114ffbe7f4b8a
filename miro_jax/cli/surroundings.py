"""What a machine needs of others: the store of a run, its clock, process 0, weights."""

import contextlib
import datetime
import re
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from miro_jax.cli import cluster, pull, roll_call
from miro_jax.cli.finding import FAILED, OK, WARNING, Finding
from miro_jax.data import storage
from miro_jax.data.printable import counted
from miro_jax.data.regular_file import digest_regular

MOST_SKEW = 5.0  # seconds; certificates and leases bear more, reading two logs together does not
_REACH_SECONDS = 5.0
_INSTALLED = Path(storage.__file__)  # no clock is before the time at which this was written


def store(
    where: str | Path, bad: str = FAILED, clock: Callable[[], float] = time.time
) -> list[Finding]:
    """Return whether a folder or bucket takes files, gives a name once, and shares our time.

    Args:
      where: folder, of which the nearest parent that is there is tried, or URL.
      bad: state of one that cannot be written.
    """
    try:
        with _folder(where) as folder, storage.errors_of_stores():
            return _try_store(folder, str(where), clock)
    except (OSError, ValueError) as error:
        reason, remedy = str(error), "Credentials, name, network?"
        if "://" not in str(where):  # the error names a scratch file, which helps nobody
            reason, remedy = getattr(error, "strerror", None) or reason, "Take another --workdir"
        text = f"{where} cannot be written: {' '.join(reason.split())[:300]}"
        return [Finding("store", bad, f"{text}. {remedy}")]


@contextlib.contextmanager
def _folder(where: str | Path) -> Iterator[storage.Folder]:
    if "://" in str(where):
        yield storage.open_folder(str(where))
        return
    there = storage.nearest(Path(where).expanduser())
    with tempfile.TemporaryDirectory(dir=there, prefix="miro-jax-doctor-") as made:
        yield storage.open_folder(made)


def _try_store(folder: storage.Folder, where: str, clock: Callable[[], float]) -> list[Finding]:
    name, taken = f"doctor-{uuid.uuid4().hex}", []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(2):
            path = Path(scratch) / str(number)
            path.write_bytes(b"%d" % number)
            taken.append(folder.create(name, path))
            if not number:
                now = clock()
    try:
        held, stamp = folder.read(name), folder.stamp(name)
    finally:
        folder.remove(name)
    if taken != [True, False] or held != b"0":
        text = f"{where} gives a name to two who create it: runs there would not keep apart. "
        return [Finding("store", FAILED, text + "Take another store")]
    text = f"{where} takes files, each name once"
    return [Finding("store", OK, text), _skew(stamp, now)]


def _skew(stamp: str, now: float) -> Finding:
    """Compare our clock with the time that a store gave a file."""
    remedy = "set the clock: timedatectl set-ntp true, or chronyc makestep"
    if now < _INSTALLED.stat().st_mtime - 86400:
        text = f"it is before the package was installed: {remedy}; certificates fail until then"
        return Finding("clock", FAILED, text)
    match = re.search(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)", stamp)
    nanoseconds = re.fullmatch(r"\d+ (\d{18,}) \d+", stamp)  # of a file on a disk
    if match:
        when = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00").timestamp()
    elif nanoseconds:
        when = int(nanoseconds[1]) / 1e9
    else:
        return Finding("clock", OK, "plausible; the store tells no time")
    skew = now - when
    if abs(skew) > MOST_SKEW:
        return Finding("clock", WARNING, f"{skew:+.0f} s against the store's: {remedy}")
    return Finding("clock", OK, f"within {max(abs(skew), 1):.0f} s of the store's")


def coordinator() -> list[Finding]:
    """Return whether process 0 of a run can be reached; nothing where there is one process."""
    try:
        found = cluster.find()
    except ValueError as error:
        return [Finding("processes", FAILED, str(error))]
    if found is None or found.count == 1:
        return [Finding("processes", OK, "one: no scheduler names more")]
    who = f"process {found.index} of {found.count} ({found.why})"
    if found.index == 0:
        try:
            socket.create_server(("", found.port)).close()
        except OSError as error:
            text = f"{who}: port {found.port} is taken ({error.strerror}): end who holds it"
            return [Finding("processes", FAILED, text)]
        return [Finding("processes", OK, f"{who}; port {found.port} is free")]
    why = roll_call.reach(found.host, found.port, _REACH_SECONDS)
    if why in ("", "Connection refused"):  # the host answers; process 0 need not run yet
        state = "it listens" if not why else "it does not listen yet"
        return [Finding("processes", OK, f"{who}; process 0 at {found.address}: {state}")]
    text = f"{who}; process 0 at {found.address}: {why}. Let tcp:{found.port} pass between all "
    text += f"hosts, or take a port that may (config.mesh.coordinator=HOST:{cluster.OLD_PORT})"
    return [Finding("processes", FAILED, text)]


def weights(names: Sequence[str], cache: Path) -> list[Finding]:
    """Return which published weights are in the cache of the hub.

    Args:
      names: as of `miro-jax weights pull`: these must be there, and their digests are computed;
        none: what is there is listed.

    Raises:
      UsageError: an unknown name.
    """
    if names:
        needs = pull.choose(names)
        return [_examined(need, cache) for need in needs]
    known = [name for name in pull.needs() if "@" not in name]
    here = [name for name in known if all(_files(n, cache) for n in pull.needs()[name])]
    text = ", ".join(here) or f"none in {cache}; miro-jax weights pull NAME fetches them"
    return [Finding("weights", OK, text)]


def _files(need: pull.Need, cache: Path) -> list[Path]:
    """The files of a need in the cache's newest snapshot; none unless all are there."""
    folder = cache / f"models--{need.source.replace('/', '--')}"
    snapshots = sorted((folder / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime)
    for snapshot in reversed(snapshots):
        there = [str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file()]
        with contextlib.suppress(FileNotFoundError):
            if chosen := need.choose(there):
                return [snapshot / name for name in chosen]
    return []


def _examined(need: pull.Need, cache: Path) -> Finding:
    name = f"weights {need.source}"
    files = _files(need, cache)
    if not files:
        text = f"not in {cache}: miro-jax weights pull, or let this machine reach the hub"
        return Finding(name, FAILED, text)
    checked = 0
    for path in files:
        digest = path.resolve().name  # the cache names large files by their SHA-256
        if re.fullmatch(r"[0-9a-f]{64}", digest):
            if digest_regular(path.resolve()) != digest:
                text = f"{path} is damaged: delete {path.resolve()} and fetch it again"
                return Finding(name, FAILED, text)
            checked += 1
    return Finding(name, OK, f"{counted(len(files), 'file')}, {checked} of them by their digest")
