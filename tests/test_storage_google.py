"""Google's store, by gcsfs: who gets a name, uploads in parts, long listings, refusals."""

import concurrent.futures
import sys
import threading

import pytest

from miro_jax.data import storage
from tests import gcs

WORKERS = 8


@pytest.fixture
def folder(make_gs_bucket):
    return storage.open_folder(f"{make_gs_bucket()}/records")


@pytest.mark.parametrize("size", [10, 6 << 20])  # in one request, and in parts
def test_one_of_several_who_create_a_name_at_once_gets_it(folder, tmp_path, size):
    ready = threading.Barrier(WORKERS)

    def create(number):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes([number]) * size)
        ready.wait()
        return folder.create("shard", path)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        taken = list(pool.map(create, range(WORKERS)))
    assert sum(taken) == 1
    assert folder.read("shard") == bytes([taken.index(True)]) * size


@pytest.mark.over_a_second
def test_a_file_of_several_parts_is_written_replaced_and_fetched(folder, tmp_path):
    for byte in b"ab":
        (tmp_path / "big").write_bytes(bytes([byte]) * (60 << 20))  # gcsfs sends 50 MiB at a time
        folder.put("big", tmp_path / "big")
        stamp = folder.stamp("big")
    counted = []
    folder.fetch("big", tmp_path / "copy", counted.append)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "big").read_bytes()
    assert sum(counted) == folder.size("big") == 60 << 20 and len(counted) > 1
    folder.write("big", b"c")
    assert folder.stamp("big") != stamp and folder.size("big") == 1


def test_listings_of_several_pages_are_whole(folder, monkeypatch):
    monkeypatch.setattr(gcs, "PAGE", 3)
    names = [f"{number:02}" for number in range(8)]
    for name in names:
        folder.write(name, b"1")
        folder.write(f"deep/{name}", b"22")
    assert folder.names() == folder.names("deep") == names
    sizes = {name: size for name, (size, _) in folder.tree().items()}
    assert sizes == dict.fromkeys(names, 1) | {f"deep/{name}": 2 for name in names}
    folder.remove("deep")
    assert list(folder.tree()) == names


def test_a_folder_whose_name_begins_another_s_is_left_alone(folder, make_gs_bucket):
    folder.write("run/a", b"1")
    folder.write("run-2/a", b"2")
    assert folder.names("run") == ["a"] and not folder.is_used("ru")
    folder.remove("run")
    assert list(folder.tree()) == ["run-2/a"]


@pytest.mark.parametrize("status, who", [(401, "Anonymous caller"), (403, "me@project.iam")])
def test_who_is_not_let_in_learns_where_credentials_come_from(folder, google, status, who):
    text = f"{who} does not have storage.objects.create access to the object."
    google[0].failures += [gcs.Refused(status, text)]
    with pytest.raises(OSError, match=f"(?s)answered .*{who}.*`gcloud auth application-default"):
        with storage.errors_of_stores():
            folder.write("x", b"1")
    assert google[0].failures == []


@pytest.mark.over_a_second
def test_a_server_that_fails_for_a_moment_is_asked_again(folder, google):
    google[0].failures += [gcs.Refused(503, "Backend Error")]
    folder.write("x", b"1")
    assert folder.read("x") == b"1" and google[0].failures == []


def test_a_bucket_that_is_not_there_is_named(google):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        storage.open_folder("gs://nowhere/run").write("x", b"1")


def test_a_bucket_is_not_asked_by_grpc_for_its_zone(folder):
    assert type(folder._system).__module__ == "gcsfs.core"  # the other one waits for a minute


def test_a_store_whose_package_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    monkeypatch.setattr(storage.remote.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gs://b/run cannot be opened.*'miro_jax\[gcs\]'"):
        storage.open_folder("gs://b/run")
