"""Tables that users bring: every kind gives the same rows, and a damaged one names its line."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources.tables import open_table

ROWS = [
    ("a.png", "plain"),
    ("b c.png", 'with "quotes", a comma and\ta tab'),
    ("caf\u00e9 \u732b.png", "two\nlines"),
    ("d.png", None),
]


def rows(path, **columns):
    return [(row.path, row.caption) for row in open_table(path, **columns).rows()]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def quoted(text):
    return '"' + (text or "").replace('"', '""') + '"'


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_text_tables_hold_quotes_line_breaks_marks_and_windows_line_ends(
    tmp_path, ending, separator, mark, ends
):
    lines = [f"Path{separator}other{separator}CAPTION"]
    lines += [separator.join([quoted(name), "x", quoted(text)]) for name, text in ROWS]
    table = open_table(write(tmp_path / f"t.{ending}", mark + ends.join([*lines, "", ""])))
    assert (table.path_column, table.caption_column, table.count) == ("Path", "CAPTION", 4)
    assert rows(table.path) == [*ROWS[:3], ("d.png", "")]


def test_jsonl_and_parquet_hold_the_same_rows(tmp_path):
    lines = [json.dumps({"image": name, "text": text, "more": 3}) for name, text in ROWS]
    assert rows(write(tmp_path / "t.jsonl", "\n\n".join(lines))) == ROWS
    names, texts = zip(*ROWS, strict=True)
    table = pyarrow.table({"image": names, "text": texts, "more": range(4)})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet") == ROWS
    dictionary = table.set_column(1, "text", table["text"].dictionary_encode())
    parquet.write_table(dictionary, tmp_path / "d.parquet")
    assert rows(tmp_path / "d.parquet") == ROWS


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "t.csv", "path,short,long,caption\na,b,c,d\n")
    assert rows(path) == [("a", "d")]
    assert rows(path, path_column="short", caption_column="long") == [("b", "c")]
    with pytest.raises(ValueError, match="'path', 'short', 'long', 'caption'; got 'x'"):
        rows(path, caption_column="x")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("t.csv", "path,caption\na,b\nc,d,e\n", "line 3: must have 2 fields; got 3"),
        ("t.csv", "path,caption\na\n", "line 2: must have 2 fields; got 1"),
        ("t.csv", 'path,caption\na,b\nc,"never closed\nd,e\n', "line [34]: unexpected end"),
        ("t.csv", 'path,caption\na,"b"c\n', "line 2"),
        ("t.csv", "picture,caption\na,b\n", "column of paths.*'picture', 'caption'"),
        ("t.csv", "path,caption\n", "at least one row"),
        ("t.csv", "", "column of paths.*none"),
        ("t.jsonl", '{"path": "a"}\n{"path": 3}\n', "line 2: 'path' must hold text; got int"),
        ("t.jsonl", '{"path": "a", "caption": 3}\n', "line 1: 'caption' must hold text; got int"),
        ("t.jsonl", '{"path": "a"}\n{"path"', "line 2 is no valid JSON"),
        ("t.jsonl", '{"path": "a"}\n[1]\n', r"line 2: it must be an object; got \[1\]"),
        ("t.jsonl", '{"path": "a"}\n' + "[" * 100_000, "line 2"),
        ("t.parquet", "PAR1 and no more", "no parquet file"),
        ("t.xlsx", "x", "must end in"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, name, content, text):
    with pytest.raises(ValueError, match=text):
        open_table(write(tmp_path / name, content))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", "path,caption\na,caf\u00e9\n", "latin-1")
    with pytest.raises(ValueError, match="UTF-8"):
        open_table(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_table(tmp_path / "nowhere.csv")


def test_a_text_may_be_long_and_columns_have_one_name_each(tmp_path):
    text = "x" * 200_000
    path = write(tmp_path / "a.csv", f"path,caption\na.png,{text}\n")
    assert rows(path) == [("a.png", text)]
    path = write(tmp_path / "b.csv", "path,caption,caption\na.png,first,second\n")
    with pytest.raises(ValueError, match="b.csv, line 1: must name each column once; got path, ca"):
        open_table(path)


def test_a_table_that_is_missing_is_answered_with_the_one_beside_it(tmp_path):
    near = write(tmp_path / "captions.csv", "path,caption\na,b\n")
    with pytest.raises(FileNotFoundError, match=f"there is none; did you mean {near}\\?"):
        open_table(tmp_path / "captions.tsv")


@pytest.mark.parametrize("image", [b"\x89PNG", {"bytes": b"\x89PNG", "path": "a.png"}])
def test_a_parquet_table_that_holds_the_images_is_refused_with_how_to_read_them(tmp_path, image):
    path = tmp_path / "set.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"image": image, "caption": "a"}]), path)
    with pytest.raises(ValueError, match=f"holds the images themselves.*table:{path}.image=image"):
        open_table(path)
