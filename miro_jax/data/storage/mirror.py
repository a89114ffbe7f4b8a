"""A local folder that follows a folder in an object store, in which a run works.

A store cannot append, and the libraries that write checkpoints know disks best. So a run has a
local folder; this module brings what is missing there at the start, and from then on uploads what
has changed, every few seconds and at the end.

The folder in the store is whole at every moment. A folder below `checkpoints` counts once it has
COMMIT: that file is uploaded after all others of it, and deleted first. All other files come before
the checkpoints that are committed with them, so a store that holds the checkpoint of step s holds
the lines of metrics up to s as well. So do the states of a study, of which each is a file that is
replaced: one that was replaced while other files were sent is left to the next upload.

The store is the truth. Only where nobody else has written to it since our last upload, which
`.mirror.json` tells, what a killed process left here, newer than the store, is kept.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import read_json
from miro_jax.data.storage.base import SCRATCH
from miro_jax.data.storage.files import (
    TEMPORARY,
    published,
    remove_leftovers,
    to_json,
    write_atomic,
)
from miro_jax.data.storage.lease import Lease, locked
from miro_jax.data.storage.remote import RemoteFolder, errors_of_stores

VARIABLE = "MIRO_JAX_SCRATCH"
CHECKPOINTS, COMMIT = "checkpoints", "commit_success.txt"
MARKER, LOCK_NAME = ".mirror.json", ".lock-mirror"
STATES = "study/states-"  # begins the names of files that come after what they were measured with
_SCHEMA = {"url": str, "files": {str: [(str, int)]}}
_THREADS = 8  # that upload or fetch
_IN_MEMORY = 64 * 2**20  # bytes of a file that is read before it is sent: it may grow meanwhile
_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS, _SECONDS_BETWEEN_LOOKS = 3, 2.0, 0.2
log = logging.getLogger("miro_jax")


@dataclasses.dataclass(frozen=True)
class _Known:
    """A file that is in both folders. stamp: in the store. size, time: of the local one."""

    stamp: str
    size: int
    time: int


def scratch_root() -> Path:
    """Return where copies of what lies in stores are kept: `$MIRO_JAX_SCRATCH`, or a cache."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "miro-jax"


def origin(folder: str | os.PathLike) -> str | None:
    """Return the URL that a local folder is the mirror of; None where it is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return read_json(Path(folder) / MARKER, _SCHEMA)["url"]
    return None


def wait_for_upload(folder: str | os.PathLike) -> None:
    """Return when the checkpoints of a mirror, which this process uploads, are in the store."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            if _commits(Path(folder)) <= read_json(Path(folder) / MARKER, _SCHEMA)["files"].keys():
                return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


@contextlib.contextmanager
def local_folder(url: str, first: int = 0) -> Iterator[Path]:
    """Give a local folder for a URL to this process alone: the same one in the next start.

    Args:
      url: of the folder in the store. first: number of the folder that is tried first.

    Raises:
      PermissionError: none can be made.
    """
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with contextlib.ExitStack() as held:
        for number in itertools.count(first):  # several processes of a machine have one each
            folder = scratch_root() / "runs" / f"{name}-{number}" / url.rpartition("/")[2]
            with contextlib.suppress(BlockingIOError):
                held.enter_context(locked(folder, LOCK_NAME))
                break
        yield folder


def finished_steps(names: Iterable[str]) -> set[int]:
    """Return the steps of the checkpoints that were uploaded whole, of names in a run's folder."""
    steps = {_step(name) for name in names if _rank(name) == 2}
    return {step for step in steps if step >= 0}


class Mirror:
    """The two folders. Use it as a context manager, or call `push` at the end.

    Args:
      store: the folder in the store. local: the one here.
      every_seconds: between uploads in the background; 0 uploads nothing, also not at the end.
      newest: so many checkpoints are fetched; older ones stay in the store.
      lease: of the folder in the store, checked before it is written.
      ignored: names of files that are left as they are on both sides.
      only: name of the only file that is uploaded, as of a process that others do the rest for.
      stays: whether an older checkpoint that was not fetched stays in the store for good. Others
        are deleted there: a lost machine had uploaded a newer one, and not deleted them yet.
    """

    def __init__(
        self,
        store: RemoteFolder,
        local: Path,
        every_seconds: float,
        newest: int = 2,
        lease: Lease | None = None,
        ignored: Collection[str] = (),
        only: str | None = None,
        stays: Callable[[int], bool] = lambda step: True,
    ):
        self.store, self.local = store, local
        self._every, self._newest, self._lease = every_seconds, newest, lease
        self._ignored, self._only, self._stays = ignored, only, stays
        self._guard, self._ended = threading.Lock(), threading.Event()
        self._known = self._read_marker()

    def __enter__(self) -> "Mirror":
        if self._every:
            self._thread = threading.Thread(target=self._follow, daemon=True, name="mirror")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if not self._every:
            return
        self._thread.join()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with errors_of_stores():
                    return self.push()
            except OSError as error:
                if attempt == _ATTEMPTS:
                    raise OSError(
                        f"{self.store} could not be brought up to date: {error}. What it lacks is "
                        f"in {self.local}; the same command on this machine uploads it."
                    ) from error
                time.sleep(_SECONDS_BETWEEN_ATTEMPTS)

    def fetch(self) -> None:
        """Bring here what the store has; see the module for which of the two is right.

        Raises:
          OSError: it cannot be read.
        """
        tree = self.store.tree()
        stored = self._fetched(tree)
        if self._known and stored.keys() <= self._known.keys():
            if all(known.stamp == tree.get(n, (0, ""))[1] for n, known in self._known.items()):
                return  # nobody else has written since: what is newer here is ours
        present = self._present()
        missing = [
            name
            for name, (_, stamp) in stored.items()
            if name not in self._known
            or self._known[name].stamp != stamp
            or present.get(name) != (self._known[name].size, self._known[name].time)
        ]
        for name in present.keys() - stored.keys():
            (self.local / name).unlink(missing_ok=True)
        for left in self.local.rglob(f"*{TEMPORARY}*"):  # by a fetch that was killed
            remove_leftovers(left.with_name(left.name.partition(TEMPORARY)[0]))
        _each(self._fetch_one, missing)
        self._known = self._with_stamps(stored, stored)
        self._write_marker()
        log.info("%d files of %s are copied to %s", len(missing), self.store, self.local)

    def push(self) -> None:
        """Upload what has changed here; returns when it is in the store.

        Raises:
          OSError: it cannot be written, or another process has taken the run over.
        """
        with self._guard:
            present = self._present()  # of checkpoints, committed ones: other files come after them
            changed = [n for n, facts in present.items() if facts != self._local_facts(n)]
            gone = [name for name in self._known if name not in present]
            if self._only is not None:
                changed, gone = [name for name in changed if name == self._only], []
            if not changed and not gone:
                return
            if self._lease is not None:
                self._lease.check()
            replaced: set[str] = set()

            def upload(name: str) -> None:
                if not self._upload_one(name, present[name]):
                    replaced.add(name)

            within = {_checkpoint(name) for name in changed} - {None}
            for folder in within:  # one that is written again is whole only at the end
                if f"{folder}/{COMMIT}" in self._known:
                    self.store.remove(f"{folder}/{COMMIT}")
                    changed.append(f"{folder}/{COMMIT}")
            for rank in range(3):
                _each(upload, {name for name in changed if _rank(name) == rank})
                if self._lease is not None:
                    self._lease.check()
            self._remove(gone)
            stored = self.store.tree()
            if self._only is None:
                self._remove(_left_over(stored, present, self._stays))
            changed = [name for name in changed if name not in replaced]
            # Of files that we did not send, others may have sent another one meanwhile.
            kept = {n: known for n, known in self._known.items() if n not in {*changed, *gone}}
            self._known = kept | self._with_stamps(stored, changed, present)
            self._write_marker()

    def _follow(self) -> None:
        failing_since = None
        while not self._ended.wait(self._every):
            try:
                with errors_of_stores():
                    self.push()
                failing_since = None
            except OSError as error:
                failing_since = failing_since or time.monotonic()
                log.warning(
                    "%s was not brought up to date, for %.0f s now; the run goes on: %s",
                    *(self.store, time.monotonic() - failing_since, error),
                )

    def _fetched(self, stored: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        """Return what of a store is fetched: of checkpoints the newest that are committed."""
        steps = sorted(finished_steps(stored), reverse=True)
        wanted = {f"{CHECKPOINTS}/{step}" for step in steps[: self._newest]}
        return {
            name: facts
            for name, facts in stored.items()
            if not self._is_ours_alone(name) and _checkpoint(name) in (None, *wanted)
        }

    def _is_ours_alone(self, name: str) -> bool:
        """Return whether a file is of one machine, or not finished."""
        parts = name.split("/")
        return name in self._ignored or any(
            part.startswith((".lock", MARKER, SCRATCH))
            or TEMPORARY in part
            or part.endswith("-tmp")
            for part in parts
        )

    def _present(self) -> dict[str, tuple[int, int]]:
        """Return size and time of the local files that belong into the store, by name."""
        # First of all: a checkpoint that is committed later may need lines that were not seen.
        commits, found = _commits(self.local), {}
        for folder, _, files in os.walk(self.local):
            for file in files:
                path = Path(folder, file)
                name = path.relative_to(self.local).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    if not self._is_ours_alone(name):
                        found[name] = facts.st_size, facts.st_mtime_ns
        commits &= found.keys()
        return {
            name: facts
            for name, facts in found.items()
            if (folder := _checkpoint(name)) is None or f"{folder}/{COMMIT}" in commits
        }

    def _local_facts(self, name: str) -> tuple[int, int] | None:
        known = self._known.get(name)
        return known and (known.size, known.time)

    def _upload_one(self, name: str, seen: tuple[int, int]) -> bool:
        """Send a file; returns False where it was replaced, and must be as it was `seen`."""
        path = self.local / name
        try:
            if name.startswith(STATES):
                data, facts = path.read_bytes(), path.stat()
                if (facts.st_size, facts.st_mtime_ns) != seen:
                    return False
                self.store.write(name, data)
            elif path.stat().st_size > _IN_MEMORY:
                self.store.put(name, path)
            else:
                self.store.write(name, path.read_bytes())
        except FileNotFoundError as error:
            if path.exists():  # then it is the bucket that is not there
                raise
            if _checkpoint(name) is not None:  # old ones are deleted: the next push sees it
                raise OSError(f"{path} was deleted while it was uploaded") from error
        return True

    def _remove(self, names: Collection[str]) -> None:
        for rank in (2, 1, 0):  # what commits a checkpoint goes before what it commits
            _each(self.store.remove, [name for name in names if _rank(name) == rank])

    def _fetch_one(self, name: str) -> None:
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with published(path, durable=False) as file:
            self.store.fetch(name, file.name)

    def _with_stamps(
        self,
        stored: Mapping[str, tuple[int, str]],
        names: Iterable[str],
        facts: Mapping[str, tuple[int, int]] | None = None,
    ) -> dict[str, _Known]:
        facts = self._present() if facts is None else facts
        return {
            name: _Known(stored[name][1], *facts[name])
            for name in names
            if name in stored and name in facts
        }

    def _read_marker(self) -> dict[str, _Known]:
        try:
            marker = read_json(self.local / MARKER, _SCHEMA)
            known = {name: _Known(*fields) for name, fields in marker["files"].items()}
        except (FileNotFoundError, ValueError, TypeError):
            return {}
        return known if marker["url"] == str(self.store) else {}

    def _write_marker(self) -> None:
        files: dict[str, Any] = {n: dataclasses.astuple(known) for n, known in self._known.items()}
        write_atomic(self.local / MARKER, to_json({"url": str(self.store), "files": files}))


def _commits(local: Path) -> set[str]:
    """Return the names of the files that commit the checkpoints which are here."""
    return {path.relative_to(local).as_posix() for path in local.glob(f"*/*/{COMMIT}")}


def _checkpoint(name: str) -> str | None:
    """Return the folder of the checkpoint that a file belongs to; None where it is of none."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == CHECKPOINTS and len(parts) > 2 else None


def _step(folder: str) -> int:
    """Return the step of a checkpoint's folder; -1 where its name is no step."""
    name = folder.split("/")[1]
    return int(name) if name.isdecimal() else -1


def _rank(name: str) -> int:
    """Return when a file is uploaded: 0 any, 1 a state, or of a checkpoint, 2 what commits one."""
    folder = _checkpoint(name)
    if folder is None:
        return 1 if name.startswith(STATES) else 0
    return 2 if name == f"{folder}/{COMMIT}" else 1


def _left_over(
    stored: Collection[str], present: Collection[str], stays: Callable[[int], bool]
) -> list[str]:
    """Return what a lost machine left in the store: parts of checkpoints that no longer count.

    So does a whole one that is older than ours, unless it `stays`.
    """
    here = {_checkpoint(name) for name in present} - {None}
    newest = max((_step(folder) for folder in here if folder), default=-1)

    def counts(folder: str) -> bool:
        if folder in here or f"{folder}/{COMMIT}" not in stored:
            return False
        return not 0 <= (step := _step(folder)) < newest or stays(step)

    return [
        name
        for name in stored
        if (folder := _checkpoint(name)) is not None and name not in present and not counts(folder)
    ]


def _each(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Do something with many names at a time; raises the first error, after all have ended."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(action, name) for name in sorted(names)]:
            done.result()
