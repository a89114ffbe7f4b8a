"""Folders on a disk and in an object store behave alike."""

import logging
import os
import pathlib
import tempfile
import uuid

import pytest
import s3fs

from miro_jax.data import storage
from miro_jax.data.storage import remote
from miro_jax.data.storage.ahead import THREADS


@pytest.fixture(params=["disk", "file://", "memory://", "s3://", "gs://"])
def place(request, tmp_path):
    if request.param in ("s3://", "gs://"):
        make = {"s3://": "make_bucket", "gs://": "make_gs_bucket"}[request.param]
        return f"{request.getfixturevalue(make)()}/records"
    if request.param == "disk":
        return str(tmp_path / "records")
    if request.param == "file://":
        return f"file://{tmp_path}/records"
    return f"memory://{uuid.uuid4().hex}/records"


@pytest.fixture
def folder(place):
    return storage.open_folder(place)


def test_files_are_written_replaced_listed_and_removed(folder):
    assert folder.names() == [] and not folder.exists("a")
    folder.write("b/a", b"1")
    folder.write("b/a", b"22", durable=False)
    folder.write("c", b"3")
    assert folder.read("b/a") == b"22" and folder.size("b/a") == 2
    assert folder.names() == ["c"] and folder.names("b") == ["a"] and folder.names("c/d") == []
    folder.remove("b")
    folder.remove("b")
    folder.remove("c")
    assert folder.names() == [] and not folder.exists("b/a")


def test_a_folder_that_another_worker_makes_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    is_dir, seen = pathlib.Path.is_dir, []

    def before_it_is_made(path):
        seen.append(path)
        return len(seen) > 1 and is_dir(path)

    (tmp_path / "part").mkdir()
    folder = storage.open_folder(tmp_path)
    monkeypatch.setattr(pathlib.Path, "is_dir", before_it_is_made)
    folder.remove("part")
    monkeypatch.undo()
    assert seen and (tmp_path / "part").is_dir()


def test_a_folder_is_used_if_it_holds_more_than_scratch(folder):
    assert not folder.is_used("parts")
    with folder.scratch("parts"):
        assert not folder.is_used("parts")
        folder.write("parts/deep/x", b"1")
        assert folder.is_used("parts") and not folder.is_used("other")


def test_what_is_not_there_is_not_found(folder):
    for action in (folder.read, folder.size):
        with pytest.raises(FileNotFoundError):
            action("nowhere")


def test_a_name_goes_to_the_first_who_asks_for_it(folder):
    with folder.scratch("parts") as scratch:
        for text in (b"first", b"second"):
            (scratch / "x").write_bytes(text)
            assert folder.create("x", scratch / "x") == (text == b"first")
            (scratch / "x").unlink()
            assert folder.read("x") == b"first"
        assert folder.local("x", scratch).read_bytes() == b"first"
    assert not scratch.exists() and folder.names("parts") == []


def test_a_claim_returns_what_the_first_wrote(folder):
    assert folder.claim("x", b"first", "parts") == b"first"
    assert folder.claim("x", b"second", "parts") == b"first"


def test_a_disk_without_hard_links_is_written_too(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = storage.open_folder(tmp_path)
    assert folder.claim("x", b"first", "parts") == b"first"
    (tmp_path / "y").write_bytes(b"second")
    assert not folder.create("x", tmp_path / "y") and folder.read("x") == b"first"


def test_a_name_that_vanishes_while_it_is_linked_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.open_folder(tmp_path).create("x", tmp_path / "gone")


def test_a_folder_that_can_be_written_is_left_as_it_was(place):
    storage.check_writable(place)
    assert storage.open_folder(place).names() == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="file/x must be a folder that can be written"):
        storage.check_writable(tmp_path / "file" / "x")


def test_a_store_that_lets_nobody_in_says_once_where_credentials_come_from():
    for error in (OSError("Forbidden: b/x"), PermissionError("Access Denied")):
        with pytest.raises(type(error), match=f"answered .*{error}. For s3://") as refused:
            with storage.errors_of_stores(), storage.errors_of_stores():
                raise error
        assert str(refused.value).count("AWS_PROFILE") == 1
    with pytest.raises(PermissionError, match="'Access Denied.txt'$"), storage.errors_of_stores():
        raise PermissionError(13, "Permission denied", "Access Denied.txt")


def test_an_error_of_googles_store_that_is_raised_is_not_logged_with_a_traceback_as_well(caplog):
    storage.open_folder("memory://bucket/x")
    log = logging.getLogger("gcsfs")
    log.error("_request out of retries on exception: no such host")
    log.error("_request non-retriable exception: no such bucket")
    log.error("deferred close failed")
    assert caplog.messages == ["deferred close failed"]


@pytest.mark.parametrize("url", ["nostore://b/x", "sftp://b/x"])
def test_a_store_that_does_not_keep_workers_apart_is_refused(url):
    with pytest.raises(ValueError, match=f"must be local or of gs, .*; got '{url}'"):
        storage.open_folder(url)


def test_what_another_worker_deletes_meanwhile_is_no_error(folder, place, monkeypatch):
    other, exists = storage.open_folder(place), type(folder)._exists

    def late(self, name):
        found = exists(self, name)
        if self is folder:
            other.remove(name)
        return found

    folder.write("parts/x", b"1")
    folder.write("note", b"1")
    monkeypatch.setattr(type(folder), "_exists", late)
    folder.remove("parts")
    assert folder.claim("note", b"2", "parts") == b"2"


def test_a_name_that_several_ask_for_at_once_is_asked_for_again(make_bucket, tmp_path, monkeypatch):
    """S3 answers 409 to some of them, which does not say who gets it."""
    folder = storage.open_folder(f"{make_bucket()}/records")
    put, answers = folder._system.put_file, []

    def busy(*arguments, **options):
        if len(answers) < 2:
            answers.append(409)
            raise OSError(5, "An error occurred (ConditionalRequestConflict)")
        return put(*arguments, **options)

    monkeypatch.setattr(folder._system, "put_file", busy)
    (tmp_path / "a").write_bytes(b"1")
    assert folder.create("a", tmp_path / "a") and len(answers) == 2
    assert not folder.create("a", tmp_path / "a")


def test_a_file_that_can_be_neither_written_nor_read_is_named(tmp_path):
    (tmp_path / "note").symlink_to("/nowhere/note")
    with pytest.raises(OSError, match="note can be neither written nor read"):
        storage.open_folder(tmp_path).claim("note", b"1", "parts")


def test_scratch_that_another_worker_takes_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    made, make = storage.LocalFolder(tmp_path), tempfile.mkdtemp

    def late(**where):
        path = make(**where)
        monkeypatch.setattr(tempfile, "mkdtemp", make)
        made.remove_scratch()
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", late)
    with made.scratch("") as path:
        made.remove_scratch()
        assert [*tmp_path.iterdir()] == [path]
    assert not [*tmp_path.iterdir()]


def test_as_many_requests_reach_s3_at_a_time_as_threads_ask(make_bucket):
    folder = storage.open_folder(f"{make_bucket()}/x")
    folder.write("a", b"1")
    assert folder._system.s3.meta.config.max_pool_connections == THREADS


def test_s3_is_asked_once_for_a_file(make_bucket, monkeypatch):
    asked, call = [], s3fs.S3FileSystem._call_s3

    async def counted(self, method, *given, **keywords):
        asked.append(method)
        return await call(self, method, *given, **keywords)

    folder = storage.open_folder(f"{make_bucket()}/x")
    for data in (b"1", b""):
        folder.write("a", data)
        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
        assert folder.read("a") == data and asked == ["get_object"]
        monkeypatch.undo()
        asked.clear()


@pytest.mark.parametrize("make", ["make_bucket", "make_gs_bucket"])
def test_the_mark_of_a_folder_that_a_console_made_is_no_file(request, make):
    bucket = request.getfixturevalue(make)()
    system, root = remote.open_url(bucket)
    for name in ("set/", "set/below/", "set/a"):
        system.pipe_file(f"{root}/{name}", b"")
    system.invalidate_cache()
    folder = storage.open_folder(f"{bucket}/set")
    assert system.exists(f"{root}/set/") and folder.names() == ["a"]
    assert folder.names("below") == [] and folder.folders() == ["below"]
