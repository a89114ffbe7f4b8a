"""Records in an object store, staged to a disk of this machine shard by shard.

`open_copy` gives a local folder with all of a set but its shards, which are large. Shards come when
they are read, and ahead of it, and go when others need the room. Each is compared with the digest
of its sidecar before a record of it is read.
"""

import bisect
import concurrent.futures
import contextlib
import hashlib
import itertools
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from miro_jax.data.json_file import read_json
from miro_jax.data.records.bins import BINS_NAME
from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest
from miro_jax.data.records.shards import COPY_NAME, SHARD_SUFFIX, read_sidecar, stamp_of
from miro_jax.data.regular_file import digest_regular
from miro_jax.data.storage import Damaged, LocalFolder, RemoteFolder
from miro_jax.data.storage.ahead import map_ahead
from miro_jax.data.storage.files import locked_folder, to_json, write_atomic
from miro_jax.data.storage.mirror import scratch_root
from miro_jax.data.storage.remote import errors_of_stores

_SCHEMA = {"url": str, "stamps": [(str, None)]}
_THREADS = 4  # each fetches a shard
_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS = 3, 2.0
_FREE_SHARE = 0.9  # of the free disk, that shards may take
log = logging.getLogger("miro_jax")


def open_copy(url: str) -> Path:
    """Return the local folder of a set in a store, brought up to date but for the shards.

    Where the store has no finished set, the folder has none either.

    Raises:
      OSError: the store cannot be read. ValueError: it cannot be opened.
    """
    store = RemoteFolder(url)
    digest = hashlib.sha256(str(store).encode()).hexdigest()[:16]
    local = scratch_root() / "records" / digest / str(store).rpartition("/")[2]
    local.parent.mkdir(parents=True, exist_ok=True)
    with locked_folder(local.parent, waits=True):  # one process of this machine copies
        _update(store, local)
    return local


def _update(store: RemoteFolder, local: Path) -> None:
    """Copy a set in a store but for its shards, unless the local copy is of what is there now."""
    for folder in (local.parent, local):
        LocalFolder(folder).remove_scratch()
    stamps = [stamp_of(store, name) for name in (MANIFEST_NAME, BINS_NAME)]
    with contextlib.suppress(FileNotFoundError, ValueError):
        if read_json(local / COPY_NAME, _SCHEMA)["stamps"] == stamps:
            return
    with LocalFolder(local.parent).scratch("") as made:
        if stamps[0] is not None:
            names = [n for n in store.tree() if not n.endswith(SHARD_SUFFIX) and "/" not in n]
            for _ in map_ahead(lambda name: store.fetch(name, made / name), names):
                pass
        write_atomic(made / COPY_NAME, to_json({"url": str(store), "stamps": stamps}))
        shutil.rmtree(local, ignore_errors=True)  # of another set
        with contextlib.suppress(OSError):  # where there are no locks, another was quicker
            os.rename(made, local)
    log.info("%s is copied to %s but for its shards", store, local)


def source_of(folder: str | os.PathLike) -> RemoteFolder | None:
    """Return the folder in a store that a local one is the copy of; None where it is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return RemoteFolder(read_json(Path(folder) / COPY_NAME, _SCHEMA)["url"])
    return None


def open_shard(folder: str | os.PathLike, name: str) -> ArrayRecordReader:
    """Open a shard of a local folder; fetch it first where the folder is a copy.

    Another process of this machine may delete the file of a copy; what is open stays readable.
    """
    store = source_of(folder)
    if store is None:
        return ArrayRecordReader(str(Path(folder) / name))
    return _open_shard(store, name, Path(folder))


class StagedRecords:
    """The records of a copy by their index in the set; each read waits for its shard.

    Args:
      folder: of `open_copy`.
      near: position of the stream -> the shards to have here, the first ones first; None for all.
      most_shards: that `near` names at a time.
      most_bytes: that shards may take on the disk; 0 is most of what is free.
      stagers: processes of this machine that share what is free.

    Raises:
      ValueError: so many shards take more.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        near: Callable[[int], Sequence[int]] | None = None,
        most_shards: int | None = None,
        most_bytes: int = 0,
        stagers: int = 1,
    ):
        self._folder, self._near = Path(folder), near
        store = source_of(folder)
        if store is None:
            raise ValueError(f"{folder} must be the copy of a set in a store; it is none.")
        self._store, manifest = store, Manifest.load(folder)
        if manifest.extends:
            raise ValueError(f"{store} extends other records: copy both sets to this machine.")
        self._names = manifest.shard_names
        sidecars = [read_sidecar(LocalFolder(folder), name) for name in self._names]
        counts = [sidecar["count"] for sidecar in sidecars]
        if counts != [manifest.shards[name] for name in self._names]:
            raise ValueError(f"{store} must hold the records of its manifest. Annotate again.")
        self._ends = list(itertools.accumulate(counts))
        self._sizes = [sidecar["bytes"] for sidecar in sidecars]
        self._most = most_bytes or int(_FREE_SHARE * self._room() / stagers)
        self._all_fit = sum(self._sizes) <= self._most
        needed = sum(sorted(self._sizes)[-(most_shards or len(self._names)) :])
        if needed > self._most:
            raise ValueError(
                f"{store} needs {needed / 1e9:.1f} GB of disk in {self._folder} at a time; it may "
                f"take {self._most / 1e9:.1f} GB. Set config.data.shuffle_shards, or a smaller "
                "one, to have few shards here at a time, or MIRO_JAX_SCRATCH to a larger disk."
            )
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "staging")
        self._readers: dict[int, concurrent.futures.Future[ArrayRecordReader]] = {}
        self._changed = threading.Condition()
        self._wanted, self._position, self._under_way = [], -1, set()
        self._here = {i for i, name in enumerate(self._names) if (self._folder / name).exists()}
        log.info("%.1f GB of %s are in %s at a time", needed / 1e9, store, self._folder)

    def _room(self) -> int:
        """Return the bytes that are free, those of shards that are here already included."""
        here = sum(path.stat().st_size for path in self._folder.glob(f"*{SHARD_SUFFIX}"))
        return shutil.disk_usage(self._folder).free + here

    def __len__(self) -> int:
        return self._ends[-1]

    def at(self, position: int) -> None:
        """Say what is read next, a position of the stream: its shards are fetched ahead."""
        with self._changed:
            if position <= self._position:  # of a reader that is behind others
                return
            self._position = position
            near = range(len(self._names)) if self._near is None else self._near(position)
            if list(near) != self._wanted:
                self._wanted = list(near)
                for shard in near:
                    self._start(shard)

    def __getitem__(self, index: int) -> bytes:
        """Return a record; RuntimeError where it is damaged, OSError where its shard is."""
        shard = bisect.bisect_right(self._ends, index)
        with self._changed:
            reader = self._start(shard)
        begin = self._ends[shard - 1] if shard else 0
        return reader.result().read([index - begin])[0]

    def close(self) -> None:
        """Stop fetching ahead."""
        with self._changed:
            self._wanted, self._position = [], -1
            self._readers = {s: r for s, r in self._readers.items() if not r.cancel()}

    def _start(self, shard: int) -> "concurrent.futures.Future[ArrayRecordReader]":
        """Begin to fetch a shard unless it is here or on its way."""
        if shard not in self._readers:
            self._readers[shard] = self._pool.submit(self._open, shard)
        return self._readers[shard]

    def _open(self, shard: int) -> ArrayRecordReader:
        name = self._names[shard]
        with self._changed:
            self._make_room(shard)
            self._under_way.add(shard)
        try:
            return _open_shard(self._store, name, self._folder)
        finally:
            with self._changed:
                self._under_way.discard(shard)
                self._here.add(shard)
                self._changed.notify_all()

    def _make_room(self, shard: int) -> None:
        """Delete shards, also of an earlier start, until one more fits; may wait for others.

        Those go first that nobody wants, then those that are wanted last. Whoever reads of one at
        this moment still has the file open.
        """
        while not self._all_fit:
            taken = sum(self._sizes[s] for s in {shard} | self._here | self._under_way)
            if taken <= self._most:
                return
            last = {s: place for place, s in enumerate(self._wanted)}
            own = last.get(shard, 0)
            deletable = [
                s
                for s in self._here
                if s != shard and s not in self._under_way and last.get(s, math.inf) > own
            ]
            for other in sorted(deletable, key=lambda s: last.get(s, math.inf), reverse=True):
                self._readers.pop(other, None)
                self._here.discard(other)
                (self._folder / self._names[other]).unlink(missing_ok=True)
                taken -= self._sizes[other]
                if taken <= self._most:
                    return
            if not self._under_way:
                return
            self._changed.wait()


def _open_shard(store: RemoteFolder, name: str, folder: Path) -> ArrayRecordReader:
    """Open a shard that has the digest of its sidecar; fetch it first where it is not here.

    It is opened before it is checked, and before it gets its name: other processes of this machine
    may delete it at any moment.
    """
    sha256, path = read_sidecar(LocalFolder(folder), name)["sha256"], folder / name
    reader = ArrayRecordReader(str(path))
    with contextlib.suppress(FileNotFoundError):
        if reader.ok() and digest_regular(path) == sha256:
            return reader
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with errors_of_stores(), LocalFolder(folder).scratch("") as scratch:
                fetched = store.local(name, scratch)
                reader, is_whole = (
                    ArrayRecordReader(str(fetched)),
                    digest_regular(fetched) == sha256,
                )
                if is_whole and not reader.ok():
                    raise Damaged(f"{store / name} has the digest of its sidecar and no index.")
                if is_whole:
                    os.replace(fetched, path)
                    return reader
        except OSError as error:
            if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError | Damaged):
                raise
            log.warning("%s is fetched again: %s", store / name, error)
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    path.unlink(missing_ok=True)
    raise Damaged(
        f"{store / name} differs from its sha256 {sha256}. Delete it and run the annotate stage "
        "again: it makes what is missing."
    )
