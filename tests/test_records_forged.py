"""The JSON of a set is checked before it is believed, and named where it is wrong."""

import json

import numpy as np
import pytest

from miro_jax.data.records import shards
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import Damaged, files, open_folder
from tests.test_data import write_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("whole"), [8])


@pytest.fixture
def folder(whole, tmp_path):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def forge(path, change):
    """Change a JSON of ours as somebody who knows nothing of seals, or who removes them."""
    values = json.loads(path.read_bytes())
    values.pop(files.SEAL)
    change(values)
    path.write_bytes(json.dumps(values).encode())


def put(*keys, value):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def drop(*keys):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


BAD_BINS = {
    "one level": put("num_bins", value=1),
    "no level": put("num_bins", value=0),
    "a float": put("num_bins", value=64.0),
    "true": put("num_bins", value=True),
    "another number": put("num_bins", value=9),
    "no edges": drop("edges"),
    "no names": drop("names"),
    "a number for a list": put("edges", value=3),
    "a number for a row": put("edges", 0, value=3),
    "a text for a number": put("edges", 0, 0, value="1"),
    "a short row": drop("edges", 0, 0),
    "a huge integer": put("edges", 0, 0, value=-(10**400)),
    "descending": put("edges", 0, 0, value=1e30),
    "one count": put("counts", value=[1]),
    "a negative count": put("counts", 0, value=-1),
    "another strategy": put("strategy", value="guess"),
}


@pytest.mark.parametrize("kind", BAD_BINS)
def test_levels_that_cannot_be_are_refused_by_name(folder, kind):
    forge(folder / "bins.json", BAD_BINS[kind])
    with pytest.raises(Damaged, match=r"bins.json is damaged.*Run the annotate stage again"):
        Bins.load(folder)


BAD_MANIFESTS = {
    "no configuration": drop("configuration"),
    "no shards": drop("shards"),
    "no rewards": drop("configuration", "rewards"),
    "no width": drop("configuration", "caption_width"),
    "a number for rewards": put("configuration", "rewards", value=7),
    "a text for a shape": put("configuration", "latent_shape", value="4x4x3"),
    "two sizes": put("configuration", "latent_shape", value=[4, 4]),
    "a size of nothing": put("configuration", "latent_shape", value=[4, 0, 3]),
    "a list of shards": put("shards", value=["shard-00000.array_record"]),
    "a count of text": put("shards", "shard-00000.array_record", value="8"),
    "a negative count": put("shards", "shard-00000.array_record", value=-8),
    "a shard elsewhere": put("shards", "../shard-00000.array_record", value=8),
    "an unknown key": put("colour", value="red"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_a_manifest_that_cannot_be_is_refused_by_name(folder, kind):
    forge(folder / "manifest.json", BAD_MANIFESTS[kind])
    with pytest.raises(Damaged, match=r"manifest.json is damaged.*Bring it back"):
        Manifest.load(folder)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{" * 9, b"[]", b"3", b"\xff\xfe", b"", b"null"])
def test_what_is_no_object_is_refused_by_name(folder, data):
    for name, load in (("bins.json", Bins.load), ("manifest.json", Manifest.load)):
        (folder / name).write_bytes(data)
        with pytest.raises(Damaged, match=name):
            load(folder)
    (folder / "shard-00000.array_record.json").write_bytes(data)
    with pytest.raises(Damaged, match="shard-00000.array_record.json is damaged.*Delete"):
        shards.read_sidecar(open_folder(folder), "shard-00000.array_record")


@pytest.mark.parametrize(
    "change", [drop("count"), put("bytes", value="9"), put("count", value=2.5)]
)
def test_a_sidecar_that_cannot_be_is_refused_by_name(folder, change):
    forge(folder / "shard-00000.array_record.json", change)
    with pytest.raises(Damaged, match="shard-00000.array_record.json is damaged"):
        shards.read_published(open_folder(folder), "shard-00000.array_record")
    assert not shards.is_published(open_folder(folder), "shard-00000.array_record")


def test_every_changed_digit_of_our_json_is_noticed(folder):
    """Also where the changed value would be as good as the true one."""
    loads = {
        "bins.json": Bins.load,
        "manifest.json": Manifest.load,
        "shard-00000.array_record.json": lambda f: shards.read_sidecar(
            open_folder(f), "shard-00000.array_record"
        ),
    }
    for name, load in loads.items():
        good = (folder / name).read_bytes()
        load(folder)
        positions = [i for i, byte in enumerate(good) if chr(byte).isdigit()]
        for position in positions[:: max(1, len(positions) // 40)]:
            bad = bytearray(good)
            bad[position] ^= 1
            (folder / name).write_bytes(bad)
            with pytest.raises((Damaged, ValueError)):
                load(folder)
        (folder / name).write_bytes(good)


def test_what_was_written_without_a_seal_is_read_and_has_the_same_identity(folder):
    manifest, bins = Manifest.load(folder), Bins.load(folder)
    for name in ("bins.json", "manifest.json", "shard-00000.array_record.json"):
        forge(folder / name, lambda values: None)
    assert Manifest.load(folder) == manifest and Manifest.load(folder).digest == manifest.digest
    assert Bins.load(folder).label == bins.label
    np.testing.assert_array_equal(Bins.load(folder).edges, bins.edges)
    assert shards.verify_shards(folder, full=True)
