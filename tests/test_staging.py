"""Records in a store are read as those in a folder: same order, exact resume, bounded disk."""

import concurrent.futures
import itertools
import signal
import subprocess
import sys
import threading
import uuid

import numpy as np
import pytest

from miro_jax.data.records import batches, shards, staging
from miro_jax.data.records import bins as bins_lib
from miro_jax.data.storage import LocalFolder, RemoteFolder, mirror
from miro_jax.evaluate.prompts import read_captions
from tests import stores
from tests.test_data import NAMES, OPTIONS, write_set

SIZES = [7, 9, 0, 8, 5, 11, 8, 9, 7]  # one shard without a record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "records", SIZES)


@pytest.fixture
def url(folder, tmp_path, monkeypatch):
    """The same set in a store."""
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / "scratch"))
    monkeypatch.setattr(staging, "_SECONDS_BETWEEN_ATTEMPTS", 0)
    address = f"memory://{uuid.uuid4().hex}/records"
    stores.upload(folder, address)
    return address


def open_data(path, **changes):
    bins = bins_lib.Bins.load(path)
    options = batches.Options(**OPTIONS | {"batch_size": 8} | changes)
    return batches.make_iterator(path, bins, NAMES, options)


def rows_of(host, hosts):
    """The rows of a batch of 8 that one of several hosts reads."""
    return range(8)[8 * host // hosts : 8 * (host + 1) // hosts]


def take(data, count):
    found = list(itertools.islice(data, count))
    return [{name: array.tolist() for name, array in batch.items()} for batch in found]


def on_disk(copy):
    return sorted(path.name for path in copy.glob("*.array_record"))


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("threads", [1, 4])
def test_batches_are_those_of_the_folder_and_go_on_from_its_states(folder, url, window, threads):
    with_window = {"shuffle_shards": window, "num_threads": threads}
    whole = take(open_data(folder, **with_window), 20)
    copy = staging.open_copy(url)
    assert on_disk(copy) == []
    data = open_data(copy, **with_window)
    assert str(take(data, 11)) == str(whole[:11])
    resumed = open_data(copy, **with_window)
    resumed.set_state(data.get_state())
    assert str(take(resumed, 9)) == str(whole[11:])
    here = open_data(folder, **with_window)
    here.set_state(data.get_state())
    assert str(take(here, 9)) == str(whole[11:])
    for one in (data, resumed, here):
        one.close()


def test_a_hundred_thousand_shards_follow_each_other_by_number(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / "scratch"))
    many = write_set(tmp_path / "many", SIZES, first=99_997)
    url = f"memory://{uuid.uuid4().hex}/records"
    stores.upload(many, url)
    for path in (many, staging.open_copy(url)):
        data, whole = open_data(path), open_data(folder)
        assert str(take(data, 20)) == str(take(whole, 20))
        assert read_captions(path, 3) == read_captions(folder, 3)
        data.close()
        whole.close()


def test_processes_read_the_rows_of_one(folder, url):
    copy = staging.open_copy(url)
    whole = take(open_data(folder, shuffle_shards=2), 12)
    parts = [take(open_data(copy, shuffle_shards=2, rows=rows_of(i, 2)), 12) for i in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch["index"] == first["index"] + second["index"]


def test_the_disk_holds_three_windows_at_most(folder, url):
    copy = staging.open_copy(url)
    sizes = {name: shards.read_sidecar(shards.open_folder(copy), name)["bytes"] for name in names()}
    bound = sum(sorted(sizes.values())[-3:])
    data, most, seen = open_data(copy, shuffle_shards=1, stage_bytes=bound), 0, set()
    expected = open_data(folder, shuffle_shards=1)
    for _ in range(3 * sum(SIZES) // 8):
        np.testing.assert_array_equal(next(data)["image_mean"], next(expected)["image_mean"])
        here = on_disk(copy)
        seen |= {*here}
        most = max(most, sum(sizes[name] for name in here))
    data.close()
    assert 0 < most <= bound and seen >= {name for name in sizes if name != names()[2]}


def names():
    return [f"shard-{number:05d}.array_record" for number in range(len(SIZES))]


def test_what_does_not_fit_is_an_error_that_says_what_does(url):
    copy = staging.open_copy(url)
    for window in (0, 4):
        with pytest.raises(ValueError, match="memory://.* of disk .* at a time; .*shuffle_shards"):
            open_data(copy, shuffle_shards=window, stage_bytes=1000)


def test_a_start_finds_what_an_earlier_one_has_staged(url, monkeypatch):
    copy = staging.open_copy(url)
    first = open_data(copy)
    expected = take(first, 10)
    first.close()
    assert on_disk(copy) == names()
    monkeypatch.setattr(RemoteFolder, "local", None)
    data = open_data(staging.open_copy(url))
    assert str(take(data, 10)) == str(expected)
    data.close()


KILLED = """
import os, sys
from miro_jax.data.storage import LocalFolder
with LocalFolder(sys.argv[1]).scratch("") as path:
    (path / "half").write_bytes(b"x")
    os.kill(os.getpid(), 9)
"""


def test_a_start_deletes_what_a_killed_one_left_and_nothing_of_one_that_lives(url):
    copy = staging.open_copy(url)
    for place in (copy, copy.parent):
        run = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
        assert run.returncode == -signal.SIGKILL and len(list(place.glob("tmp-*/half"))) == 1
    with LocalFolder(copy).scratch("") as alive:
        assert staging.open_copy(url) == copy
        assert [*copy.glob("tmp-*"), *copy.parent.glob("tmp-*")] == [alive]


@pytest.mark.parametrize("lasting", [False, True])
def test_a_shard_that_comes_damaged_is_fetched_again_and_at_last_named(
    folder, url, monkeypatch, lasting
):
    fetch, damaged = RemoteFolder.local, []

    def spoil(store, name, scratch):
        path = fetch(store, name, scratch)
        if name == names()[3] and (lasting or not damaged):
            damaged.append(name)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        return path

    monkeypatch.setattr(RemoteFolder, "local", spoil)
    data = open_data(staging.open_copy(url))
    if lasting:
        with pytest.raises(OSError, match=f"memory://.*/{names()[3]} differs from its sha256"):
            take(data, 10)
        assert names()[3] not in on_disk(staging.open_copy(url))
    else:
        assert str(take(data, 10)) == str(take(open_data(folder), 10))
    assert damaged
    data.close()


def test_a_shard_that_is_missing_in_the_store_is_named(url):
    RemoteFolder(url).remove(names()[1])
    with pytest.raises(FileNotFoundError, match=names()[1]):
        take(open_data(staging.open_copy(url)), 10)


def test_states_of_another_order_are_refused(folder):
    data = open_data(folder, shuffle_shards=2)
    for window in (0, 3):
        with pytest.raises(ValueError, match="shuffle_shards was 2; got (3|None)"):
            open_data(folder, shuffle_shards=window).set_state(data.get_state())
    with pytest.raises(ValueError, match="shuffle_shards was None; got 2"):
        data.set_state(open_data(folder).get_state())


def test_scores_and_captions_of_a_copy_are_read(folder, url):
    copy = staging.open_copy(url)
    np.testing.assert_array_equal(shards.read_scores(copy), shards.read_scores(folder))
    assert read_captions(copy, 3) == read_captions(folder, 3)
    assert len(on_disk(copy)) == 3


def test_captions_are_read_of_shards_that_another_process_deletes(folder, url, monkeypatch):
    fetch = staging._open_shard

    def fetch_and_lose(store, name, copy):
        reader = fetch(store, name, copy)
        (copy / name).unlink()
        return reader

    monkeypatch.setattr(staging, "_open_shard", fetch_and_lose)
    assert read_captions(staging.open_copy(url), 3) == read_captions(folder, 3)


def test_a_copy_follows_a_set_that_is_finished_or_made_again(folder, url):
    store = RemoteFolder(url)
    manifest = store.read("manifest.json")
    store.remove("manifest.json")
    assert not (staging.open_copy(url) / "manifest.json").exists()
    store.write("manifest.json", manifest)
    copy = staging.open_copy(url)
    assert (copy / "manifest.json").read_bytes() == manifest
    store.write("bins.json", b"{}")
    assert (staging.open_copy(url) / "bins.json").read_bytes() == b"{}"
    assert staging.source_of(folder) is None and str(staging.source_of(copy)) == url


@pytest.mark.over_a_second
def test_processes_that_start_at_once_copy_a_set_once(folder, url, monkeypatch):
    fetch, copied, ended = RemoteFolder.fetch, [], threading.Event()

    def count(store, name, path):
        copied.append(name)
        if copied.count("manifest.json") == 1 and name == "manifest.json":
            ended.wait(1)  # the other one starts, and ends if nothing stops it
        return fetch(store, name, path)

    def start(_):
        staging.open_copy(url)
        ended.set()

    monkeypatch.setattr(RemoteFolder, "fetch", count)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(start, range(2)))
    beside = [path.name for path in folder.iterdir() if path.suffix != ".array_record"]
    assert sorted(copied) == sorted(beside)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("staged", [False, True])
def test_shards_that_another_process_deletes_as_they_are_opened_are_read(
    folder, url, monkeypatch, when, staged
):
    digest, copy = staging.digest_regular, staging.open_copy(url)
    if staged:
        data = open_data(copy)
        take(data, 10)
        data.close()

    def disturbed(path):
        if when == "after":
            found = digest(path)
        for named in copy.glob("*.array_record"):
            named.unlink()
        return digest(path) if when == "before" else found

    monkeypatch.setattr(staging, "digest_regular", disturbed)
    data = open_data(copy, num_threads=0)
    monkeypatch.setattr(data._source.staged, "_pool", concurrent.futures.ThreadPoolExecutor(1))
    assert str(take(data, 10)) == str(take(open_data(folder), 10))
    data.close()


def test_a_set_that_extends_another_one_is_refused(url, monkeypatch):
    monkeypatch.setattr(staging.Manifest, "extends", "abc")
    with pytest.raises(ValueError, match="extends other records"):
        staging.StagedRecords(staging.open_copy(url))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_by_lanes_are_the_same_for_any_number_of_hosts_and_batch_size(folder, url, hosts):
    given = {"shuffle_shards": 4, "lanes": 4}
    one = open_data(folder, **given)
    whole = [index for batch in take(one, 24) for index in batch["index"]]
    copy = staging.open_copy(url)
    here = [open_data(copy, **given, rows=rows_of(i, hosts)) for i in range(hosts)]
    first = zip(*(take(data, 11) for data in here), strict=True)
    assert [i for parts in first for part in parts for i in part["index"]] == whole[: 11 * 8]
    state = here[-1].get_state()
    other = open_data(folder, **given, batch_size=4)  # of any batch size, the same records
    other.set_state(state)
    found = [i for batch in take(other, 26) for i in batch["index"]]
    assert sorted(found) == sorted(whole[11 * 8 :])
    for one_host in (*here, one, other):
        one_host.close()


@pytest.mark.over_a_second
def test_a_host_fetches_the_shards_of_its_lanes_alone(tmp_path, monkeypatch):
    """Its share of 24, one more where lanes meet, and of the next epoch each lane's first one."""
    sizes = [10, 14] * 12
    folder, url = write_set(tmp_path / "records", sizes), f"memory://{uuid.uuid4().hex}/records"
    stores.upload(folder, url)
    fetch, fetched = RemoteFolder.fetch, []

    def counted(store, name, path, count=None):
        fetched.append(name)
        fetch(store, name, path, count)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    for hosts in (1, 2, 4):
        for host in range(hosts):
            monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / f"disk-{host}-of-{hosts}"))
            given = {"shuffle_shards": 4, "lanes": 4, "num_threads": 1, "prefetch_batches": 1}
            data = open_data(staging.open_copy(url), **given, rows=rows_of(host, hosts))
            take(data, sum(sizes) // 8 - 3)
            here = {name for name in fetched if name.endswith(".array_record")}
            data.close()
            assert 24 / hosts - 3 <= len(here) <= 24 / hosts + 2 + 4 / hosts, (hosts, len(here))
            fetched.clear()


def test_processes_of_a_machine_with_shards_of_their_own_share_its_free_disk(url, monkeypatch):
    copy, hosts = staging.open_copy(url), 2
    opened = shards.open_folder(copy)
    size = sum(shards.read_sidecar(opened, name)["bytes"] for name in names())
    monkeypatch.setattr(staging.StagedRecords, "_room", lambda _: size / staging._FREE_SHARE + 1)
    given = {"shuffle_shards": 2, "rows": rows_of(0, hosts), "processes_here": hosts}
    open_data(copy, **given).close()  # both read the same shards
    open_data(copy, **given | {"lanes": 2, "processes_here": 1}).close()
    with pytest.raises(ValueError, match="of disk .* at a time; it may take"):
        open_data(copy, **given | {"lanes": 2, "processes_here": 2 * hosts})


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"lanes": 3}, "lanes must divide the batch size 8; got 3"),
        ({"lanes": 0}, "lanes must be at least 1"),
        ({"lanes": 2, "shuffle_shards": 0}, "lanes must be at most shuffle_shards.* got 2 and 0"),
        ({"lanes": 8, "shuffle_shards": 4}, "lanes must be at most shuffle_shards.* got 8 and 4"),
        ({"lanes": 2.0}, "must be whole numbers"),
        ({"num_threads": -1}, "num_threads must be at least 0; got -1"),
        (
            {"lanes": 128, "batch_size": 128, "shuffle_shards": 128},
            "at most the 64 records; got 128",
        ),
    ],
)
def test_lanes_that_cannot_be_are_refused(folder, changes, said):
    with pytest.raises(ValueError, match=said):
        open_data(folder, **{"shuffle_shards": 2} | changes)


def test_states_of_other_lanes_are_refused(folder):
    data = open_data(folder, shuffle_shards=4, lanes=2)
    for lanes in (1, 4):
        with pytest.raises(ValueError, match="lanes was 2; got (4|None)"):
            open_data(folder, shuffle_shards=4, lanes=lanes).set_state(data.get_state())
    with pytest.raises(ValueError, match="lanes was None; got 2"):
        data.set_state(open_data(folder, shuffle_shards=4).get_state())
