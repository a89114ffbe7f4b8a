"""One rule for captions and prompts in every container; files that are something else are named."""

import json
import time

import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources import images, open_source
from miro_jax.data.sources.tables import open_table
from miro_jax.data.sources.texts import MAX_CAPTION_CHARACTERS, first_text
from miro_jax.sample.request import read_prompts
from tests.sources import jpeg, problems, read, write_tar

CAPTIONS = [  # what stands in the place of the caption -> the caption
    ("a", "a"),
    (["a", "b"], "a"),
    ([["a"], ["b"]], "a"),
    ([{"caption": "a", "id": 1}, {"caption": "b"}], "a"),
    ([{"raw": "a"}], "a"),
    ({"text": "a"}, "a"),
    ({"Caption": "a"}, "a"),
    ({"sentences": [{"raw": "a"}]}, "a"),
    ('["a", "b"]', "a"),
    ('[{"caption": "a"}, {"caption": "b"}]', "a"),
    ('[{"x": "a"}]', '[{"x": "a"}]'),
    ("['a', 'b']", "a"),
    ("['a' 'b'\n \"c\"]", "a"),
    ("[\"it's\", 'b']", "it's"),
    (r"['it\'s\na']", "it's\na"),
    ("['a] b", "['a] b"),
    ("\ufeffa", "a"),
    ("a\r\n", "a"),
    ("  a", "  a"),
    ("[a] b", "[a] b"),
    ("[1, 2]", "[1, 2]"),
    ("[", "["),
    ([], None),
    ([None, "b"], None),
    (None, None),
]


@pytest.mark.parametrize(("value", "caption"), CAPTIONS)
def test_a_caption_is_the_same_in_every_container(tmp_path, value, caption):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "0.jpg").write_bytes(jpeg(1))
    beside = {"0.json": json.dumps({"caption": value}).encode()}
    if isinstance(value, str):
        beside["0.txt"] = value.encode()
    found = {}
    if caption and not isinstance(value, dict):  # the JSON itself is the caption, or a list of them
        beside["0.JSON"] = json.dumps(value).encode()
    for name, content in beside.items():
        tar = write_tar(tmp_path / "a.tar", [("0.jpg", jpeg(1)), (name, content)])
        (found[f"tar, {name}"],) = read(f"tar:{tar}")
        (tmp_path / "f" / name).write_bytes(content)
        (found[f"folder, {name}"],) = read(f"folder:{tmp_path}/f")
        (tmp_path / "f" / name).unlink()
    line = json.dumps({"file_name": "0.jpg", "text": value})
    (tmp_path / "c.jsonl").write_text(line + "\n")
    (tmp_path / "d.NDJSON").write_text(line)
    (tmp_path / "e.json").write_text(f"[{line}]")
    parquet.write_table(
        pyarrow.table({"file": ["0.jpg"], "text": pyarrow.array([value])}), tmp_path / "g.parquet"
    )
    for name in ("c.jsonl", "d.NDJSON", "e.json", "g.parquet"):
        (found[name],) = read(f"folder:{tmp_path}/f?captions={tmp_path}/{name}")
        assert [row.caption for row in open_table(tmp_path / name).rows()] == [caption], name
    columns = {"image": [jpeg(1)], "caption": pyarrow.array([value])}
    parquet.write_table(pyarrow.table(columns), tmp_path / "i.parquet")
    (found["table"],) = read(f"table:{tmp_path}/i.parquet") if value else (found["c.jsonl"],)
    assert {name: s.caption for name, s in found.items()} == dict.fromkeys(found, caption)
    want = "" if caption else "missing caption"
    assert {s.problem for s in found.values()} == {want}


@pytest.mark.parametrize("value", ["[]", "[ ]", '[""]', "['']", '["", "b"]'])
def test_a_list_written_as_text_that_begins_with_no_caption_is_none(tmp_path, value):
    for name in ("0.txt", "0.json"):
        content = value if name == "0.txt" else json.dumps({"caption": value})
        members = [("0.jpg", jpeg(1)), (name, content.encode())]
        (sample,) = read(f"tar:{write_tar(tmp_path / 'a.tar', members)}")
        assert sample.problem == "missing caption" and not sample.caption
    (tmp_path / "a.jsonl").write_text(json.dumps({"file": "0", "caption": value, "text": "next"}))
    assert [row.caption for row in open_table(tmp_path / "a.jsonl").rows()] == ["next"]


def test_names_of_fields_are_found_in_capitals_and_no_number_is_a_text(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(1))
    rows = [{"Image": "0.jpg", "TEXT": "a"}, {"Image": "1.jpg", "TEXT": float("nan")}]
    for name, text in (("a.jsonl", "\n".join(map(json.dumps, rows))), ("b.json", json.dumps(rows))):
        (tmp_path / name).write_text(text)
        assert [row.caption for row in open_table(tmp_path / name).rows()] == ["a", None]
    for meta in ({"Caption": "a"}, {"TEXT": "a", "SYNTHETIC_CAPTION": "long"}):
        tar = write_tar(
            tmp_path / "a.tar", [("0.jpg", b"x"), ("0.json", json.dumps(meta).encode())]
        )
        (sample,) = read(f"tar:{tar}")
        assert sample.caption == "a" and ("long" in sample.synthetic) == ("TEXT" in meta)


def test_json_lines_under_the_name_of_json_are_lines(tmp_path):
    rows = [{"file_name": "0.jpg", "text": "a"}, {"file_name": "1.jpg", "text": "b"}]
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, rows)))
    assert [row.caption for row in open_table(tmp_path / "a.json").rows()] == ["a", "b"]
    (tmp_path / "b.json").write_text(json.dumps({"images": rows}) + "\n")  # one object in one line
    assert open_table(tmp_path / "b.json").count == 2


def test_sentences_of_karpathys_splits_are_captions(tmp_path):
    images = [{"filename": "0.jpg", "sentences": [{"raw": "a", "tokens": ["a"]}, {"raw": "b"}]}]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    assert [row.caption for row in open_table(tmp_path / "dataset.json").rows()] == ["a"]


@pytest.mark.parametrize("ending", ["csv", "CSV", "tsv", "Tsv"])
def test_a_text_table_may_have_its_ending_in_any_case_and_lists_in_its_fields(tmp_path, ending):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "0.jpg").write_bytes(jpeg(1))
    separator = "," if ending.lower() == "csv" else "\t"
    text = '"[""a"", ""b""]"'
    content = (
        f"\ufefffile{separator}raw{separator}Caption\r\n0.jpg{separator}x{separator}{text}\r\n"
    )
    (tmp_path / f"c.{ending}").write_bytes(content.encode())
    (sample,) = read(f"folder:{tmp_path}/f?captions={tmp_path}/c.{ending}")
    assert sample.caption == "a"


def test_the_columns_of_json_lines_are_the_keys_of_all_lines(tmp_path):
    for name in "012":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(1))
    lines = [{"id": 3}, {"file_name": "0.jpg"}, {"file_name": "1.jpg", "text": "b"}]
    (tmp_path / "m.JSONL").write_text("\n".join(map(json.dumps, lines)))
    samples = read(f"folder:{tmp_path}?captions={tmp_path}/m.JSONL")
    assert [s.caption for s in samples] == [None, "b", None]
    assert problems(samples) == {"0.jpg": "missing caption", "2.jpg": "missing caption"}


TABLES = {
    "open_clip.csv": "filepath\ttitle\na.png\tx, y\nb.png\tz\n",
    "commas.csv": 'title,filepath\n"x, y",a.png\nz,b.png\n',
    "excel.csv": "\ufeffpath;caption\r\na.png;x, y\r\nb.png;z\r\n",
    "names.json": '{"a.png": "x, y", "b.png": "z"}',
    "lists.json": '{\n"a.png": ["x, y", "other"],\n"b.png": ["z"]}',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_other_programs_write_them(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], "utf-8")
    rows = {row.path: row.caption for row in open_table(tmp_path / name).rows()}
    assert rows == {"a.png": "x, y", "b.png": "z"}


@pytest.mark.parametrize(
    "content",
    [
        '{"a.png": 3}',
        '{"a.png": ""}',
        '{"a.png": []}',
        '{"a.png": ["x", 3]}',
        "{}",
        '{"path": ["a"], "caption": ["x"]}',
        '{"data": [{"path": "a.png", "caption": "x"}]}',
    ],
)
def test_an_object_that_names_no_captions_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a.json"):
        open_table(tmp_path / "a.json")


def test_captions_of_coco_are_joined_by_their_ids(tmp_path):
    for name in "01":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(1))
    content = {
        "images": [{"id": 7, "file_name": "0.jpg"}, {"id": 9, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 9, "id": 1, "caption": "b"}, {"image_id": 7, "caption": "a"},
                        {"image_id": 9, "id": 3, "caption": "other"}],
    }  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps(content))
    assert [s.caption for s in read(f"folder:{tmp_path}?captions={tmp_path}/captions.json")] == [
        "a",
        "b",
    ]
    content["images"][1]["id"] = 7  # as in two files put together: whose caption is it
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="captions.json must be .*COCO.* an id of its own"):
        open_table(tmp_path / "captions.json")
    content["images"][1]["id"] = 9
    del content["annotations"][0]["image_id"]
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="captions.json must be .*COCO.*image_id"):
        open_table(tmp_path / "captions.json")


@pytest.mark.parametrize(
    ("caption", "cause"),
    [("a\0b", "unreadable caption"), ("x" * (MAX_CAPTION_CHARACTERS + 1), "caption too long"),
     (" \r\n", "missing caption"), ("\ud83d", "unreadable caption")],
)  # fmt: skip
def test_a_caption_that_is_none_is_the_same_cause_in_every_container(tmp_path, caption, cause):
    line = json.dumps({"file": "0.jpg", "caption": caption})
    (tmp_path / "0.jpg").write_bytes(jpeg(1))
    (tmp_path / "c.jsonl").write_text(line)
    (tmp_path / "t.jsonl").write_text(line)
    tar = write_tar(tmp_path / "a.tar", [("0.jpg", jpeg(1)), ("0.json", line.encode())])
    for spec in (f"tar:{tar}", f"folder:{tmp_path}?captions={tmp_path}/c.jsonl"):
        assert [s.problem for s in read(spec)] == [cause]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("p.txt", b'["a fox",\n"a cat"]', "JSON list.*.json"), ("p", b'["a fox"]', "JSON list"),
     ("p.txt", b'[{"prompt": "a"}]', "JSON list"), ("p.txt", b"\x1f\x8b\x08\xff", "gzip")],
)  # fmt: skip
def test_prompts_under_the_wrong_name_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name)


def test_prompts_in_brackets_are_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("[a fox]\n[1, 2]\n")
    assert [p.text for p in read_prompts(tmp_path / "p.txt")] == ["[a fox]", "[1, 2]"]


def test_long_lists_are_parted_in_no_time():
    begin = time.thread_time()
    for text in ("[" + "'a' " * 9999 + "x]", "[" + "'" * 9999 + "]", "['" + "\\" * 9999 + "]"):
        assert first_text(text) == text
    assert time.thread_time() - begin < 1


def test_a_sample_without_a_caption_says_what_it_has(tmp_path):
    (sample,) = read(f"tar:{write_tar(tmp_path / 'a.tar', [('0.jpg', jpeg(1)), ('0.cap', b'a')])}")
    assert (sample.problem, sample.detail) == ("missing caption", "it has .jpg, .cap")
    (tmp_path / "0.jpg").write_bytes(jpeg(1))
    table = tmp_path / "metadata.jsonl"
    table.write_text('{"file_name": "0.jpg", "text": null}\n')
    (sample,) = read(f"folder:{tmp_path}")
    assert (sample.problem, sample.detail) == ("missing caption", f"give {table} as ?captions=FILE")
    (sample,) = read(f"folder:{tmp_path}?captions={table}")
    assert (sample.problem, sample.detail) == ("missing caption", "")


def test_a_deep_nest_is_none_and_takes_no_time():
    assert first_text("[" * 100_000 + "]" * 100_000) == "[" * 100_000 + "]" * 100_000


PROMPTS = {
    "p.txt": "a fox\n\n  a cat \r\n",
    "prompts": "\ufeffa fox\na cat",
    "anime.json": '[\n"a fox",\n"a cat"\n]\n',
    "objects.JSON": '[{"prompt": "a fox", "seed": 3}, {"prompt": "a cat"}]',
    "p.jsonl": '{"prompt": "a fox"}\n\n{"prompt": "a cat"}\n',
    "p.JSONL": '"a fox"\n{"prompt": "a cat"}\n',
    "p.jsonlines": '{"prompt": "a fox"}\n{"prompt": "a cat"}\n',
    "lines.json": '{"prompt": "a fox"}\n{"prompt": "a cat"}',
    "old-mac.txt": "a fox\ra cat\r",
    "p.ndjson": '{"prompt": "a fox", "tag": 1}\r\n{"prompt": "a cat"}\r\n',
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_read_from_every_container(tmp_path, name):
    (tmp_path / name).write_bytes(PROMPTS[name].encode())
    assert [prompt.text for prompt in read_prompts(tmp_path / name)] == ["a fox", "a cat"]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def said_of(spec):
    """What is said of a source that is not what it should be."""
    try:
        samples = read(spec)
    except ValueError as error:
        return str(error)
    try:
        return samples[0].detail or samples[0].read() and images.load_rgb(samples[0].read())
    except images.BadImage as error:
        return error.detail


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "c.csv", "c.tsv", "c.jsonl", "c.json",
                                  "s.tsv", "0.jpg", "0.txt", "0.json", "c.parquet"])  # fmt: skip
def test_a_pointer_of_git_lfs_is_named_whatever_should_be_there(tmp_path, name):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(jpeg(1))
    (folder / "0.txt").write_text("own")
    place = folder if name.startswith("0") else tmp_path
    (place / name).write_bytes(LFS)
    spec = {
        "a.tar": f"tar:{tmp_path}/a.tar",
        "a.parquet": f"table:{tmp_path}/a.parquet",
        "s.tsv": f"folder:{folder}?synthetic={tmp_path}/s.tsv",
    }.get(name, f"folder:{folder}" + ("" if place == folder else f"?captions={tmp_path}/{name}"))
    said = said_of(spec)
    assert "Git LFS pointer" in said and "git lfs pull" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x1f\x8b\x08" + bytes(600), "gzip"), (b"PK\x03\x04" + bytes(600), "zip"),
     (b"<!DOCTYPE html><html>", "web page"), (b"<HTML>404", "web page"), (b"BZh9", "bzip2"),
     (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")],
)  # fmt: skip
def test_what_stands_in_the_place_of_a_file_is_named(tmp_path, content, said):
    for name, spec in (("a.tar", "tar:"), ("a.parquet", "table:"), ("0.jpg", "folder:")):
        (tmp_path / name).write_bytes(content.ljust(1024, b"\0"))
        (tmp_path / "0.txt").write_text("own")
        assert said in said_of(spec + str(tmp_path if name == "0.jpg" else tmp_path / name)), name
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        open_source(f"folder:{tmp_path}?captions={tmp_path}/c.jsonl")


def test_a_file_that_ends_in_caption_is_read_where_there_is_no_txt(tmp_path):
    (tmp_path / "f").mkdir()
    files = {"0.jpg": jpeg(1), "0.caption": b"a", "1.caption": b"x", "1.jpg": jpeg(1)}
    files |= {"1.txt": b"b", "2.CAPTION": b"c", "2.jpg": jpeg(1), "2.json": b"{}"}
    for name, content in files.items():
        (tmp_path / "f" / name).write_bytes(content)
    tar = write_tar(tmp_path / "a.tar", files.items())
    for spec in (f"folder:{tmp_path}/f", f"tar:{tar}"):
        assert [(s.caption, s.problem) for s in read(spec)] == [("a", ""), ("b", ""), ("c", "")]
