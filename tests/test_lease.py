"""A folder is one process's alone; that of a dead process is taken over, here and elsewhere."""

import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from miro_jax import main
from miro_jax.cli import run_folder
from miro_jax.data.storage import lease, open_folder
from miro_jax.data.storage.lease import LOCK_NAME, locked

ROOT = pathlib.Path(__file__).parent.parent
HOLD = """
import errno, sys
from miro_jax.data.storage import lease, open_folder
place, locks, machine, name = sys.argv[1:]
lease.BEAT_SECONDS = 0.02
if locks == "no locks":
    def refuse(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")
    lease.fcntl.flock = refuse
if machine:
    lease._machine = lambda: machine
with lease.locked(open_folder(place), name) as held:
    print("held", flush=True)
    for line in sys.stdin:
        try:
            held.check()
            print("ours", flush=True)
        except OSError as error:
            print(error, flush=True)
print("left", flush=True)
"""
ELSEWHERE = "another-boot pid:[1]"


@contextlib.contextmanager
def holder(place, locks="locks", machine="", name=LOCK_NAME):
    """A process that holds a folder; it ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), locks, machine, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def ask(process):
    """Ask a holder whether the folder is still its own."""
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline()


def kill(process):
    process.kill()
    process.wait()


STORES = [pytest.param(make, marks=pytest.mark.slow) for make in ("make_bucket", "make_gs_bucket")]


@pytest.fixture(params=["disk", "disk without locks", *STORES])
def shared(request, tmp_path):
    """A place, and how its holders are started."""
    if not request.param.startswith("disk"):
        return f"{request.getfixturevalue(request.param)()}/out", "locks"
    return str(tmp_path / "out"), "no locks" if "without" in request.param else "locks"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)


@pytest.fixture
def no_locks(shared, monkeypatch):
    if shared[1] == "no locks":

        def refuse(*arguments):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(lease.fcntl, "flock", refuse)
    return shared[1]


def test_a_second_process_is_refused_and_a_dead_one_is_followed(shared, no_locks, caplog):
    place, locks = shared
    with holder(place, locks) as first:
        text = f"{place} is in use by another process .host .*, pid {first.pid}, since 20.*Wait"
        with pytest.raises(BlockingIOError, match=text):
            with locked(open_folder(place)):
                pass
        assert ask(first) == "ours\n"
        kill(first)
        with locked(open_folder(place)):
            pass
        assert "is taken over from a process that has ended (host" in caplog.text
        assert f"pid {first.pid}, since 20" in caplog.text
    assert open_folder(place).names() == []


def test_a_holder_that_ends_leaves_nothing(shared, no_locks, caplog):
    place, locks = shared
    with holder(place, locks) as first:
        first.stdin.close()
        assert first.stdout.readline() == "left\n"
        first.wait()
    assert open_folder(place).names() == []
    with locked(open_folder(place)) as held:
        held.check()
        assert LOCK_NAME in open_folder(place).names()
    # Nobody waits for it or takes it over; a disk without locks is named, once a process.
    assert "miro_jax" not in [r.name for r in caplog.records if r.levelname != "INFO"]


def test_a_holder_on_another_machine_is_known_by_its_heartbeat(
    shared, no_locks, caplog, monkeypatch
):
    """Whose process is not seen here; without its locks either, as on most network disks."""
    place, locks = shared
    with holder(place, "no locks", ELSEWHERE) as first:
        monkeypatch.setattr(lease, "STALE_SECONDS", 60)  # it is refused at the first beat
        with pytest.raises(BlockingIOError, match=f"pid {first.pid}, since 20"):
            with locked(open_folder(place)):
                pass
        kill(first)
        monkeypatch.setattr(lease, "STALE_SECONDS", 0.5)
        with locked(open_folder(place)):
            pass
    assert "waiting 0 s for a sign of life" in caplog.text
    assert "is taken over from a process that has ended" in caplog.text


def test_a_holder_that_slept_too_long_learns_that_it_lost(shared, no_locks):
    place, locks = shared
    with holder(place, "no locks", ELSEWHERE) as first:
        first.send_signal(signal.SIGSTOP)
        with locked(open_folder(place)) as held:
            first.send_signal(signal.SIGCONT)
            answer = ask(first)
            while answer == "ours\n" and not held._lost:  # its next beat tells
                answer = ask(first)
            if held._lost:  # it was stopped just before it wrote: then the follower is to leave
                with pytest.raises(OSError, match="was taken over"):
                    held.check()
                return
            assert "was taken over by another process (host" in answer
            assert f"pid {os.getpid()}" in answer
            first.stdin.close()
            assert first.stdout.readline() == "left\n"
            held.check()
            assert LOCK_NAME in open_folder(place).names()  # not removed by the other


def test_of_several_that_follow_a_dead_process_one_has_it(shared, no_locks):
    place, locks = shared
    with holder(place, "no locks", ELSEWHERE) as first:
        kill(first)
    inside, most, refused, ready = [], [], [], threading.Barrier(4)
    done = threading.Event()

    def follow():
        folder = open_folder(place)
        ready.wait()
        try:
            with locked(folder):
                inside.append(1)
                most.append(len(inside))
                done.wait(20)
                inside.pop()
        except OSError as error:
            refused.append(error)
            if len(refused) == 3:
                done.set()

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] and len(refused) == 3
    assert all("in use by another" in str(e) or "taken over" in str(e) for e in refused)


def forge(place, **changes):
    """Write a lease of this machine."""
    us = lease._us()
    known = {**vars(us), "token": uuid.uuid4().hex, **changes}
    open_folder(place).write(LOCK_NAME, json.dumps(known).encode())


def test_a_process_of_the_same_id_is_not_the_holder(shared, no_locks, caplog):
    place, _ = shared
    forge(place, started="1")
    with locked(open_folder(place)):
        pass
    assert "is taken over from a process that has ended" in caplog.text


def test_clocks_do_not_matter(shared, no_locks, caplog):
    place, _ = shared
    forge(place, since="2999-01-01T00:00:00+00:00", machine=ELSEWHERE)
    with locked(open_folder(place)):
        pass
    assert "since 2999" in caplog.text


@pytest.mark.parametrize(
    "data", [b"", b"\xff\x00", b"host old, pid 1, 2020\n", b"[" * 9000, b"{}", b"../x"]
)
def test_a_lease_that_cannot_be_read_is_followed_when_it_stands_still(tmp_path, data, caplog):
    (tmp_path / LOCK_NAME).write_bytes(data)
    with locked(tmp_path):
        pass
    assert "(unknown)" in caplog.text and list(tmp_path.iterdir()) == []


def test_leases_of_other_names_do_not_exclude_each_other(tmp_path):
    with locked(tmp_path, ".lock-a"), locked(tmp_path, ".lock-b"):
        with pytest.raises(BlockingIOError, match="the run is in use"):
            with locked(tmp_path, ".lock-a", subject="the run"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PermissionError, match="file must be a folder that can be written"):
        with locked(tmp_path / "file"):
            pass


def test_no_link_is_followed(tmp_path):
    (tmp_path / "secret").write_text("mine")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        with locked(tmp_path):
            pass
    assert (tmp_path / "secret").read_text() == "mine"


def test_a_lease_that_cannot_be_renewed_now_is_kept(tmp_path, monkeypatch):
    """A network that fails for a moment."""
    tried, write = threading.Event(), lease._LocalNote.write

    def fail(note, us):
        tried.set()
        raise OSError(5, "Input/output error")

    with locked(tmp_path) as held:
        monkeypatch.setattr(lease._LocalNote, "write", fail)
        assert tried.wait(20)
        monkeypatch.setattr(lease._LocalNote, "write", write)
        held.check()
    assert list(tmp_path.iterdir()) == []


def test_of_two_trainers_in_a_run_the_second_is_refused_in_a_line(tmp_path, capfd):
    (tmp_path / "config.json").write_text("of the first")
    arguments = [f"--config={ROOT}/configs/base.py:tiny", f"--workdir={tmp_path}"]
    with holder(tmp_path, name=run_folder.LOCK_NAME) as first:
        assert main.main(arguments) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the run {tmp_path} is in use by another process (host" in line
    assert f"pid {first.pid}, since 20" in line
    assert (tmp_path / "config.json").read_text() == "of the first"


EXIT = """
import sys
from miro_jax.data.storage import lease
lease.BEAT_SECONDS = 0.02
with lease.locked(sys.argv[1], exit_if_lost=True):
    (lease.LocalFolder(sys.argv[1]).path / lease.LOCK_NAME).write_text("somebody")
    sys.stdin.read()
print("went on")
"""


def test_a_process_that_lost_its_folder_ends_at_once_if_it_must(tmp_path):
    command = [sys.executable, "-c", EXIT, tmp_path]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(60) == 1
        assert process.stdout.read() == b"" and b"was taken over" in process.stderr.read()


@pytest.mark.over_a_second
def test_who_meets_another_one_that_takes_over_is_refused(tmp_path):
    forge(tmp_path, machine=ELSEWHERE, token="a")
    marker = f"{LOCK_NAME}{lease._TAKING}{hashlib.sha256(b'a').hexdigest()[:32]}"
    (tmp_path / marker).write_bytes(lease._us().to_bytes())
    text = f"is taken over by another process now .host .*, pid {os.getpid()}.*delete .*{marker}"
    with pytest.raises(BlockingIOError, match=text):
        with locked(tmp_path):
            pass
    (tmp_path / marker).unlink()
    with locked(tmp_path):
        pass
