"""Runs whose folder is in a store end like those on a disk, whatever machine they go on on."""

import os
import shutil
import signal

import pytest

from miro_jax.cli import stored_run
from miro_jax.data import storage
from miro_jax.data.storage import mirror
from miro_jax.train import components
from tests import compiling, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """The disk of a machine."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def launcher(make_bucket, scratch, tmp_path_factory):
    said = tmp_path_factory.mktemp("said") / "stderr"
    launcher = training.Launcher(MIRO_JAX_SCRATCH=str(scratch), MIRO_TEST_STDERR=str(said))
    launcher.said = said
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


def arguments(records, workdir, *more):
    return (
        *training.COMMAND,
        f"--workdir={workdir}",
        f"--config.data.records={records}",
        "--config.train.num_steps=20",
        "--config.train.checkpoint_every_steps=4",
        "--config.train.sample_every_steps=0",
        "--config.train.upload_every_seconds=0.3",
        "--noconfig.train.report",
        *more,
    )


@pytest.fixture(scope="module")
def uninterrupted(launcher, records, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert launcher(*arguments(records, workdir)) == 0
    return workdir


def fetched(url, folder):
    """A run as another machine would find it."""
    folder.mkdir()
    mirror.Mirror(storage.RemoteFolder(url), folder, 0).fetch()
    return folder


def assert_same_run(workdir, expected, parts):
    assert training.without_times(workdir) == training.without_times(expected)
    step, arrays, data_state = training.newest(workdir, parts)
    expected_step, expected_arrays, expected_data_state = training.newest(expected, parts)
    assert (step, data_state) == (expected_step, expected_data_state) and step == 20
    training.assert_same_arrays(arrays, expected_arrays)


def steps_in(url):
    """Steps of the checkpoints that count in a store."""
    names = storage.RemoteFolder(url).tree()
    return {int(n.split("/")[1]) for n in names if n.endswith(mirror.COMMIT) and n.count("/") == 2}


def test_killed_anywhere_a_run_goes_on_on_another_machine_without_gap_or_double(
    launcher, records, scratch, uninterrupted, parts, make_bucket, tmp_path
):
    url = f"{make_bucket()}/runs/mine"
    for kill, moved in ((3, False), (11, True)):
        pid = launcher.start(*arguments(records, url))
        running = training.wait_until(lambda: max(steps_in(url), default=0) > kill, pid)  # noqa: B023
        if running:
            os.kill(pid, signal.SIGKILL)
        assert launcher.wait() in (0, -signal.SIGKILL)
        if moved:  # what was on the disk of that machine is gone
            shutil.rmtree(scratch / "runs")
        found = training.without_times(fetched(url, tmp_path / f"{kill}"))
        lines = [line["step"] for line in found]
        assert lines == [*range(1, len(lines) + 1)] and len(lines) >= max(steps_in(url)) > kill
    assert launcher(*arguments(records, url, "--resume=required")) == 0
    assert_same_run(fetched(url, tmp_path / "end"), uninterrupted, parts)
    assert steps_in(url) == {16, 20}
    names = {*storage.RemoteFolder(url).tree()}
    assert {"config.json", "run.json", "log.txt", "metrics.jsonl"} <= names
    assert not [n for n in names if ".lock" in n or ".mirror" in n]


def test_two_processes_without_a_disk_in_common_train_as_one_does(
    records, make_bucket, tmp_path, parts
):
    """Process 0 gathers and saves; one is killed, and both go on on other machines."""
    one = training.Launcher(XLA_FLAGS=compiling.xla_flags(2))
    more = "--config.data.shuffle_shards=2", "--config.data.lanes=2", "--config.train.num_steps=12"
    call = arguments(records, tmp_path / "one", *more)
    assert one(*call) == 0
    one.close()
    url, disks = f"{make_bucket()}/mine", tmp_path / "disks"
    pair = training.Processes(tmp_path, 2, 1, MIRO_JAX_SCRATCH=str(disks))
    call = (
        *arguments(records, url, *more),
        "--config.mesh.distributed=True",
        "--config.mesh.heartbeat_seconds=20.0",
    )
    pids = pair.start(*call)
    training.wait_until(lambda: 4 in steps_in(url), pids[1])
    os.kill(pids[1], signal.SIGKILL)
    assert 0 not in pair.wait()
    shutil.rmtree(disks)
    pair.start(*call, "--resume=required")
    assert pair.wait() == [0, 0]
    assert len(list(disks.glob("runs/*"))) == 2
    store = storage.RemoteFolder(url)
    (name, *_) = (n for n in store.tree() if n.startswith("checkpoints/12/params/d/"))
    store.write(name, bytes(x ^ 1 for x in store.read(name)))  # both have a copy of what is damaged
    shutil.rmtree(disks)
    pair.start(*call, "--resume=required")
    assert pair.wait() == [0, 0]
    assert "resuming from step 8" in store.read("log.txt").decode()
    pair.close()
    end = fetched(url, tmp_path / "end")
    assert training.without_times(end) == training.without_times(tmp_path / "one")
    training.assert_same_arrays(
        training.newest(end, parts)[1], training.newest(tmp_path / "one", parts)[1]
    )
    assert (end / "log-1.txt").exists()


def test_fetching_the_last_checkpoint_leaves_the_log_that_a_process_writes(
    make_bucket, tmp_path, monkeypatch
):
    store = storage.RemoteFolder(f"{make_bucket()}/run")
    store.write("log-1.txt", b"one\n")
    store.write("metrics.jsonl", b"1\n")
    folder = fetched(str(store), tmp_path / "run")
    (folder / "log-1.txt").write_bytes(b"one\ntwo\n")
    store.write("metrics.jsonl", b"1\n2\n")  # by process 0
    monkeypatch.setattr(stored_run.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stored_run.jax, "process_index", lambda: 1)
    monkeypatch.setattr(stored_run.multihost_utils, "sync_global_devices", lambda name: None)
    stored_run.share_checkpoint(folder)
    assert (folder / "metrics.jsonl").read_bytes() == b"1\n2\n"
    assert (folder / "log-1.txt").read_bytes() == b"one\ntwo\n"
