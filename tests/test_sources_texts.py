"""Captions and their synthetic forms: from files beside the picture, and from tables."""

import json

import pytest

from miro_jax.data.sources import causes, open_source, texts
from miro_jax.data.sources.captions import TextIndex, normal, stem
from miro_jax.data.sources.reading import readable
from tests.sources import jpeg, problems, read, triple, write_tar

LONG, SHORT, OTHER = "synthetic_caption", "short_synthetic_caption", "synthetic_caption_short"


@pytest.mark.parametrize(
    ("meta", "want"),
    [
        ({}, {}),
        ({"caption": "j"}, {}),
        ({LONG: "l"}, {"long": "l", "short": "own"}),
        ({LONG: "l", "caption": "j"}, {"long": "l", "short": "j"}),
        ({LONG: "l", SHORT: "s", "caption": "j"}, {"long": "l", "short": "s"}),
        ({LONG: "l", OTHER: "s"}, {"long": "l", "short": "s"}),
        ({SHORT: "s"}, {"long": "own", "short": "s"}),
        ({LONG: 7, SHORT: "s"}, {"long": "own", "short": "s"}),
        ({LONG: "l", SHORT: None, "caption": 3}, {"long": "l", "short": "own"}),
        ({LONG: "", SHORT: " "}, {}),
        ({LONG: "<PERSON>", SHORT: "s"}, {"long": "own", "short": "s"}),
    ],
)
def test_synthetic_forms_of_the_json_fall_back_as_the_authors_script_does(meta, want):
    assert texts.interpret(b"own", json.dumps(meta).encode()).synthetic == want


def test_the_caption_is_the_text_file_and_else_that_of_the_json():
    meta = b'{"caption": "json"}'
    assert texts.interpret(b"text", meta).caption == "text"
    assert texts.interpret(None, meta).caption == "json"
    assert texts.interpret(None, b"{}").caption is None
    assert texts.interpret(b"\xef\xbb\xbfmarked", None).caption == "marked"


@pytest.mark.parametrize("text", ['["a", "b"]', "['a' 'b']"])
def test_of_a_text_file_that_holds_a_list_the_first_text_counts_also_before_a_line_break(text):
    for data in (text, text + "\n", text + "\r\n", "\ufeff" + text):
        assert texts.interpret(data.encode(), None).caption == "a"


@pytest.mark.parametrize(
    ("caption", "cause"),
    [
        ("", "missing caption"),
        (" \n\t", "missing caption"),
        ("<PERSON>", "missing caption"),
        (" <PERSON><PERSON> ", "missing caption"),
        ("x" * (texts.MAX_CAPTION_CHARACTERS + 1), "caption too long"),
        ("a\0b\0", "unreadable caption"),
        ("half \ud83d of a smiley", "unreadable caption"),
        ("whole \U0001f600 smiley", ""),
        ("x" * texts.MAX_CAPTION_CHARACTERS, ""),
        ("<PERSON> in snow", ""),
        ("\u200b\ufeff\u2060\u00ad\ufe0f", "missing caption"),
        ("\x01\x02 <PERSON>", "missing caption"),
        ("\u200f\u05d0", ""),
        ("?", ""),
        ("7", ""),
    ],
)
def test_captions_that_are_none_have_a_cause(caption, cause):
    assert texts.check(caption)[0] == cause


def test_synthetic_captions_are_checked_as_well(tmp_path):
    path = write_tar(tmp_path / "a.tar", triple("k", 1, synthetic_caption="a\0b"))
    assert problems(read(f"tar:{path}")) == {"a.tar/k": "unreadable caption"}


def test_the_placeholder_is_deleted_as_it_stands_from_all_texts(tmp_path):
    meta = {LONG: "tall <PERSON> there", SHORT: "<PERSON>!"}
    path = write_tar(tmp_path / "a.tar", triple("k", 1, "a <PERSON> in snow", **meta))
    (sample,) = read(f"tar:{path}")
    assert sample.caption == "a  in snow"
    assert sample.synthetic == {"long": "tall  there", "short": "!"}


@pytest.mark.parametrize(
    ("txt", "meta", "cause"),
    [
        (b"caf\xe9", b"{}", "unreadable caption"),
        ("utf-16".encode("utf-16"), None, "unreadable caption"),
        (b"x" * (texts.MAX_TEXT_BYTES + 1), None, "caption too long"),
        (b"x", b"", "unreadable json"),
        (b"x", b"null", "unreadable json"),
        (b"x", b'{"a": ' + b"9" * 5000 + b"}", "unreadable json"),
        (b"x", b'{"a": "' + b"x" * texts.MAX_JSON_BYTES + b'"}', "unreadable json"),
        (b"x", b'{"a": NaN}', ""),
    ],
)
def test_unreadable_files_have_a_cause(txt, meta, cause):
    found = texts.interpret(txt, meta)
    assert found.problem == cause and bool(found.detail) == bool(cause)


def synthetic_tsv(folder, *lines):
    path = folder / "synthetic.tsv"
    path.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
    return path


def three_samples(tmp_path):
    members = [m for i in range(4) for m in triple(f"d/k{i}", i, f"own {i}", **{LONG: "json"})]
    return write_tar(tmp_path / "a.tar", members)


def test_a_table_of_synthetic_captions_stands_above_the_json(tmp_path):
    table = synthetic_tsv(
        tmp_path,
        ("k0.jpg", "short <PERSON>0", "long 0"),
        ("/else/where/d/k1.png", "", 'long "1"'),
        ("k2", "short 2", "between", "  "),
    )
    samples = read(f"tar:{three_samples(tmp_path)}?synthetic={table}")
    assert [s.synthetic for s in samples] == [
        {"long": "long 0", "short": "short 0"},
        {"long": 'long "1"', "short": "own 1"},
        {"long": "own 2", "short": "short 2"},
        {},
    ]
    assert problems(samples) == {}


@pytest.mark.parametrize(
    ("row", "is_for"),
    [
        ("cats/1.jpg", ["1", "cats/1"]),
        ("train/cats/1.jpg", ["1", "cats/1"]),
        ("./cats//1.webp", ["1", "cats/1"]),
        ("s/1.jpg", ["1"]),
        ("1.jpg", ["1", "cats/1", "dogs/1"]),
        ("x/1.jpg", ["1"]),
        ("11.jpg", []),
        ("cats.jpg", []),
    ],
)
def test_a_row_is_for_the_pictures_whose_path_ends_like_it(tmp_path, row, is_for):
    members = [m for key in ("1", "cats/1", "dogs/1") for m in triple(key, 1)]
    tar = write_tar(tmp_path / "a.tar", members)
    samples = read(f"tar:{tar}?synthetic={synthetic_tsv(tmp_path, (row, 's', 'l'))}")
    assert [s.key.partition("/")[2] for s in samples if s.synthetic] == is_for


def test_of_several_rows_the_longest_is_for_a_picture(tmp_path):
    members = [m for key in ("1", "cats/1", "dogs/1") for m in triple(key, 1)]
    tar = write_tar(tmp_path / "a.tar", members)
    table = synthetic_tsv(tmp_path, ("1.jpg", "s", "any"), ("cats/1.jpg", "s", "cat"))
    samples = read(f"tar:{tar}?synthetic={table}")
    assert [s.synthetic["long"] for s in samples] == ["any", "cat", "any"]
    assert problems(samples) == {}


def test_a_picture_with_two_texts_is_named_and_not_used(tmp_path):
    table = synthetic_tsv(
        tmp_path, ("d/k0.jpg", "s", "l"), ("k1.jpg", "s", "l"), ("d/k0.png", "s", "other"),
        ("k1.png", "s", "l"),
    )  # fmt: skip
    samples = read(f"tar:{three_samples(tmp_path)}?synthetic={table}")
    assert problems(samples) == {"a.tar/d/k0": "ambiguous caption"}
    assert samples[0].detail == f"lines 1 and 3 of {table}"
    assert samples[1].synthetic == {"long": "l", "short": "s"}


def test_a_caption_of_a_table_stands_in_for_the_form_that_is_missing(tmp_path):
    both = json.dumps({LONG: "L", "caption": "old too"}).encode()
    members = [("k0.jpg", jpeg(0)), ("k0.txt", b"old"), ("k0.json", both)]
    members += [m for m in triple("k1", 1, **{LONG: "L"}) if not m[0].endswith("txt")]
    tar = write_tar(tmp_path / "a.tar", members)
    (tmp_path / "c.csv").write_text("path,caption\nk0,new 0\nk1,new 1\n")
    samples = read(f"tar:{tar}?captions={tmp_path}/c.csv")
    assert [(s.caption, s.synthetic) for s in samples] == [
        (f"new {i}", {"long": "L", "short": f"new {i}"}) for i in range(2)
    ]


def test_a_cell_of_placeholders_is_an_empty_one(tmp_path):
    table = synthetic_tsv(tmp_path, ("k0", "<PERSON>", "long"), ("k1", "short", " <PERSON> "))
    samples = read(f"tar:{three_samples(tmp_path)}?synthetic={table}")
    assert [s.synthetic for s in samples[:2]] == [
        {"long": "long", "short": "own 0"},
        {"long": "own 1", "short": "short"},
    ]


def test_an_empty_table_of_synthetic_captions_is_refused(tmp_path):
    (tmp_path / "s.tsv").write_text("\n")
    with pytest.raises(ValueError, match="at least one synthetic caption; it is empty"):
        open_source(f"tar:{three_samples(tmp_path)}?synthetic={tmp_path}/s.tsv")


def test_a_quote_that_swallows_a_line_is_noticed(tmp_path):
    (tmp_path / "s.tsv").write_text('k0\t"short\nk1\ts\t"\tlong\n')
    with pytest.raises(ValueError, match="has swallowed the line before"):
        open_source(f"tar:{three_samples(tmp_path)}?synthetic={tmp_path}/s.tsv")


@pytest.mark.parametrize("line", [("k0.jpg",), ("", "s", "l"), ('"k0', "s"), ('k0\t"a"b',)])
def test_a_damaged_table_of_synthetic_captions_is_refused_with_the_line(tmp_path, line):
    table = synthetic_tsv(tmp_path, ("k1.jpg", "s", "l"), line)
    with pytest.raises(ValueError, match=r"synthetic.tsv, line [123]: .*Mend"):
        open_source(f"tar:{three_samples(tmp_path)}?synthetic={table}")


def test_a_table_that_is_not_there_is_named(tmp_path):
    tar = three_samples(tmp_path)
    for option in ("captions", "synthetic"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_source(f"tar:{tar}?{option}=/nowhere.csv")


def test_a_table_of_captions_stands_above_the_text_files(tmp_path):
    table = tmp_path / "c.csv"
    table.write_text('key,caption\nd/k0,"new, 0"\na.tar/d/k1,new 1\nk2,too short a name\n')
    samples = read(f"tar:{three_samples(tmp_path)}?captions={table}")
    assert [s.caption for s in samples] == ["new, 0", "new 1", None, None]
    assert samples[2].problem == "missing caption"


def test_a_row_for_the_key_of_one_shard_stands_above_one_for_that_key_in_any(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", triple("k0", 1))
    (tmp_path / "c.csv").write_text("key,caption\nk0,any\nb.tar/k0,own\n")
    samples = read(f"tar:{tmp_path}/*.tar?captions={tmp_path}/c.csv")
    assert [s.caption for s in samples] == ["any", "own"]


def test_facts_of_a_source_change_with_its_tables(tmp_path):
    tar = three_samples(tmp_path)
    found = []
    for text in ("one", "two"):
        table = synthetic_tsv(tmp_path, ("k0", text))
        found.append(open_source(f"tar:{tar}?synthetic={table}").facts)
    assert found[0] != found[1] and found[0]["kind"] == "tar"
    assert str(tmp_path) not in json.dumps(found)  # data may be moved


def test_an_index_finds_the_first_of_several_names_and_keeps_the_first_clash():
    index = TextIndex(
        "t", [("a/b.jpg", ("1",), 1), ("./c", ("2",), 2), ("c", ("3",), 3), ("c", ("4",), 4)]
    )
    assert index.find(["x", "a//b.jpg", "c"]).texts == ("1",)
    found = index.find(["c"])
    assert (found.texts, found.clash) == (("2",), "lines 2 and 3 of t")
    assert index.find(["x"]) is None and index.first_clash() == ("c", 2, 3)


def test_names_have_one_form():
    assert normal("./a//b.jpg") == normal("a/b.jpg") == normal("a\\b.jpg")
    assert normal(".\\c\\..\\a\\b.jpg") == "a/b.jpg"
    assert normal("u\u0308") == normal("\u00fc")
    assert readable("caf\udce9") == r"caf\xe9" and readable("\ud83d").isascii()
    assert stem("a/b.c.jpg") == "b.c" and stem("a") == "a"


def test_causes_are_a_closed_list(tmp_path):
    assert all(causes.CAUSES.values()) and causes.OF_A_PIECE <= set(causes.CAUSES)
    with pytest.raises(ValueError, match="duplicate key.*bad luck"):
        causes.check("bad luck")


def test_pictures_are_as_they_were_written(tmp_path):
    (sample, *_) = read(f"tar:{three_samples(tmp_path)}")
    assert sample.read() == jpeg(0)


def test_a_value_named_caption_is_no_short_form_where_another_one_was_requested():
    """Of a row of a table, or an example of tensorflow-datasets, alike."""
    columns = {"Caption ": "alt", LONG: "long"}
    found = texts.interpret("own", None, columns)
    assert found.synthetic == {"long": "long", "short": "own"}
    meta = {"caption": "short", LONG: "long"}  # that of the JSON is one
    assert texts.interpret("own", json.dumps(meta)).synthetic == {"long": "long", "short": "short"}
