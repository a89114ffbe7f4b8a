"""Data sets of TensorFlow Datasets: ours against the library's own reading, and damage."""

import json
import random
import shutil
import struct
import sys

import pytest
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from miro_jax.data.sources import examples, open_source
from miro_jax.data.sources.tfds import _shard_name
from tests.builders.tiny_pairs import TinyPairs, jpeg
from tests.sources import problems, read, shade_of

NAME = "tiny_pairs:1.0.0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyPairs(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def own(prepared, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(prepared, tmp_path / "own")


def shard_of(folder):
    return folder / "tiny_pairs" / "1.0.0" / "tiny_pairs-train.array_record-00000-of-00001"


def theirs(folder, split):
    """What the library reads, pictures left as files."""
    builder = tensorflow_datasets.builder_from_directory(folder / "tiny_pairs" / "1.0.0")
    skip = {"image": tensorflow_datasets.decode.SkipDecoding()}
    return list(builder.as_data_source(split=split, decoders=skip))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_samples_are_what_the_library_itself_reads(prepared, split):
    (piece,) = open_source(f"tfds:{NAME}@{prepared}?split={split}").pieces
    samples, want = list(piece.samples()), theirs(prepared, split)
    assert piece.count == len(samples) == len(want) and problems(samples) == {}
    for number, (sample, row) in enumerate(zip(samples, want, strict=True)):
        assert sample.key == f"{piece.id}/{number:08d}"
        assert sample.read() == row["image"] == jpeg(shade_of(sample))
        assert sample.caption == row["captions"]["text"][0].decode()
        assert sample.meta["deep/note"] == row["deep"]["note"].decode()
        assert sample.meta["deep/negative"] == row["deep"]["negative"]
        assert sample.meta["deep/half"] == row["deep"]["half"]
        assert "boxes" not in sample.meta
    assert "tensorflow" not in sys.modules


def test_caption_and_synthetic_captions_may_come_from_elsewhere(prepared, tmp_path):
    samples = read(f"tfds:{NAME}@{prepared}?caption=deep.note")
    assert {s.caption for s in samples} == {f"note {i}" for i in range(20)}
    (tmp_path / "s.tsv").write_text("00007.jpg\tshort\tlong\n")
    samples = read(f"tfds:{NAME}@{prepared}?synthetic={tmp_path}/s.tsv")
    (one,) = [s for s in samples if s.synthetic]
    assert one.synthetic["long"] == "long" and shade_of(one) == 7


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("tiny_pairs@{}", "NAME/CONFIG:VERSION@DIR"),
        (NAME, "NAME/CONFIG:VERSION@DIR"),
        (NAME + "@{}?split=test", "train, validation.*'test'"),
        (NAME + "@{}?image=boxes", "image"),
        (NAME + "@{}?caption=image", "captions/text.*'image'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(prepared, place, text):
    with pytest.raises(ValueError, match=text):
        open_source("tfds:" + place.format(prepared))


def test_other_formats_and_absent_sets_say_how_to_prepare_them(own):
    with pytest.raises(FileNotFoundError, match="tfds build coco"):
        open_source(f"tfds:coco/2014:1.1.0@{own}")
    path = own / "tiny_pairs" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="it is tfrecord.*--file_format=array_record"):
        open_source(f"tfds:{NAME}@{own}")


def edit(folder, name, change):
    """Change a JSON file of a copy; what `change` returns is its new content."""
    path = folder / "tiny_pairs" / "1.0.0" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda info: {k: v for k, v in info.items() if k != "name"}, "name is missing"),
        (lambda info: info | {"splits": "abc"}, 'splits must be a list; got "abc"'),
        (lambda info: info | {"splits": [{}]}, r"splits\[0\].name is missing"),
        (lambda info: info | {"fileFormat": 1}, "fileFormat must be a string"),
        (lambda info: info | {"splits": [{"name": "train", "shardLengths": 3}]}, "shardLengths"),
        (lambda info: info | {"splits": [{"name": "train", "shardLengths": ["x"]}]}, "'x'"),
        (lambda info: info | {"splits": [{"name": "train", "shardLengths": [[]]}]}, "shardLengths"),
    ],
)
def test_a_damaged_description_is_refused_by_name(own, change, text):
    edit(own, "dataset_info.json", change)
    with pytest.raises(ValueError, match=f"dataset_info.json.*{text}"):
        open_source(f"tfds:{NAME}@{own}")


def test_an_unknown_word_of_a_template_is_refused_by_name(own):
    edit(own, "dataset_info.json", with_template("{WHAT}"))
    with pytest.raises(ValueError, match="dataset_info.json.*{WHAT}"):
        open_source(f"tfds:{NAME}@{own}")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../1.0.0/x", "http://localhost/x", "..", "", "a/b"]
)
def test_a_template_that_leaves_the_folder_is_refused(own, name):
    edit(own, "dataset_info.json", with_template(name))
    with pytest.raises(ValueError, match="dataset_info.json: filepathTemplate.*beside it"):
        open_source(f"tfds:{NAME}@{own}")


def with_template(template):
    def change(info):
        return info | {"splits": [s | {"filepathTemplate": template} for s in info["splits"]]}

    return change


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"featuresDict": []}, "featuresDict must be"),
        ({"featuresDict": {"features": {"image": 3}}}, "featuresDict.features.image must be"),
        ({"featuresDict": {"features": {"image": {"sequence": []}}}}, "sequence must be"),
    ],
)
def test_damaged_features_are_refused_by_name(own, features, text):
    edit(own, "features.json", lambda _: features)
    with pytest.raises(ValueError, match=f"features.json.*{text}"):
        open_source(f"tfds:{NAME}@{own}")


def test_a_shard_that_is_not_there_is_named(own):
    shard_of(own).unlink()
    with pytest.raises(FileNotFoundError, match="00000-of-00001"):
        open_source(f"tfds:{NAME}@{own}")


def test_one_damaged_record_costs_one_sample(own):
    path = shard_of(own)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    samples = read(f"tfds:{NAME}@{own}")
    assert list(problems(samples).values()) == ["damaged record"]
    assert len(samples) == 20


@pytest.mark.parametrize("length", [0, 100, 70000])
def test_a_shard_that_was_cut_is_damaged_as_a_whole(own, length):
    with open(shard_of(own), "r+b") as file:
        file.truncate(length)
    (sample,) = read(f"tfds:{NAME}@{own}")
    assert sample.problem == "damaged shard" and sample.key == shard_of(own).name


def test_a_shard_with_fewer_records_than_it_should_have_is_noticed(own):
    path = own / "tiny_pairs" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = ["23"]
    path.write_text(json.dumps(info))
    samples = read(f"tfds:{NAME}@{own}")
    assert [s.problem for s in samples] == [""] * 20 + ["damaged shard"]


def rewrite(path, change):
    reader = ArrayRecordReader(str(path))
    records = [change(i, record) for i, record in enumerate(reader.read_all())]
    reader.close()
    path.unlink()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_records_that_are_no_examples_are_damaged_records(own):
    bad = {1: b"junk", 2: b"", 3: b"\x0a\xff\xff\xff\xff\x0f", 5: b"\x08" + b"\xff" * 30}
    rewrite(shard_of(own), lambda i, record: bad.get(i, record))
    samples = read(f"tfds:{NAME}@{own}")
    want = {1: "damaged record", 2: "missing image", 3: "damaged record", 5: "damaged record"}
    assert {i: s.problem for i, s in enumerate(samples) if s.problem} == want


def test_mutated_examples_are_read_or_refused(prepared):
    (record, *_) = ArrayRecordReader(str(shard_of(prepared))).read([0])
    outcomes = set()
    for seed in range(2000):
        rng = random.Random(seed)
        data = bytearray(record[: rng.randrange(1, 2 * len(record))])
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            outcomes.add(type(examples.decode(bytes(data))))
        except ValueError:
            outcomes.add(ValueError)
    assert outcomes == {dict, ValueError}


def test_numbers_of_an_example_may_be_packed_or_not():
    def feature(kind, content):
        entry = b"\x0a\x01x\x12" + bytes([len(content) + 2, kind << 3 | 2, len(content)]) + content
        return b"\x0a" + bytes([len(entry) + 2]) + b"\x0a" + bytes([len(entry)]) + entry

    minus_one = b"\xff" * 9 + b"\x01"
    assert examples.decode(feature(3, b"\x08\x07\x08" + minus_one)) == {"x": [7, -1]}
    assert examples.decode(feature(3, b"\x0a\x0b\x07" + minus_one)) == {"x": [7, -1]}
    halves = struct.pack("<2f", 0.5, -2)
    assert examples.decode(feature(2, b"\x0a\x08" + halves)) == {"x": [0.5, -2]}
    assert examples.decode(feature(2, b"\x0d" + halves[:4])) == {"x": [0.5]}


def test_names_of_shards_follow_the_template():
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    assert _shard_name(template, "coco", "train", 3, 12) == "coco-train.array_record-00003-of-00012"
    assert _shard_name("{SPLIT}-{SHARD_INDEX}", "coco", "train", 3, 12) == "train-00003"
