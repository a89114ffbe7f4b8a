"""A local folder that follows one in a store: whole at every moment, wherever a run is killed."""

import os
import threading
import uuid

import pytest

from miro_jax.data import storage
from miro_jax.data.storage import mirror
from miro_jax.data.storage.mirror import COMMIT, Mirror, local_folder, origin


@pytest.fixture(params=["memory", "make_bucket", "make_gs_bucket"])
def store(request):
    if request.param != "memory":
        return storage.RemoteFolder(f"{request.getfixturevalue(request.param)()}/run")
    return storage.RemoteFolder(f"memory://{uuid.uuid4().hex}/run")


@pytest.fixture
def quick_store():
    return storage.RemoteFolder(f"memory://{uuid.uuid4().hex}/run")


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def checkpoint(folder, step, text=None):
    write(folder, f"checkpoints/{step}/params/d/0", text or f"arrays of {step}")
    write(folder, f"checkpoints/{step}/host/metadata", f"host of {step}")
    write(folder, f"checkpoints/{step}/{COMMIT}", "done")


def contents(folder):
    """Name -> text of all files that belong into the store."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != mirror.MARKER]
    return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


def stored(store):
    return {name: store.read(name).decode() for name in store.tree()}


def open_mirror(store, folder, **more):
    folder.mkdir(exist_ok=True)
    return Mirror(store, folder, 0.01, **more)


def test_what_one_machine_pushed_another_one_fetches(store, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("config.json", "samples/step-10.png"):
        write(here, name, name)
    checkpoint(here, 10)
    open_mirror(store, here).push()
    open_mirror(store, there).fetch()
    assert contents(here) == contents(there) == stored(store) and len(stored(store)) == 5
    assert origin(here) == origin(there) == str(store) and origin(tmp_path) is None


def test_only_what_changed_is_uploaded_and_what_is_gone_is_deleted(store, tmp_path, monkeypatch):
    here = tmp_path / "here"
    for name in ("a", "b", "c"):
        write(here, name, "1")
    ours = open_mirror(store, here)
    ours.push()
    sent, send = [], store.write
    monkeypatch.setattr(store, "write", lambda name, data: (sent.append(name), send(name, data)))
    write(here, "b", "22")
    (here / "c").unlink()
    ours.push()
    ours.push()
    assert sent == ["b"] and stored(store) == {"a": "1", "b": "22"}


def test_what_is_of_one_machine_or_not_finished_stays_here(quick_store, tmp_path):
    here = tmp_path / "here"
    write(here, "a", "1")
    for name in (".lock-train", "records/tmp-123/x", f"b{storage.mirror.TEMPORARY}{'0' * 32}"):
        write(here, name, "1")
    write(here, "checkpoints/10.orbax-checkpoint-tmp/params/d/0", "1")
    write(here, "checkpoints/20/params/d/0", "1")  # not committed
    open_mirror(quick_store, here, ignored=("log.txt",)).push()
    assert stored(quick_store) == {"a": "1"}


def test_lines_come_before_the_checkpoint_and_its_commit_comes_last(quick_store, tmp_path):
    """Or a run that resumes from it would have a gap, or half a checkpoint."""
    here = tmp_path / "here"
    checkpoint(here, 10)
    write(here, "metrics.jsonl", "lines")
    sent, send = [], quick_store.write
    quick_store.write = lambda name, data: (sent.append(name), send(name, data))
    ours = open_mirror(quick_store, here)
    ours.push()
    assert sent[0] == "metrics.jsonl" and sent[-1] == f"checkpoints/10/{COMMIT}"
    assert len(sent) == 4

    removed, remove = [], quick_store.remove
    quick_store.remove = lambda name: (removed.append(name), remove(name))
    (here / "checkpoints" / "10" / COMMIT).unlink()  # Orbax deletes the folder
    checkpoint(here, 20)
    ours.push()
    assert removed[0] == f"checkpoints/10/{COMMIT}" and len(removed) == 3
    assert sent.index(f"checkpoints/20/{COMMIT}") == len(sent) - 1


def test_a_checkpoint_that_is_committed_while_files_are_listed_waits(
    quick_store, tmp_path, monkeypatch
):
    here, walk = tmp_path / "here", os.walk
    write(here, "metrics.jsonl", "10")
    checkpoint(here, 10)

    def meanwhile(folder):
        for entry in walk(folder):
            yield entry
            if entry[0] == str(here):
                write(here, "metrics.jsonl", "10 20")
                checkpoint(here, 20)

    ours = open_mirror(quick_store, here)
    ours.push()
    monkeypatch.setattr(mirror.os, "walk", meanwhile)
    ours.push()
    assert mirror.finished_steps(stored(quick_store)) == {10}
    monkeypatch.setattr(mirror.os, "walk", walk)
    ours.push()
    assert stored(quick_store) == contents(here)


def test_a_state_of_a_study_comes_after_what_was_measured_of_it(quick_store, tmp_path):
    """One that is replaced meanwhile waits for the next upload, which has its measurements."""
    here, state = tmp_path / "here", "study/states-0"
    write(here, "study/cells/group-0-10.cells", "of 10")
    write(here, state, "10")
    ours, send = open_mirror(quick_store, here), quick_store.write
    ours.push()
    write(here, "study/cells/group-0-20.cells", "of 20")
    write(here, state, "20")
    sent = []

    def meanwhile(name, data):
        if not sent:
            write(here, "study/cells/group-0-30.cells", "of 30")
            write(here, state, "step 30")
        sent.append(name)
        send(name, data)

    quick_store.write = meanwhile
    ours.push()
    assert sent == ["study/cells/group-0-20.cells"] and stored(quick_store)[state] == "10"
    ours.push()
    assert sent[1:] == ["study/cells/group-0-30.cells", state]
    assert stored(quick_store) == contents(here)


@pytest.mark.parametrize("uploads", range(8))
def test_a_push_killed_anywhere_leaves_a_store_that_is_whole(quick_store, tmp_path, uploads):
    """The store then has the old checkpoint or the new one, with the lines of that one or more."""
    here, there = tmp_path / "here", tmp_path / "there"
    checkpoint(here, 10)
    write(here, "metrics.jsonl", "10")
    ours = open_mirror(quick_store, here)
    ours.push()
    checkpoint(here, 20)
    checkpoint(here, 10, "written again")
    write(here, "metrics.jsonl", "10 20")
    left = [uploads]

    def killed(action):
        def call(*arguments):
            if not left[0]:
                raise SystemExit
            left[0] -= 1
            action(*arguments)

        return call

    for name in ("write", "remove"):
        setattr(quick_store, name, killed(getattr(quick_store, name)))
    with pytest.raises(SystemExit):
        ours.push()
    for name in ("write", "remove"):
        delattr(quick_store, name)
    open_mirror(quick_store, there).fetch()
    found = contents(there)
    for step in ("10", "20"):
        if f"checkpoints/{step}/{COMMIT}" in found:
            assert step in found["metrics.jsonl"]
            assert len([name for name in found if f"checkpoints/{step}/" in name]) == 3
            arrays = found[f"checkpoints/{step}/params/d/0"]
            assert arrays in (f"arrays of {step}", "written again")
    open_mirror(quick_store, here).fetch()  # the same machine again
    write(here, "log.txt", "resumed")
    open_mirror(quick_store, here).push()
    assert stored(quick_store) == contents(here)


def test_what_a_killed_process_left_here_is_kept_where_nobody_wrote_since(store, tmp_path):
    here = tmp_path / "here"
    write(here, "metrics.jsonl", "1")
    checkpoint(here, 10)
    open_mirror(store, here).push()
    write(here, "metrics.jsonl", "1 2")
    checkpoint(here, 20)
    open_mirror(store, here).fetch()
    assert contents(here)["metrics.jsonl"] == "1 2" and f"checkpoints/20/{COMMIT}" in contents(here)


def test_the_store_is_right_where_another_machine_went_on(store, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "metrics.jsonl", "1")
    write(here, "config.json", "{}")
    open_mirror(store, here).push()
    write(here, "metrics.jsonl", "1 lost")
    write(here, "lost", "1")
    theirs = open_mirror(store, there)
    theirs.fetch()
    write(there, "metrics.jsonl", "1 2")
    theirs.push()
    open_mirror(store, here).fetch()
    assert contents(here) == contents(there) == {"metrics.jsonl": "1 2", "config.json": "{}"}


def test_what_another_machine_wrote_meanwhile_is_fetched_at_the_next_start(quick_store, tmp_path):
    """As an evaluation beside training, or the metrics for a process that sends its log alone."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("log-1.txt", "metrics.jsonl"):
        write(here, name, "1")
    open_mirror(quick_store, here).push()
    theirs = open_mirror(quick_store, there, only="log-1.txt")
    theirs.fetch()
    ours = open_mirror(quick_store, here)
    write(here, "metrics.jsonl", "1 2")
    ours.push()
    write(there, "log-1.txt", "1 3")
    write(there, "metrics.jsonl", "1 4")
    theirs.push()
    assert stored(quick_store) == {"log-1.txt": "1 3", "metrics.jsonl": "1 2"}
    for folder in (here, there):
        open_mirror(quick_store, folder).fetch()
        assert contents(folder) == stored(quick_store)


def test_a_run_that_was_deleted_in_the_store_does_not_come_back(quick_store, tmp_path):
    here = tmp_path / "here"
    write(here, "metrics.jsonl", "1")
    checkpoint(here, 10)
    open_mirror(quick_store, here).push()
    quick_store.remove("")
    open_mirror(quick_store, here).fetch()
    assert contents(here) == {}


def test_old_checkpoints_stay_in_the_store_alone(quick_store, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for step in (9, 10, 200):
        checkpoint(here, step)
    open_mirror(quick_store, here).push()
    theirs = open_mirror(quick_store, there, newest=2)
    theirs.fetch()
    assert sorted(p.name for p in (there / "checkpoints").iterdir()) == ["10", "200"]
    write(there, "a", "1")
    theirs.push()
    assert len(stored(quick_store)) == 10


def test_what_a_lost_machine_had_not_deleted_yet_is_deleted_where_no_rule_wants_it(
    store, tmp_path, monkeypatch
):
    lost, there = tmp_path / "lost", tmp_path / "there"
    for step in (8, 10, 11, 12):
        checkpoint(lost, step)
    write(lost, "checkpoints/backup/host/metadata", "of the user's")
    write(lost, f"checkpoints/backup/{COMMIT}", "done")
    open_mirror(store, lost).push()
    ours = open_mirror(store, there, newest=1, stays=lambda step: step % 5 == 0)
    ours.fetch()
    checkpoint(there, 13)
    checkpoint(lost, 14)
    open_mirror(store, lost).push()  # newer than ours: no old one
    order, remove = [], store.remove
    monkeypatch.setattr(store, "remove", lambda name: (order.append(name), remove(name)))
    ours.push()
    steps = {name.split("/")[1] for name in stored(store)}
    assert steps == {"10", "12", "13", "14", "backup"}
    assert {name.rpartition("/")[2] for name in order[:2]} == {COMMIT} and len(order) == 6


def test_files_are_fetched_once(quick_store, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "a", "1")
    write(here, "b", "1")
    ours = open_mirror(quick_store, here)
    ours.push()
    open_mirror(quick_store, there).fetch()
    write(here, "b", "2")
    ours.push()
    fetched, fetch = [], quick_store.fetch
    monkeypatch.setattr(quick_store, "fetch", lambda n, p: (fetched.append(n), fetch(n, p)))
    (there / "a").write_text("changed here")
    open_mirror(quick_store, there).fetch()
    assert sorted(fetched) == ["a", "b"] and contents(there) == {"a": "1", "b": "2"}
    open_mirror(quick_store, there).fetch()
    assert len(fetched) == 2


def test_what_a_killed_fetch_left_is_deleted_and_never_uploaded(quick_store, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "a/b", "1")
    open_mirror(quick_store, here).push()
    left = f"a/b{mirror.TEMPORARY}{'0' * 32}"
    write(there, left, "half")
    open_mirror(quick_store, there).push()
    assert list(quick_store.tree()) == ["a/b"]
    open_mirror(quick_store, there).fetch()
    assert contents(there) == {"a/b": "1"} and not (there / left).exists()


def test_uploads_go_on_in_the_background_and_through_failures(
    quick_store, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(mirror, "_SECONDS_BETWEEN_ATTEMPTS", 0)
    here, failed = tmp_path / "here", threading.Event()
    send, failures = quick_store.write, [3]

    def fail_first(name, data):
        if failures[0]:
            failures[0] -= 1
            failed.set()
            raise OSError("no network")
        send(name, data)

    quick_store.write = fail_first
    with open_mirror(quick_store, here):
        write(here, "a", "1")
        assert failed.wait(30)
    assert stored(quick_store) == {"a": "1"}  # at the end, if not before
    assert "was not brought up to date, for 0 s now; the run goes on: no network" in caplog.text


def test_an_upload_that_fails_at_the_end_is_an_error_that_names_both_folders(
    quick_store, tmp_path, monkeypatch
):
    def refuse(name, data):
        raise OSError("no network")

    monkeypatch.setattr(mirror, "_SECONDS_BETWEEN_ATTEMPTS", 0)
    quick_store.write = refuse
    with pytest.raises(OSError, match="memory://.*up to date: no network. What it lacks.*here; th"):
        with open_mirror(quick_store, tmp_path / "here"):
            write(tmp_path / "here", "a", "1")


def test_each_process_of_a_machine_has_a_folder_and_the_next_start_has_it_again(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path))
    with local_folder("gs://bucket/run") as first:
        assert first.name == "run" and tmp_path in first.parents
        with local_folder("gs://bucket/run") as second, local_folder("gs://other/run") as third:
            assert len({first, second, third}) == 3
    with local_folder("gs://bucket/run") as again:
        assert again == first


def test_others_wait_until_the_last_checkpoint_is_in_the_store(quick_store, tmp_path, monkeypatch):
    here = tmp_path / "here"
    monkeypatch.setattr(mirror, "_SECONDS_BETWEEN_LOOKS", 0.01)
    checkpoint(here, 10)
    with open_mirror(quick_store, here):
        mirror.wait_for_upload(here)
        checkpoint(here, 20)
        mirror.wait_for_upload(here)
        assert f"checkpoints/20/{COMMIT}" in stored(quick_store)


def test_a_damaged_marker_counts_for_nothing(quick_store, tmp_path):
    here = tmp_path / "here"
    write(here, "a", "1")
    open_mirror(quick_store, here).push()
    for text in ("{", '{"url": "x", "files": {"a": [1]}}', '{"url": 1}'):
        (here / mirror.MARKER).write_text(text)
        os.utime(here / "a", (1, 1))
        open_mirror(quick_store, here).fetch()
        assert contents(here) == {"a": "1"}


def test_a_folder_that_followed_another_store_is_uploaded_whole(quick_store, tmp_path):
    write(tmp_path / "run", "config.json", "{}")
    open_mirror(quick_store, tmp_path / "run").push()
    other = storage.RemoteFolder(f"memory://{uuid.uuid4().hex}/run")
    open_mirror(other, tmp_path / "run").push()
    assert stored(other) == contents(tmp_path / "run")
