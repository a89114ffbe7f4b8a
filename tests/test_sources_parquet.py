"""Parquet sources: pictures inside or beside, as Hugging Face datasets are stored."""

import os

import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources import images, open_source
from miro_jax.data.sources.images import BadImage
from tests.sources import jpeg, problems, read, shade_of

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def image(shade, path=None):
    return {"bytes": jpeg(shade), "path": path}


def write(path, rows=None, schema=None, group=4, **columns):
    """A table of `rows` pictures, of which each has its number for a shade; or of columns."""
    if rows is not None:
        columns = {
            "image": pyarrow.array([image(i, f"d/{i:03d}.jpg") for i in range(rows)], IMAGE),
            "caption": [f"caption {i}" for i in range(rows)],
            "width": list(range(rows)),
            **columns,
        }
    table = pyarrow.table(columns, schema=schema)
    parquet.write_table(
        table, path, row_group_size=group, write_page_checksum=True, compression="none"
    )
    return path


def test_rows_come_in_order_in_pieces_of_whole_row_groups(tmp_path):
    write(tmp_path / "b.parquet", 3)
    write(tmp_path / "a.parquet", 11)
    pieces = open_source(f"table:{tmp_path}/*.parquet?per_piece=9").pieces
    assert [(p.number, p.id, p.count) for p in pieces] == [
        (0, "a.parquet#00000", 8),
        (1, "a.parquet#00002", 3),
        (2, "b.parquet#00000", 3),
    ]
    assert all(piece.num_bytes > 0 for piece in pieces)
    samples = [sample for piece in pieces for sample in piece.samples()]
    assert [shade_of(s) for s in samples] == [*range(11), *range(3)]
    assert samples[9].key == "a.parquet/00000009" and samples[9].caption == "caption 9"
    assert samples[9].meta == {"width": 9} and problems(samples) == {}
    assert [s.key for s in samples[11:]] == [f"b.parquet/{i:08d}" for i in range(3)]


def test_keys_do_not_depend_on_how_rows_are_cut(tmp_path):
    write(tmp_path / "a.parquet", 11)
    found = [
        [s.key for s in read(f"table:{tmp_path}/a.parquet?per_piece={n}")] for n in (1, 4, 1000)
    ]
    assert found[0] == found[1] == found[2]


def test_fingerprints_differ_from_piece_to_piece_and_with_the_file(tmp_path):
    def prints():
        return [p.fingerprint() for p in open_source(f"table:{path}?per_piece=4").pieces]

    path = write(tmp_path / "a.parquet", 8)
    first = prints()
    assert prints() == first and first[0] != first[1]
    write(path, 8, width=[0] * 8)
    assert not set(prints()) & set(first)


def test_a_column_may_hold_bytes_or_paths(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(jpeg(i))
    captions = ["a", "b", "c"]
    write(tmp_path / "in" / "a.parquet", jpg=[jpeg(i) for i in range(3)], text=captions)
    names = ["0.jpg", str(tmp_path / "in" / "1.jpg"), "nowhere.jpg"]
    write(tmp_path / "in" / "b.parquet", file_name=names, text=captions)
    links = pyarrow.array([{"bytes": None, "path": name} for name in names], IMAGE)
    write(tmp_path / "in" / "c.parquet", picture_of_it=links, text=captions)
    write(tmp_path / "in" / "d.parquet", odd=[jpeg(i) for i in range(3)], words=captions)
    specs = ("a.parquet", "b.parquet", "c.parquet", "d.parquet?image=odd&caption=words")
    for spec in specs:
        samples = read(f"table:{tmp_path}/in/{spec}")
        assert [s.caption for s in samples] == captions and problems(samples) == {}
        assert [shade_of(s) for s in samples[:2]] == [0, 1]
        if spec[0] in "bc":
            with pytest.raises(BadImage, match="missing image"):
                samples[2].read()


def test_synthetic_captions_are_columns_or_a_table(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        2,
        synthetic_caption=["l0", None],
        short_synthetic_caption=["s0", ""],
    )
    assert [s.synthetic for s in read(f"table:{path}")] == [{"long": "l0", "short": "s0"}, {}]
    (tmp_path / "s.tsv").write_text("001.jpg\tshort\tlong\n")
    found = [s.synthetic for s in read(f"table:{path}?synthetic={tmp_path}/s.tsv")]
    assert found == [{}, {"long": "long", "short": "short"}]


TEXTS = ["one", "two", "two"]
KINDS = {
    "string": pyarrow.array(TEXTS),
    "large_string": pyarrow.array(TEXTS, pyarrow.large_string()),
    "string_view": pyarrow.array(TEXTS, pyarrow.string_view()),
    "dictionary": pyarrow.array(TEXTS).dictionary_encode(),
    "binary": pyarrow.array([text.encode() for text in TEXTS]),
    "list": pyarrow.array([[text, "other"] for text in TEXTS]),
    "large_list": pyarrow.array([[text] for text in TEXTS], pyarrow.large_list(pyarrow.string())),
    "fixed_size_list": pyarrow.array([[t] for t in TEXTS], pyarrow.list_(pyarrow.string(), 1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Synthetic_Caption", "caption"])
def test_text_of_every_type_is_read(tmp_path, kind, name):
    columns = {"image": [jpeg(i) for i in range(3)], "caption": ["a", "b", "c"]} | {
        name: KINDS[kind]
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    samples = read(f"table:{tmp_path}/a.parquet")
    found = [s.caption if name == "caption" else s.synthetic["long"] for s in samples]
    assert found == TEXTS and problems(samples) == {}


@pytest.mark.parametrize("name", ["caption", "synthetic_caption"])
def test_a_column_of_captions_that_holds_no_text_is_named(tmp_path, name):
    columns = {"image": [jpeg(1)], "caption": ["a"]} | {name: [7]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"column '{name}' must hold text.*int64"):
        open_source(f"table:{tmp_path}/a.parquet")


def test_synthetic_captions_are_found_by_numbers_too(tmp_path):
    columns = {"image": [jpeg(1), jpeg(2)], "caption": ["a", "b"], "id": [17, 18]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (tmp_path / "s.tsv").write_text("18\tshort\tlong\n")
    samples = read(f"table:{tmp_path}/a.parquet?synthetic={tmp_path}/s.tsv")
    assert [s.synthetic for s in samples] == [{}, {"long": "long", "short": "short"}]


def test_the_requested_caption_stands_in_for_the_short_form_and_no_other_column(tmp_path):
    columns = {
        "image": [jpeg(1)],
        "caption": ["alt"],
        "text": ["own"],
        "synthetic_caption": ["long"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (sample,) = read(f"table:{tmp_path}/a.parquet?caption=text")
    assert sample.caption == "own" and sample.synthetic == {"long": "long", "short": "own"}


def test_of_several_captions_the_first_is_taken(tmp_path):
    captions = pyarrow.array([["a", "b"], [], None, [None, "x"]], pyarrow.list_(pyarrow.string()))
    path = write(tmp_path / "a.parquet", 4, caption=captions)
    samples = read(f"table:{path}")
    assert [s.caption for s in samples] == ["a", None, None, None]
    assert [s.problem for s in samples] == ["", *["missing caption"] * 3]


def test_bad_rows_have_a_cause(tmp_path):
    text = pyarrow.array([b"good", b"caf\xe9", b"x", b"x", None, b" "], pyarrow.binary())
    images = [
        image(0),
        image(1),
        {"bytes": None, "path": None},
        None,
        image(4),
        {"bytes": jpeg(5), "path": "x"},
    ]
    schema = pyarrow.schema([("image", IMAGE), ("caption", pyarrow.string())])
    columns = {
        "image": pyarrow.array(images, IMAGE),
        "caption": pyarrow.StringArray.from_buffers(6, *text.buffers()[1:], text.buffers()[0]),
    }
    path = write(tmp_path / "a.parquet", schema=schema, **columns)
    assert [s.problem for s in read(f"table:{path}")] == [
        "",
        "unreadable caption",
        "missing image",
        "missing image",
        "missing caption",
        "missing caption",
    ]


def test_empty_and_huge_pictures_have_a_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    column = pyarrow.array(
        [{"bytes": b"", "path": "a"}, {"bytes": bytes(1001), "path": "b"}], IMAGE
    )
    path = write(tmp_path / "a.parquet", image=column, caption=["a", "b"])
    empty, huge = read(f"table:{path}")
    assert empty.problem == "empty file"
    with pytest.raises(BadImage, match="too large"):
        images.load_rgb(huge.read())


def test_a_damaged_row_group_is_reported_and_the_others_are_read(tmp_path):
    path = write(tmp_path / "a.parquet", 20)
    column = parquet.read_metadata(path).row_group(2).column(0)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    samples = read(f"table:{path}?per_piece=4")
    assert problems(samples) == {"a.parquet#00002": "damaged table"}
    (lost,) = [s for s in samples if s.problem]
    assert "rows 8 to 11 are lost" in lost.detail
    assert [shade_of(s) for s in samples if not s.problem] == [*range(8), *range(12, 20)]


def test_a_file_that_is_no_table_is_a_piece_of_its_own(tmp_path):
    write(tmp_path / "a.parquet", 2)
    (tmp_path / "b.parquet").write_bytes(b"<html>not found</html>" * 9)
    (tmp_path / "c.parquet").write_bytes(b"")
    write(tmp_path / "d.parquet", number=[1, 2])
    samples = read(f"table:{tmp_path}/*.parquet")
    assert problems(samples) == dict.fromkeys(
        ["b.parquet", "c.parquet", "d.parquet"], "damaged table"
    )
    assert len(samples) == 5
    with pytest.raises(ValueError, match=r"parquet"):
        open_source(f"table:{tmp_path}/b.parquet")


@pytest.mark.parametrize("option", ["image=nothing", "image=width", "caption=width"])
def test_a_column_that_cannot_serve_is_named(tmp_path, option):
    path = write(tmp_path / "a.parquet", 2)
    with pytest.raises(ValueError, match=option.partition("=")[2]):
        open_source(f"table:{path}?{option}")


def test_random_damage_never_raises(tmp_path):
    path = write(tmp_path / "a.parquet", 24)
    content = path.read_bytes()
    for at in range(0, len(content) - 1, len(content) // 60):
        data = bytearray(content)
        data[at] ^= 0xFF
        path.write_bytes(data)
        try:
            samples = read(f"table:{path}?per_piece=8")
        except ValueError as error:
            assert "must be parquet tables" in str(error)
            continue
        assert all(s.problem or s.image is not None for s in samples)


@pytest.mark.parametrize("column", ["synthetic_caption", "short_synthetic_caption"])
def test_a_synthetic_caption_may_be_asked_for_as_the_caption(tmp_path, column):
    path = write(tmp_path / "a.parquet", 2, **{column: ["first", "second"]})
    found = read(f"table:{path}?caption={column}")
    assert [(s.caption, s.synthetic) for s in found] == [("first", {}), ("second", {})]


def test_a_file_name_need_not_be_utf8(tmp_path):
    write(tmp_path / "a.parquet", 2)
    (tmp_path / "a.parquet").rename(os.fsdecode(os.fsencode(tmp_path) + b"/z\xff.parquet"))
    (piece,) = open_source(f"table:{tmp_path}/*.parquet").pieces
    assert piece.id == r"z\xff.parquet#00000"
    assert [(s.caption, s.problem) for s in piece.samples()] == [
        ("caption 0", ""),
        ("caption 1", ""),
    ]
