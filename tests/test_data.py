"""The training iterator: order, captions, resume, processes, damage."""

import json
import resource
import shutil
import time

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from miro_jax.data.records import batches, shards
from miro_jax.data.records import bins as bins_lib
from miro_jax.data.records import record as records
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import Damaged, open_folder

WIDTH, LATENT_SHAPE, SECOND_SHAPE = 6, (4, 4, 3), (8, 8, 3)
NAMES = ("a@1", "b@1")
OPTIONS = {"batch_size": 16, "seed": 0, "synthetic_caption_prob": 0.5, "max_tokens": 8}


def make_record(i, num_tokens=None, synthetic=True):
    """Record i: every array carries i + 1, and the synthetic half the negative."""
    value = i + 1
    rng = np.random.default_rng(i)
    num_tokens = int(rng.integers(1, 12)) if num_tokens is None else num_tokens
    return records.Record(
        key=f"key-{i:05d}",
        caption="a circle",
        synthetic_caption="a red circle" if synthetic else None,
        width=32,
        height=32,
        image_mean=np.full(LATENT_SHAPE, value, np.float16),
        image_std=np.full(LATENT_SHAPE, value / 2, np.float16),
        caption_tokens=np.full((num_tokens, WIDTH), value, np.float16),
        synthetic_caption_tokens=np.full((3, WIDTH), -value, np.float16) if synthetic else None,
        scores=np.array([value, np.nan], np.float32),
        synthetic_scores=np.array([-value, value], np.float32) if synthetic else None,
        image_mean_512=np.full(SECOND_SHAPE, 10 * value, np.float16),
        image_std_512=np.full(SECOND_SHAPE, 10 * value / 2, np.float16),
    )


def write_set(folder, shard_sizes, synthetic=lambda i: True, first=0):
    folder.mkdir(exist_ok=True)
    counts, start = {}, 0
    for number, size in enumerate(shard_sizes, first):
        name = f"shard-{number:05d}.array_record"
        some = [make_record(i, synthetic=synthetic(i)) for i in range(start, start + size)]
        counts[name] = shards.write_shard(open_folder(folder), name, some)["count"]
        start += size
    made = {"rewards": NAMES, "latent_shape": LATENT_SHAPE, "caption_width": WIDTH}
    manifest = Manifest(made | {"latent_shape_512": SECOND_SHAPE}, counts, start, 0, {})
    manifest.save(folder)
    scores = shards.read_scores(folder)
    bins_lib.fit_bins(scores, NAMES, 8, "quantile", manifest.digest).save(folder / "bins.json")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty-four records in shards of uneven size, one of them without any record."""
    return write_set(tmp_path_factory.mktemp("records"), [20, 0, 33, 11])


def open_data(folder, **changes):
    identities = changes.pop("identities", NAMES)
    options = batches.Options(**OPTIONS | changes)
    return batches.make_iterator(folder, bins_lib.Bins.load(folder), identities, options)


def take(iterator, num_batches):
    return [next(iterator) for _ in range(num_batches)]


def test_a_network_gets_the_image_latents_of_its_size(folder):
    for shape, factor in ((None, 1), (LATENT_SHAPE, 1), (SECOND_SHAPE, 10)):
        iterator = open_data(folder, latent_shape=shape)
        batch = next(iterator)
        iterator.close()
        assert batch["image_mean"].shape == (16, *(shape or LATENT_SHAPE))
        np.testing.assert_array_equal(
            batch["image_mean"][:, 0, 0, 0], factor * (batch["index"] + 1)
        )
        np.testing.assert_array_equal(batch["image_std"] * 2, batch["image_mean"])
    with pytest.raises(
        ValueError, match=r"\(2, 2, 3\); the records hold \(4, 4, 3\) and \(8, 8, 3\)"
    ):
        open_data(folder, latent_shape=(2, 2, 3))


def indices(batches):
    return np.concatenate([batch["index"] for batch in batches])


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batch_has_the_promised_arrays(folder):
    batch = next(open_data(folder))
    want = {
        "image_mean": (np.float16, (16, *LATENT_SHAPE)),
        "image_std": (np.float16, (16, *LATENT_SHAPE)),
        "caption_tokens": (np.float16, (16, 8, WIDTH)),
        "caption_mask": (np.bool_, (16, 8)),
        "levels": (np.float32, (16, 2)),
        "weight": (np.float32, (16,)),
        "index": (np.int64, (16,)),
    }
    assert {name: (a.dtype.type, a.shape) for name, a in batch.items()} == want
    assert all(a.flags.c_contiguous for a in batch.values())
    np.testing.assert_array_equal(batch["image_mean"][:, 0, 0, 0], batch["index"] + 1)
    np.testing.assert_array_equal(batch["weight"], 1)


def test_captions_are_padded_cut_and_masked(folder):
    lengths = set()
    for batch in take(open_data(folder, synthetic_caption_prob=0.0), 4):
        for row, i in enumerate(batch["index"]):
            n = min(len(make_record(i).caption_tokens), 8)
            lengths.add(n)
            assert batch["caption_mask"][row].tolist() == [True] * n + [False] * (8 - n)
            np.testing.assert_array_equal(batch["caption_tokens"][row, :n], i + 1)
            np.testing.assert_array_equal(batch["caption_tokens"][row, n:], 0)
    assert len(lengths) > 4 and 8 in lengths


def test_every_epoch_is_another_permutation(folder):
    epochs = indices(take(open_data(folder), 12)).reshape(3, 64)
    for epoch in epochs:
        assert sorted(epoch) == list(range(64))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_give_unrelated_orders(folder):
    orders = [indices(take(open_data(folder, seed=s), 12)).reshape(3, 64) for s in range(4)]
    assert len({tuple(epoch) for order in orders for epoch in order}) == 12


def test_seeds_choose_captions_independently(folder):
    used = []
    for seed in range(2):
        batches = take(open_data(folder, seed=seed), 12)
        used.append(np.concatenate([batch["caption_tokens"][:, 0, 0] < 0 for batch in batches]))
    assert 0.3 < np.mean(used[0] != used[1]) < 0.7


def test_order_and_captions_depend_on_the_seed_only(folder):
    want = take(open_data(folder), 6)
    for threads, prefetch in ((1, 1), (8, 2), (0, 4)):
        assert_same(
            take(open_data(folder, num_threads=threads, prefetch_batches=prefetch), 6), want
        )


def test_state_continues_exactly(folder):
    iterator = open_data(folder)
    take(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    want = take(iterator, 6)
    iterator.set_state(state)
    assert_same(take(iterator, 6), want)
    fresh = open_data(folder)
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert_same(take(fresh, 6), want)


def test_state_continues_with_another_batch_size(folder):
    iterator = open_data(folder)
    take(iterator, 3)
    other = open_data(folder, batch_size=8)
    other.set_state(iterator.get_state())
    np.testing.assert_array_equal(indices(take(other, 6)), indices(take(iterator, 3)))


@pytest.mark.parametrize("change", [{"seed": 1}, {"synthetic_caption_prob": 0.25}])
def test_state_of_other_settings_is_refused(folder, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        open_data(folder).set_state(open_data(folder, **change).get_state())


def test_state_of_other_records_is_refused(folder, tmp_path):
    other = write_set(tmp_path / "other", [16])
    with pytest.raises(ValueError, match=r"records \(config.data.records\) was"):
        open_data(folder).set_state(open_data(other).get_state())


def test_state_of_levels_that_were_fitted_otherwise_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    state = open_data(tmp_path / "set").get_state()
    open_data(folder).set_state(state)
    scores = shards.read_scores(folder)
    bins_lib.fit_bins(scores, NAMES, 4, "quantile", state["manifest_digest"]).save(
        tmp_path / "set" / "bins.json"
    )
    with pytest.raises(ValueError, match="levels was '8 quantile .*; got '4 quantile"):
        open_data(tmp_path / "set").set_state(state)


def test_levels_and_tokens_of_other_records_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    write_set(tmp_path / "other", [16])
    shutil.copy(tmp_path / "other" / "bins.json", tmp_path / "set")
    with pytest.raises(ValueError, match="bins.json must be fitted to these records"):
        open_data(tmp_path / "set")
    with pytest.raises(ValueError, match="width 5; the records hold 6"):
        open_data(folder, caption_width=5)


def test_processes_share_out_the_global_batch(folder):
    want = take(open_data(folder), 5)
    for count in (2, 4):
        parts = [
            take(open_data(folder, rows=range(first, first + 16 // count)), 5)
            for first in range(0, 16, 16 // count)
        ]
        for step in range(5):
            together = {k: np.concatenate([p[step][k] for p in parts]) for k in want[step]}
            assert_same([together], [want[step]])


def test_a_process_reads_the_rows_of_its_devices(folder):
    want = next(open_data(folder))
    for rows in ([0, 1, 8, 9], [5], list(range(16))):
        iterator = open_data(folder, rows=rows)
        assert_same([next(iterator)], [{k: v[rows] for k, v in want.items()}])
        assert iterator.get_state()["global_next_index"] == 16
        iterator.close()


@pytest.mark.over_a_second
def test_synthetic_captions_come_at_their_rate_with_their_own_scores(folder):
    bins, scores = bins_lib.Bins.load(folder), shards.read_scores(folder)
    for probability in (0.0, 0.3, 1.0):
        used = []
        for batch in take(open_data(folder, synthetic_caption_prob=probability), 30):
            synthetic = batch["caption_tokens"][:, 0, 0] < 0
            both = scores[batch["index"], synthetic.astype(int)]
            np.testing.assert_array_equal(batch["levels"], bins_lib.levels(bins, both))
            used += synthetic.tolist()
        # Four standard deviations of a mean of n independent draws.
        spread = 4 * np.sqrt(probability * (1 - probability) / len(used))
        assert abs(np.mean(used) - probability) <= spread


def test_the_choice_of_caption_changes_between_epochs(folder):
    first, second = {}, {}
    for number, batch in enumerate(take(open_data(folder), 8)):
        used = first if number < 4 else second
        used |= dict(
            zip(batch["index"].tolist(), batch["caption_tokens"][:, 0, 0] < 0, strict=True)
        )
    assert 10 < sum(first[i] != second[i] for i in first) < 54


def test_record_without_a_synthetic_caption_uses_its_own(tmp_path):
    folder = write_set(tmp_path / "set", [16], synthetic=lambda i: i % 2 == 0)
    (batch,) = take(open_data(folder, synthetic_caption_prob=1.0), 1)
    want = np.where(batch["index"] % 2 == 0, -1, 1) * (batch["index"] + 1)
    np.testing.assert_array_equal(batch["caption_tokens"][:, 0, 0], want)


def damage_one_record(shard):
    """Flip one bit so that exactly one record of the shard is lost; return its position."""
    good = shard.read_bytes()
    for position in range(200, len(good), 41):
        bad = bytearray(good)
        bad[position] ^= 4
        shard.write_bytes(bad)
        reader = ArrayRecordReader(str(shard))
        lost = []
        for index in range(reader.num_records()):
            try:
                reader.read([index])
            except RuntimeError:
                lost.append(index)
        if len(lost) == 1:
            return lost[0]
    raise AssertionError("no bit flip loses exactly one record")


def test_damaged_record_gets_weight_zero_and_nothing_shifts(tmp_path):
    folder = write_set(tmp_path / "set", [16, 16])
    want = take(open_data(folder), 4)
    lost = 16 + damage_one_record(folder / "shard-00001.array_record")
    iterator = open_data(folder)
    got = take(iterator, 4)
    np.testing.assert_array_equal(indices(got), indices(want))
    rows = 0
    for a, b in zip(got, want, strict=True):
        bad = a["index"] == lost
        rows += bad.sum()
        np.testing.assert_array_equal(a["weight"], np.where(bad, 0, 1))
        assert np.isnan(a["levels"][bad]).all() and not a["caption_mask"][bad].any()
        assert_same([{k: v[~bad] for k, v in a.items()}], [{k: v[~bad] for k, v in b.items()}])
    assert rows == 2 and iterator.num_damaged == 1
    assert iterator.key(3) == "key-00003" and "damaged" in iterator.key(lost)


def test_more_damage_than_single_records_stops_the_run(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set", [32])
    iterator = open_data(folder)

    def fail(source, index):
        raise RuntimeError("too many open files")

    monkeypatch.setattr(type(iterator._source._records), "__getitem__", fail)
    with pytest.raises(OSError, match="At most 10 of the 32 records"):
        take(iterator, 1)


def test_limit_of_open_files_is_raised_or_named(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 4096))
    open_data(folder)
    assert asked == [(4 + 256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 100))
    with pytest.raises(OSError, match="the limit is 100"):
        open_data(folder)


def test_record_of_another_shape_gets_weight_zero(tmp_path):
    folder = write_set(tmp_path / "set", [8])
    bad = records.Record(**{**vars(make_record(3)), "scores": np.zeros(5, np.float32)})
    bad = records.encode_record(bad)
    iterator = open_data(folder, batch_size=8)
    original = iterator._source._records

    class Replaced:
        def __getitem__(self, index):
            return bad if index == 3 else original[index]

        def __len__(self):
            return len(original)

    iterator._source._records = Replaced()
    batch = next(iterator)
    np.testing.assert_array_equal(batch["weight"], batch["index"] != 3)


@pytest.mark.parametrize("kind", ["truncated", "empty", "gone", "unfinished"])
def test_damaged_set_is_refused_at_start(tmp_path, kind):
    folder = write_set(tmp_path / "set", [8, 8])
    shard = folder / "shard-00001.array_record"
    name = shard.name
    if kind == "truncated":
        shard.write_bytes(shard.read_bytes()[:50000])
    elif kind == "empty":
        shard.write_bytes(b"")
    elif kind == "gone":
        shard.unlink()
    else:
        (folder / "manifest.json").unlink()
        name = "manifest.json"
    with pytest.raises((Damaged, FileNotFoundError), match=name):
        open_data(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"synthetic_caption_prob": 1.5}, "synthetic_caption_prob"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"caption_buckets": (4, 4)}, r"caption_buckets must rise.* below the 8 .*got \(4, 4\)"),
        ({"caption_buckets": (0,)}, "caption_buckets must rise"),
        ({"caption_buckets": (4, 8)}, "caption_buckets must rise"),
        ({"identities": ("a@1", "b@2")}, "b@2"),
    ],
)
def test_bad_arguments_are_named(folder, change, text):
    with pytest.raises(ValueError, match=text):
        open_data(folder, **change)


def test_bins_of_other_rewards_are_refused(folder):
    bins = bins_lib.fit_bins(np.arange(6.0).reshape(3, 2), ["a@1", "c@1"], 8)
    with pytest.raises(ValueError, match="c@1"):
        batches.make_iterator(folder, bins, NAMES, batches.Options(**OPTIONS))


@pytest.mark.slow
def test_records_of_pixels_are_read_fast_enough(tmp_path):
    """Guards against a slow path (a file opened per record, say); far below the norm."""
    folder = write_set(tmp_path / "set", [256])
    iterator = open_data(folder, batch_size=64)
    take(iterator, 4)
    start = time.process_time()  # a busy machine has less wall time to give
    take(iterator, 32)
    assert 32 * 64 / (time.process_time() - start) > 1000
