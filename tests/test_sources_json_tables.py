"""Tables of captions as other programs write them in JSON, packed ones, and names of images."""

import gzip
import json

import pytest

from miro_jax.data.sources import tables
from miro_jax.data.sources.tables import open_table
from tests.sources import jpeg, problems, read

LINES = ['{"file_name": "0.jpg", "text": "a"}', '{"file_name": "1.jpg", "text": "b"}']
PACKED = {
    "m.csv.gz": "file_name,text\n0.jpg,a\n1.jpg,b\n",
    "M.TSV.GZ": "file_name\ttext\r\n0.jpg\ta\r\n1.jpg\tb\r\n",
    "m.jsonl.gz": "\n".join(LINES),
    "m.json.gz": f"[{LINES[0]}, {LINES[1]}]",
}
OTHERS = {
    "m.jsonlines": "\n".join(LINES),
    "m.LDJSON": "\n".join(LINES),
    "kohya.json": '{"0": {"caption": "a", "tags": "x, y"}, "1.jpg": {"tags": "b"}}',
    "kohya2.json": '{"0.jpg": {"caption": "a", "size": [64, 64]}, "1": {"caption": "b"}}',
    "names.json": '{"0": "a", "1": ["b", "c"]}',
    "two columns.jsonl": '{"key": "0", "caption": "a", "text": "x"}\n{"key": "1", "text": "b"}',
    "capitals.jsonl": '{"key": "0", "caption": "a"}\n{"key": "1", "Caption": "b"}',
    "two columns.csv": "path,caption,title\n0.jpg,a,x\n1.jpg,,b\n",
    "addresses.csv": "path,caption\nfile://FOLDER/0.jpg,a\nFOLDER/1.jpg,b\n",
    "whole.json": '{"FOLDER/0": {"caption": "a"}, "FOLDER/1.jpg": {"caption": "b"}}',
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f").mkdir()
    for name in "01":
        (tmp_path / "f" / f"{name}.jpg").write_bytes(jpeg(1))
    return tmp_path / "f"


@pytest.mark.parametrize("name", [*PACKED, *OTHERS])
def test_every_table_gives_the_same_captions(folder, name):
    text = (PACKED | OTHERS)[name].replace("FOLDER", str(folder))
    data = gzip.compress(text.encode()) if name in PACKED else text.encode()
    (folder.parent / name).write_bytes(data)
    samples = read(f"folder:{folder}?captions={folder.parent}/{name}")
    assert [sample.caption for sample in samples] == ["a", "b"]


def test_a_json_file_may_be_one_long_line_and_in_any_unicode(folder, monkeypatch):
    monkeypatch.setattr(tables, "_LONGEST_LINE", 16)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (folder.parent / "m.json").write_text(f"[{LINES[0]}, {LINES[1]}]", encoding)
        samples = read(f"folder:{folder}?captions={folder.parent}/m.json")
        assert [sample.caption for sample in samples] == ["a", "b"]


def test_an_image_without_a_caption_spoils_no_table(folder):
    for text in ('{"0.jpg": null, "1.jpg": "b"}', '{"0.jpg": "", "1.jpg": "b"}',
                 '{"0.jpg": [], "1.jpg": ["b", "c"]}',
                 '{"0.jpg": {}, "1.jpg": {"caption": "b"}}'):  # fmt: skip
        (folder.parent / "m.json").write_text(text)
        samples = read(f"folder:{folder}?captions={folder.parent}/m.json")
        assert samples[1].caption == "b" and problems(samples) == {"0.jpg": "missing caption"}
    (folder.parent / "m.json").write_text(LINES[0])  # one row, which needs no list
    assert [(r.path, r.caption) for r in open_table(folder.parent / "m.json").rows()] == [
        ("0.jpg", "a")
    ]


def coco(folder, ids, annotations):
    """Write COCO's captions of the two images of a folder; return the source."""
    images = [{"id": id_, "file_name": f"{n}.jpg"} for n, id_ in enumerate(ids)]
    text = json.dumps({"images": images, "annotations": annotations})
    (folder.parent / "coco.json").write_text(text)
    return f"folder:{folder}?captions={folder.parent}/coco.json"


@pytest.mark.parametrize(
    ("ids", "of"), [((7, 8), ("7", "8")), (("7", "08"), (7, 8)), ((7, "b"), ("7", "b"))]
)
def test_ids_of_coco_are_the_same_as_numbers_and_as_texts(folder, ids, of):
    annotations = [{"image_id": id_, "caption": text} for id_, text in zip(of, "ab", strict=True)]
    assert [sample.caption for sample in read(coco(folder, ids, annotations))] == ["a", "b"]


def test_an_annotation_without_words_hides_none_of_those_behind_it(folder):
    first = [{"image_id": 1, "bbox": [0, 0, 1, 1]}, {"image_id": 2, "caption": " "}]
    said = [{"image_id": id_, "caption": text} for id_, text in ((1, "a"), (2, "b"), (2, "c"))]
    samples = read(coco(folder, (1, 2), first + said))
    assert [sample.caption for sample in samples] == ["a", "b"]


def test_annotations_of_other_images_or_of_none_are_refused(folder):
    with pytest.raises(ValueError, match="must be the id of an image; none is, .* 9"):
        read(coco(folder, (1, 2), [{"image_id": 9, "caption": "a"}]))
    with pytest.raises(ValueError, match="must have a column of captions"):
        read(coco(folder, (1, 2), [{"image_id": 1, "bbox": [0, 0, 1, 1]}]))
    with pytest.raises(ValueError, match="two have the same"):
        read(coco(folder, (1, "1"), [{"image_id": 1, "caption": "a"}]))


def test_a_column_that_is_requested_counts_alone(tmp_path):
    rows = [{"path": "0.jpg", "caption": "a", "text": "x"}, {"path": "1.jpg", "text": "y"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    requested = open_table(tmp_path / "m.jsonl", caption_column="caption")
    assert [row.caption for row in requested.rows()] == ["a", None]
    assert [row.caption for row in open_table(tmp_path / "m.jsonl").rows()] == ["a", "y"]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv.gz", b"path,caption\n0.jpg,a\n", "no gzip or cut short"),
        ("b.csv.gz", gzip.compress(b"path,caption\n0.jpg,a\n")[:-9], "no gzip or cut short"),
        ("c.jsonl.gz", gzip.compress(b"\0" * 5000), "line 1: must have less than 4,096 bytes"),
        ("d.json.gz", gzip.compress(b"[" + b" " * 5000 + b"]"), "at most 4,096 bytes"),
        ("e.parquet.gz", gzip.compress(b"PAR1"), "compressed with gzip, which is not read"),
        ("f.csv", "path,caption\n0.jpg,a\n".encode("utf-16"), "line 1: it is UTF-16; text must be"),
        ("h.json", b'{"0.jpg": "a", "0.jpg": "b"}', "a key stands twice"),
        ("i.json", b'{"seed": 0}', "captions: [^(]*i.json: it must be a list or an object"),
        ("g.csv", b"path,words\n0.jpg,a\n", "one of caption, text, .*title; it has none"),
    ],
    ids=[
        "a.csv.gz",
        "b.csv.gz",
        "c.jsonl.gz",
        "d.json.gz",
        "e.parquet.gz",
        "f.csv",
        "h.json",
        "i.json",
        "g.csv",
    ],
)
def test_a_table_that_cannot_be_read_to_its_end_is_named(folder, monkeypatch, name, data, text):
    monkeypatch.setattr(tables, "_LONGEST_LINE", 4096)
    monkeypatch.setattr(tables, "MOST_BYTES", 4096)
    (folder.parent / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}.*{text}"):
        read(f"folder:{folder}?captions={folder.parent}/{name}")
