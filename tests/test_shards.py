"""Shards: atomic publication, and detection of every damage."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from miro_jax.data.records import record as records
from miro_jax.data.records import shards
from miro_jax.data.records.manifest import Manifest, in_order, require_rewards
from miro_jax.data.storage import Damaged, files, open_folder

ROOT = pathlib.Path(__file__).parent.parent
WIDTH, REWARDS, LATENT_SHAPE = 5, 3, (4, 4, 3)


def make_record(seed, synthetic=None):
    rng = np.random.default_rng(seed)
    synthetic = bool(rng.integers(2)) if synthetic is None else synthetic
    scores = rng.normal(size=(2, REWARDS)).astype(np.float32)
    tokens = rng.normal(size=(4, WIDTH)).astype(np.float16)
    return records.Record(
        key=f"sample-{seed:05d}",
        caption="a red circle",
        synthetic_caption="long" if synthetic else None,
        width=32,
        height=32,
        image_mean=rng.normal(size=LATENT_SHAPE).astype(np.float16),
        image_std=rng.uniform(size=LATENT_SHAPE).astype(np.float16),
        caption_tokens=tokens,
        synthetic_caption_tokens=tokens[1:] if synthetic else None,
        scores=scores[0],
        synthetic_scores=scores[1] if synthetic else None,
    )


def assert_same(data, record):
    assert data == records.encode_record(record)


def make_manifest(counts, rewards=("a@1", "b@1", "c@1")):
    return Manifest(
        configuration={
            "rewards": list(rewards),
            "latent_shape": list(LATENT_SHAPE),
            "caption_width": WIDTH,
        },
        shards=counts,
        num_samples=sum(counts.values()),
        num_failures=0,
        versions={},
    )


def write_folder(folder, shard_sizes, seed=0):
    """Write shards of made records; return them in order."""
    made, counts = [], {}
    for number, size in enumerate(shard_sizes):
        some = [make_record(1000 * seed + len(made) + i) for i in range(size)]
        name = f"shard-{number:05d}.array_record"
        counts[name] = shards.write_shard(open_folder(folder), name, some)["count"]
        made += some
    make_manifest(counts).save(folder)
    return made


def test_shard_reads_back_in_order_with_sidecar_and_scores(tmp_path):
    made = write_folder(tmp_path, [7, 0, 5])
    paths = shards.verify_shards(tmp_path, full=True)
    read = [r for p in paths for r in ArrayRecordReader(str(p)).read_all()]
    for data, record in zip(read, made, strict=True):
        assert_same(data, record)
    sidecar = shards.read_sidecar(open_folder(tmp_path), paths[0].name)
    assert sidecar["count"] == 7
    assert (sidecar["first_key"], sidecar["last_key"]) == (made[0].key, made[6].key)
    scores = shards.read_scores(tmp_path)
    assert scores.shape == (12, 2, REWARDS) and scores.dtype == np.float32
    for row, record in zip(scores, made, strict=True):
        np.testing.assert_array_equal(row[0], record.scores)
        if record.synthetic_scores is None:
            assert np.isnan(row[1]).all()
        else:
            np.testing.assert_array_equal(row[1], record.synthetic_scores)


def test_shards_are_in_order_of_their_numbers_and_others_in_that_of_their_texts(tmp_path):
    names = [f"shard-{number:05d}.array_record" for number in (0, 9, 10, 99_999, 100_000, 123_456)]
    names += [f"shard-{number}.array_record" for number in (999_999, 1_000_000)]
    assert in_order(reversed(names)) == names
    others = [f"{stem}.array_record" for stem in ("a-10", "a-9", "b", "shard-1", "shard-x", "z")]
    assert in_order([*names, *others]) == [*others[:3], *names, *others[3:]]
    rows = [make_record(seed) for seed in range(2)]
    for name, row in zip(names[3:5], rows, strict=True):
        shards.write_shard(open_folder(tmp_path), name, [row])
    assert [path.name for path in shards.verify_shards(tmp_path)] == names[3:5]
    make_manifest(dict.fromkeys(names[3:5], 1)).save(tmp_path)
    assert [path.name for path in shards.verify_shards(tmp_path)] == names[3:5]
    scores = shards.read_scores(tmp_path)
    np.testing.assert_array_equal(scores[:, 0], [row.scores for row in rows])


def test_every_file_is_flushed_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    calls = []
    flush = os.fsync

    def watched_flush(descriptor):
        calls.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}")))
        flush(descriptor)

    def watched_naming(action):
        def watched(source, target):
            calls.append(("name", str(source), pathlib.Path(target).name))
            action(source, target)

        return watched

    monkeypatch.setattr(os, "fsync", watched_flush)
    for action in ("link", "replace"):
        monkeypatch.setattr(os, action, watched_naming(getattr(os, action)))
    write_folder(tmp_path, [2])
    shard = "shard-00000.array_record"
    names = [shard, f"{shard}.scores.npy", f"{shard}.json", "manifest.json"]
    assert [call[2] for call in calls[1::3]] == names and len(calls) == 12
    for before, at, after in zip(calls[::3], calls[1::3], calls[2::3], strict=True):
        assert before == ("flush", at[1])
        assert after == ("flush", str(tmp_path))


def test_of_two_writers_the_second_describes_the_shard_of_the_first(tmp_path):
    folder, name = open_folder(tmp_path), "shard-00000.array_record"
    first, second = make_record(1), dataclasses.replace(make_record(1), caption="other")

    def records_while_another_writes():
        yield second
        shards.write_shard(folder, name, [first])
        (tmp_path / (name + ".json")).unlink()  # it was killed just before

    sidecar = shards.write_shard(folder, name, records_while_another_writes(), {"extra": 1})
    (path,) = shards.verify_shards(tmp_path, full=True)
    assert_same(ArrayRecordReader(str(path)).read_all()[0], first)
    assert sidecar == shards.read_sidecar(folder, name) and sidecar["extra"] == 1


def test_a_shard_of_a_killed_writer_with_other_samples_is_written_anew(tmp_path):
    """Its failures are not known; those of this writer would not fit it."""
    folder, name = open_folder(tmp_path), "s.array_record"
    found = [make_record(i) for i in range(5)]
    shards.write_shard(folder, name, found[:3])
    (tmp_path / (name + ".json")).unlink()
    assert shards.write_shard(folder, name, found, {"failures": []})["count"] == 5
    (path,) = shards.verify_shards(tmp_path, full=True)
    for data, record in zip(ArrayRecordReader(str(path)).read_all(), found, strict=True):
        assert_same(data, record)


def test_what_another_writer_published_stays(tmp_path):
    folder, name = open_folder(tmp_path), "s.array_record"
    found = [make_record(i) for i in range(5)]
    first = shards.write_shard(folder, name, found[:3], {"by": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert shards.write_shard(folder, name, found, {"by": 2}) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_shard_is_published_with_all_that_stands_beside_it(tmp_path):
    folder, name = open_folder(tmp_path), "s.array_record"
    found = [make_record(i) for i in range(5)]
    for end in ("", ".scores.npy", ".json"):
        assert not shards.is_published(folder, name)
        shards.write_shard(folder, name, found)
        assert shards.is_published(folder, name)
        (tmp_path / (name + end)).unlink()
    shards.write_shard(folder, name, found)
    (tmp_path / (name + ".json")).write_text("[]")
    assert not shards.is_published(folder, name)


def test_writing_again_gives_equal_bytes(tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
        write_folder(folder, [20, 3])
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert first == second


def test_failed_write_leaves_nothing_behind(tmp_path):
    path = tmp_path / "shard-00000.array_record"
    record = make_record(0)

    def broken():
        yield record
        raise KeyError("source broke")

    with pytest.raises(KeyError):
        shards.write_shard(open_folder(tmp_path), path.name, broken())
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="annotate"):
        shards.verify_shards(tmp_path)
    shards.write_shard(open_folder(tmp_path), path.name, [record])
    assert {p.name.removeprefix(path.name) for p in tmp_path.iterdir()} == {
        "",
        ".json",
        ".scores.npy",
    }
    assert shards.verify_shards(tmp_path) == [path]


# The limit on the size of a file stands in for a full disk: the system refuses the write.
FULL = """
import resource, signal, sys
from miro_jax.data import storage
from miro_jax.data.records import record as records
from miro_jax.data.records import shards
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
record = records.decode_record(open(sys.argv[1], "rb").read())
try:
    folder, _, name = sys.argv[2].rpartition("/")
    shards.write_shard(storage.open_folder(folder), name, [record] * int(sys.argv[3]))
except OSError as error:
    print(error)
"""


def test_full_disk_is_named_and_leaves_nothing_behind(tmp_path):
    rng = np.random.default_rng(0)
    record = dataclasses.replace(
        make_record(0),
        image_mean=rng.normal(size=(50, 50, 20)).astype(np.float16),
        image_std=rng.normal(size=(50, 50, 20)).astype(np.float16),
    )
    (tmp_path / "record").write_bytes(records.encode_record(record))
    (tmp_path / "out").mkdir()
    for count in (3, 400):  # the second overflows the writer's buffer before it is closed
        target = tmp_path / "out" / "shard-00000.array_record"
        command = [sys.executable, "-c", FULL, tmp_path / "record", target, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert "shard-00000.array_record" in done.stdout and "cannot be written" in done.stdout
        assert "too large" in done.stdout
        assert not list((tmp_path / "out").iterdir())


def test_sixty_bit_flips_are_detected_and_never_give_wrong_data(tmp_path):
    path = tmp_path / "shard-00000.array_record"
    made = [make_record(i, synthetic=True) for i in range(40)]
    shards.write_shard(open_folder(tmp_path), path.name, made)
    good = path.read_bytes()
    used = max(
        i for i, byte in enumerate(good[:65536]) if byte
    )  # padding follows to the block's end
    rng = random.Random(1)
    lost = 0
    for _ in range(60):
        position, bit = rng.randrange(100, used), rng.randrange(8)
        bad = bytearray(good)
        bad[position] ^= 1 << bit
        path.write_bytes(bad)
        with pytest.raises(Damaged, match="sha256|with 0 readable records"):
            shards.verify_shards(tmp_path, full=True)
        reader = ArrayRecordReader(str(path))
        lost += reader.num_records() == 0  # the index is hit: nothing can be read
        for index in range(reader.num_records()):
            try:
                data = reader.read([index])[0]
            except RuntimeError:
                lost += 1
                continue
            assert_same(data, made[index])
        with contextlib.suppress(RuntimeError):  # what was found once is said again
            reader.close()
    assert lost >= 50


@pytest.mark.parametrize(
    "kind", ["truncated", "empty", "unclosed", "other size", "no sidecar", "gone"]
)
def test_damaged_shard_is_named_with_the_remedy(tmp_path, kind):
    write_folder(tmp_path, [5, 6])
    bad = tmp_path / "shard-00001.array_record"
    if kind == "truncated":
        bad.write_bytes(bad.read_bytes()[:-1000])
    elif kind == "empty":
        bad.write_bytes(b"")
    elif kind == "unclosed":
        writer = ArrayRecordWriter(str(tmp_path / "other"), "group_size:1")
        writer.write(b"x" * 100)
        bad.write_bytes((tmp_path / "other").read_bytes())
        del writer
    elif kind == "other size":
        sidecar = shards.read_sidecar(open_folder(tmp_path), bad.name)
        files.write_atomic(f"{bad}.json", files.to_json(sidecar | {"bytes": sidecar["bytes"] - 1}))
    elif kind == "no sidecar":
        (tmp_path / f"{bad.name}.json").unlink()
    else:
        bad.unlink()
    with pytest.raises((Damaged, FileNotFoundError), match="shard-00001") as caught:
        shards.verify_shards(tmp_path)
    assert "annotate" in str(caught.value)


def test_shard_that_contradicts_the_manifest_is_refused(tmp_path):
    write_folder(tmp_path, [5])
    make_manifest({"shard-00000.array_record": 6}).save(tmp_path)
    with pytest.raises(Damaged, match="6 records of the manifest"):
        shards.verify_shards(tmp_path)


def test_manifest_reads_back_and_names_missing_completion(tmp_path):
    with pytest.raises(FileNotFoundError, match="not complete"):
        Manifest.load(tmp_path)
    manifest = make_manifest({"shard-00000.array_record": 3})
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert Manifest.load(tmp_path).digest == manifest.digest
    values = json.loads((tmp_path / "manifest.json").read_bytes()) | {"schema_version": 99}
    del values[files.SEAL]
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="99"):
        Manifest.load(tmp_path)


def test_rewards_of_the_config_must_be_those_of_the_records():
    manifest = make_manifest({})
    require_rewards(manifest, ["a@1", "b@1", "c@1"])
    require_rewards(manifest, ["a", "b@1", "c"])  # a name alone stands for any version
    for wrong in (["a@1", "b@1"], ["b@1", "a@1", "c@1"], ["a@1", "b@1", "c@2"]):
        with pytest.raises(ValueError) as caught:
            require_rewards(manifest, wrong)
        assert f"exactly the rewards of the config, in order, {wrong}" in str(caught.value)
        assert "['a@1', 'b@1', 'c@1']" in str(caught.value)


def test_two_live_writers_that_disagree_end_with_one_shard(tmp_path, monkeypatch):
    """The second replaces the shard of the first before that has written its sidecar."""
    folder, name = open_folder(tmp_path), "s.array_record"
    found, write = [make_record(i) for i in range(5)], shards.write_beside

    def slow(*arguments):
        monkeypatch.setattr(shards, "write_beside", write)
        shards.write_shard(folder, name, found)
        return write(*arguments)

    monkeypatch.setattr(shards, "write_beside", slow)
    sidecar = shards.write_shard(folder, name, found[:3], {"by": "the first"})
    (path,) = shards.verify_shards(tmp_path, full=True)
    assert shards.read_sidecar(folder, name) == sidecar and sidecar["count"] == 3
    assert len(shards.read_published(folder, name)[1]) == 3
