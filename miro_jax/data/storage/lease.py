"""One process at a time: a lease on a folder of this machine, of a shared disk, or of a store.

    with locked(folder):                      # BlockingIOError names who has it
        ...
    with locked(workdir, ".lock-train") as lease:    # one of several in a folder
        ...
        lease.check()                         # before what two processes must not both write

A file names the holder: host, pid, since when. It goes at the end; after a kill it stays, and the
next process takes the lease over with a line in the log. What shows that the holder lives:

    its own machine    the kernel, which holds a lock on the file (flock) for it; where there are no
                       such locks, as in object stores, its process id
    any other          a counter in the file that the holder raises every BEAT_SECONDS: one that
                       stands still for STALE_SECONDS is dead

Clocks of two machines are never compared: the observer measures with its own, which cannot jump.
A holder that slept and wakes learns from its next beat that it lost, or its follower does: of two,
one at most goes on.
"""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from miro_jax.data.json_file import parse_json
from miro_jax.data.storage.base import ATTEMPTS, Folder
from miro_jax.data.storage.local import LocalFolder
from miro_jax.data.storage.remote import errors_of_stores

LOCK_NAME = ".lock"
BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0
_TAKING = ".taking-"  # between the name of a lease and a digest of the token of its holder
_LARGEST = 4096  # bytes of a lease
_CANNOT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
log = logging.getLogger("miro_jax")


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Who has a lease. machine: boot and pid namespace. started: of the process, in its ticks."""

    host: str = ""
    pid: int = 0
    since: str = ""
    machine: str = ""
    started: str = ""
    token: str = ""
    beat: int = 0

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}, since {self.since}" if self.host else "unknown"

    def to_bytes(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "_Holder":
        """Read what `to_bytes` wrote; anything else is a holder of whom nothing is known."""
        try:
            schema = {f.name: type(f.default) for f in dataclasses.fields(cls)}
            return cls(**parse_json(data[:_LARGEST], LOCK_NAME, schema))
        except (ValueError, TypeError):
            return cls(token=data.decode("utf-8", "replace"))

    def is_gone(self, locks: bool) -> bool | None:
        """Return whether the process has ended; None where this machine does not know."""
        boot, namespace = _machine().split()
        if self.machine.split()[:1] == [boot] and locks:
            return True  # or the kernel would not have given the lock to us
        if self.machine != f"{boot} {namespace}":
            return None
        with contextlib.suppress(PermissionError):
            try:
                os.kill(self.pid, 0)
            except (ProcessLookupError, OverflowError):
                return True
        return self.started != _started(self.pid)


def _us() -> _Holder:
    return _Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=_machine(),
        started=_started(os.getpid()),
        token=uuid.uuid4().hex,
    )


def _machine() -> str:
    """Return what two processes share that see each other's ids: boot and pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{uuid.getnode()} -"


def _started(pid: int) -> str:
    """Return when a process began, which tells it from a later one of its id; "" if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Lease:
    """A lease that this process holds; made by `locked`."""

    def __init__(self, note: "_StoredNote", subject: str, exit_if_lost: bool):
        self._note, self._subject, self._us = note, subject, _us()
        self._exit_if_lost = exit_if_lost
        self._ended, self._guard = threading.Event(), threading.Lock()
        self._lost = ""

    def check(self) -> None:
        """Raise OSError if another process has taken the lease over, as after a long suspension."""
        if self._lost:
            raise OSError(f"{self._subject} was taken over by another process ({self._lost}).")

    def acquire(self) -> None:
        """Take the lease; BlockingIOError where somebody has it who lives."""
        for _ in range(ATTEMPTS):
            present = self._note.create(self._us)
            if present is None:  # its holder ended at this moment
                continue
            if present == self._us or self._take_over(present):
                threading.Thread(target=self._beat, daemon=True, name="lease").start()
                return
        raise OSError(f"{self._subject} cannot be claimed: {self._note} changes all the time.")

    def _take_over(self, present: _Holder) -> bool:
        """Return whether a dead holder's lease is ours now."""
        gone = present.is_gone(self._note.locks)
        if gone is False:
            raise _in_use(self._subject, present)
        if gone is None:
            log.warning(
                "%s was claimed by another machine (%s): waiting %.0f s for a sign of life",
                self._subject,
                present,
                STALE_SECONDS,
            )
            begin = time.monotonic()
            while time.monotonic() - begin < STALE_SECONDS:
                if (now := self._note.read()) is None:
                    return False
                if now != present:
                    raise _in_use(self._subject, now)
                time.sleep(min(BEAT_SECONDS, STALE_SECONDS) / 10)
        with self._note.alone(present, self._us):
            if self._note.read() != present:
                return False
            self._note.write(self._us)
        log.warning("%s is taken over from a process that has ended (%s)", self._subject, present)
        return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with self._guard:
                if self._ended.is_set():
                    return
                try:
                    with errors_of_stores():
                        present = self._note.read()
                        if present is None or present.token != self._us.token:
                            return self._lose(present)
                        self._us = dataclasses.replace(self._us, beat=self._us.beat + 1)
                        self._note.write(self._us)
                except OSError as error:  # a full disk, a network: the next beat may succeed
                    log.info("The lease of %s was not renewed: %s", self._subject, error)

    def _lose(self, present: _Holder | None) -> None:
        self._lost = str(present or "unknown")
        log.error("%s was taken over by another process (%s)", self._subject, self._lost)
        if self._exit_if_lost:
            print(f"miro_jax: error: {self._subject} was taken over", file=sys.stderr, flush=True)
            os._exit(1)

    def release(self) -> None:
        """End the heartbeat, and the lease where it is still ours."""
        self._ended.set()
        with self._guard, contextlib.suppress(OSError):
            present = self._note.read()
            if present is not None and present.token == self._us.token:
                self._note.remove()


class _StoredNote:
    """The file of a lease, by the means that every folder has."""

    locks = False  # whether the kernel tells who lives

    def __init__(self, folder: Folder, name: str):
        self.folder, self.name = folder, name

    def __str__(self) -> str:
        return self.folder / self.name

    def create(self, us: _Holder) -> _Holder | None:
        """Write the file unless there is one; return who has it."""
        return _Holder.from_bytes(self.folder.claim(self.name, us.to_bytes(), ""))

    def read(self) -> _Holder | None:
        with contextlib.suppress(FileNotFoundError):
            return _Holder.from_bytes(self.folder.read(self.name))
        return None

    def write(self, us: _Holder) -> None:
        self.folder.write(self.name, us.to_bytes(), durable=False)

    def remove(self) -> None:
        self.folder.remove(self.name)

    @contextlib.contextmanager
    def alone(self, present: _Holder, us: _Holder) -> Iterator[None]:
        """Let one of several that saw the same dead holder take over; refuse the others."""
        token = hashlib.sha256(present.token.encode("utf-8", "replace")).hexdigest()
        marker = f"{self.name}{_TAKING}{token[:32]}"
        first = _Holder.from_bytes(self.folder.claim(marker, us.to_bytes(), ""))
        if first != us:
            raise BlockingIOError(
                f"{self} is taken over by another process now ({first}). Wait for it; if it has "
                f"ended, delete {self.folder / marker}."
            )
        try:
            yield
        finally:
            self.folder.remove(marker)


class _LocalNote(_StoredNote):
    """The same of a local folder, written in place: the kernel's lock is one of the inode."""

    def __init__(self, folder: LocalFolder, name: str, subject: str):
        super().__init__(folder, name)
        self._path, self._subject, self._descriptor = folder.path / name, subject, -1

    def create(self, us: _Holder) -> _Holder | None:
        self.close()
        super().create(us)
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.locks = True
        except BlockingIOError as error:
            raise _in_use(self._subject, self.read()) from error
        except OSError as error:
            log.info("%s cannot be locked: %s", self._path, error.strerror)
        return self.read()

    def read(self) -> _Holder | None:
        with contextlib.suppress(FileNotFoundError):
            # Opened anew, for another machine's changes; None where the file is another one now.
            if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                return _Holder.from_bytes(self._path.read_bytes())
        return None

    def write(self, us: _Holder) -> None:
        os.pwrite(self._descriptor, us.to_bytes().ljust(_LARGEST), 0)

    def alone(self, present: _Holder, us: _Holder) -> contextlib.AbstractContextManager[None]:
        if self.locks and present.is_gone(self.locks):
            return contextlib.nullcontext()  # no other machine has a say
        return super().alone(present, us)

    def close(self) -> None:
        """Give the kernel's lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def locked(
    folder: Folder | str | os.PathLike,
    name: str = LOCK_NAME,
    subject: str = "",
    exit_if_lost: bool = False,
) -> Iterator[Lease]:
    """Hold a folder for this process alone; a local one is made where it is missing.

    Args:
      folder: which, or its local path.
      name: of the file; leases of different names do not exclude each other.
      subject: what is held, for messages; the folder by default.
      exit_if_lost: end this process at once, without a further write, if another one takes the
        lease over, as it may do elsewhere after a long suspension of this one.

    Raises:
      BlockingIOError: another process has it; the text names its host, pid and start.
      PermissionError: the folder cannot be written.
    """
    folder = folder if isinstance(folder, Folder) else LocalFolder(folder)
    subject = subject or str(folder)
    local = _LocalNote(folder, name, subject) if isinstance(folder, LocalFolder) else None
    lease = Lease(local or _StoredNote(folder, name), subject, exit_if_lost)
    try:
        try:
            lease.acquire()
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            raise PermissionError(
                f"{folder} must be a folder that can be written; got: {error.strerror}. Name "
                "another."
            ) from error
        try:
            yield lease
        finally:
            lease.release()
    finally:
        if local is not None:
            local.close()


def _in_use(subject: str, holder: _Holder | None) -> BlockingIOError:
    return BlockingIOError(
        f"{subject} is in use by another process ({holder or 'unknown'}). Wait for it, or name "
        "another folder."
    )
