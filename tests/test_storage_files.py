"""Files are written whole or not at all, through no link, and read only where they are files."""

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest

from miro_jax import main
from miro_jax.data import storage
from miro_jax.data.records import shards
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.sources.captions import TextIndex
from miro_jax.data.storage import files
from miro_jax.sample.best import Scores
from miro_jax.train.metrics import MetricsWriter
from tests import training
from tests.test_data import open_data, write_set


@contextlib.contextmanager
def small_disk():
    """The limit on the size of a file stands in for a full disk: the system refuses the write.

    A context and no fixture: pytest writes its report, perhaps to a file, before fixtures end.
    """
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.parametrize("how", ["write_atomic", "write", "claim", "put"])
def test_a_full_disk_is_named_by_the_file_and_leaves_nothing(tmp_path, how):
    folder, data = storage.open_folder(tmp_path / "out"), b"x" * 101
    (tmp_path / "out").mkdir()
    with small_disk(), pytest.raises(OSError, match="too large.*out/name") as caught:
        if how == "write_atomic":
            files.write_atomic(tmp_path / "out" / "name", data)
        elif how == "write":
            folder.write("name", data)
        elif how == "claim":
            folder.claim("name", data, "")
        else:
            with files.published(tmp_path / "out" / "name") as file:
                file.write(data[:50])
                file.write(data)
    assert caught.value.errno and list((tmp_path / "out").iterdir()) == []


def test_what_was_there_stays_where_a_write_fails(tmp_path):
    (tmp_path / "name").write_bytes(b"old")
    with small_disk(), pytest.raises(OSError):
        files.write_atomic(tmp_path / "name", b"x" * 200)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_atomic(tmp_path / "a", b"")
        storage.open_folder(tmp_path).write("b", b"")
        storage.open_folder(tmp_path).claim("c", b"", "")
        write_set(tmp_path, [1])
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_no_link_at_the_temporary_name_is_followed(tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(b"mine")
    name = f"out{files.TEMPORARY}{'0' * 32}"
    (tmp_path / name).symlink_to(tmp_path / "secret")
    monkeypatch.setattr(files.uuid, "uuid4", lambda: type("Uuid", (), {"hex": "0" * 32}))
    with pytest.raises(FileExistsError):
        with files.published(tmp_path / "out") as file:
            file.write(b"x")
    assert (tmp_path / "secret").read_bytes() == b"mine" and not (tmp_path / "out").exists()


def test_a_link_at_the_name_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "out").symlink_to(tmp_path / "secret")
    files.write_atomic(tmp_path / "out", b"x")
    assert (tmp_path / "secret").read_bytes() == b"mine"
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "out").read_bytes() == b"x"


def test_leftovers_go_but_not_those_of_a_writer_that_lives(tmp_path):
    dead = tmp_path / f"out{files.TEMPORARY}{'0' * 32}"
    dead.write_bytes(b"half")
    with files.published(tmp_path / "out") as file:
        file.write(b"other")
        files.write_atomic(tmp_path / "out", b"x")
        assert not dead.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"other"


@pytest.fixture(params=["pipe", "device", "socket", "folder"])
def irregular(request, tmp_path):
    """Put something that is no file at a path; opening it could take for ever."""

    def make(path):
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            # Relative: the path of a socket has at most 107 bytes.
            with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)

    return make


def test_what_is_no_file_is_refused_by_name_and_never_waited_for(tmp_path, irregular):
    folder = write_set(tmp_path / "set", [4])
    shard = "shard-00000.array_record"
    actions = {
        "bins.json": lambda: Bins.load(folder / "bins.json"),
        f"{shard}.json": lambda: shards.read_published(storage.open_folder(folder), shard),
        f"{shard}.scores.npy": lambda: shards.read_published(storage.open_folder(folder), shard),
        shard: lambda: shards.verify_shards(folder),
        "manifest.json": lambda: Manifest.load(folder),
    }
    for name, action in actions.items():
        good = (folder / name).read_bytes()
        irregular(folder / name)
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            action()
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(good)
        action()


def test_a_pipe_in_the_way_of_a_shard_is_named(tmp_path):
    folder = write_set(tmp_path / "set", [4])
    for path in folder.glob("shard*"):
        path.unlink()
    os.mkfifo(folder / "shard-00000.array_record")
    with pytest.raises(storage.Damaged, match="shard-00000.array_record must be a regular file"):
        write_set(folder, [4])


def test_a_shard_that_is_replaced_while_it_is_read_ends_the_run_before_it_is_saved(tmp_path):
    folder = write_set(tmp_path / "set", [16, 16])
    iterator = open_data(folder)
    next(iterator)
    iterator.get_state()
    path = folder / "shard-00001.array_record"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(OSError, match="shard-00001.array_record has changed since"):
        iterator.get_state()
    iterator.close()


READ_ONLY = """
import os, sys
from miro_jax.data import storage
from miro_jax.data.storage.lease import locked
os.chdir(sys.argv[1])  # the folders above it are closed to others
os.setuid(65534)
for action in (storage.check_writable, lambda path: locked(path).__enter__()):
    try:
        action("here")
    except PermissionError as error:
        print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_folder_of_somebody_else_is_named_with_the_remedy(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here").chmod(0o755)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-c", READ_ONLY, str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2
    for line, remedy in zip(lines, ("Give another one", "Name another"), strict=True):
        assert line.startswith("here must be a folder that can be written") and remedy in line


LOCALE = """
import sys
from miro_jax.data import storage
from miro_jax.data.storage.lease import locked
folder = storage.open_folder(sys.argv[1])
folder.write("note", folder.path.name.encode())
with locked(folder):
    folder.claim("claim", b"1", "")
"""


def test_a_name_beyond_ascii_works_in_the_c_locale_or_is_refused_with_the_remedy(tmp_path):
    place = tmp_path / "größe"
    command = [sys.executable, "-c", LOCALE, str(place)]
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run(command, env=environment, check=True)
    assert (place / "note").read_bytes() == "größe".encode()
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "must be UTF-8; got" in done.stderr.splitlines()[-1]
    assert "PYTHONUTF8=1" in done.stderr.splitlines()[-1]


def test_scores_that_are_cut_are_damage(tmp_path):
    folder = write_set(tmp_path / "set", [4])
    path = folder / "shard-00000.array_record.scores.npy"
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:-1], np.save.__name__.encode()):
        path.write_bytes(data)
        with pytest.raises(storage.Damaged, match="scores.npy is damaged"):
            shards.read_scores(folder)


def test_a_log_or_metrics_that_are_no_file_are_refused_and_never_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "log.txt")
    assert main.main([training.TINY, f"--workdir={tmp_path}"]) == 2
    text = f"{tmp_path}/log.txt must be a regular file; it is a named pipe"
    assert text in capsys.readouterr().err
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="metrics.jsonl must be a regular file"):
        MetricsWriter(tmp_path)
    os.mkfifo(tmp_path / "scores.jsonl")
    with pytest.raises(ValueError, match="scores.jsonl must be a regular file"):
        Scores(tmp_path / "scores.jsonl")


def test_an_index_of_captions_that_finds_no_room_says_where_it_lies():
    rows = ((f"{number}.jpg", ("a caption " * 9,), number) for number in range(50_000))
    with small_disk(), pytest.raises(OSError, match=r"an index of a\.csv, .* SQLITE_TMPDIR"):
        TextIndex("a.csv", rows)


@pytest.mark.parametrize(
    "value", [{"a": [1], "z": "é"}, {"a": {"seal": "b"}}, {"sea": 1, "t": 0.5}]
)
def test_a_seal_is_checked_by_the_bytes_and_by_the_values(value, monkeypatch):
    data = files.to_sealed_json(value)
    in_another_form = json.dumps(json.loads(data)).encode("utf-16")
    assert files.parse_ours(in_another_form, "it") == value
    for changed in (data.replace(b'"', b'"x', 1), data.replace(b'\n "seal": "', b'\n "seal": "0')):
        with pytest.raises(ValueError, match="its seal does not fit"):
            files.parse_ours(changed, "it")
    monkeypatch.setattr(files, "to_json", lambda _: pytest.fail("encoded again"))
    assert files.parse_ours(data, "it") == value
