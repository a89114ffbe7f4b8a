"""Records in a store are read as those in a folder: same order, exact resume, bounded disk."""

import itertools
import uuid

import numpy as np
import pytest

from miro_jax.data.records import batches, shards, staging
from miro_jax.data.records import bins as bins_lib
from miro_jax.data.records.order import ShardOrder
from miro_jax.data.storage import RemoteFolder, mirror
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


def test_processes_read_the_rows_of_one(folder, url):
    copy = staging.open_copy(url)
    whole = take(open_data(folder, shuffle_shards=2), 12)
    parts = [
        take(open_data(copy, shuffle_shards=2, process_index=i, process_count=2), 12)
        for i in range(2)
    ]
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
        with pytest.raises(ValueError, match="must have shuffle_shards = (3|None); got 2"):
            open_data(folder, shuffle_shards=window).set_state(data.get_state())
    with pytest.raises(ValueError, match="must have shuffle_shards = 2; got None"):
        data.set_state(open_data(folder).get_state())


def test_scores_and_captions_of_a_copy_are_read(folder, url):
    copy = staging.open_copy(url)
    np.testing.assert_array_equal(shards.read_scores(copy), shards.read_scores(folder))
    assert read_captions(copy, 3) == read_captions(folder, 3)
    assert len(on_disk(copy)) == 3


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


def test_a_set_that_extends_another_one_is_refused(url, monkeypatch):
    monkeypatch.setattr(staging.Manifest, "extends", "abc")
    with pytest.raises(ValueError, match="extends other records"):
        staging.StagedRecords(staging.open_copy(url))


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_each_epoch_by_shards_is_a_permutation_of_all_records(window):
    total = sum(SIZES)
    order = ShardOrder(SIZES, window, 0)
    epochs = [[order(e * total + i) for i in range(total)] for e in range(3)]
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ShardOrder(SIZES, window, 1)(0) != order(0) or window < 3
    assert [ShardOrder(SIZES, window, 0)(i) for i in (5, 90, 3)] == [
        (epochs[0] + epochs[1])[i] for i in (5, 90, 3)
    ]


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_record_is_in_one_of_the_shards_that_are_near(window):
    order, starts = ShardOrder(SIZES, window, 4), np.cumsum([0, *SIZES])
    before: list[int] = []
    for position in range(2 * sum(SIZES)):
        near = order.shards_near(position)
        shard = int(np.searchsorted(starts, order(position), side="right")) - 1
        assert shard in near[:window] and len(near) <= order.most_shards
        assert not before or shard in before  # it was fetched ahead
        before = near
