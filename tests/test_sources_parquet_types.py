"""Every type of column that data sets store images and captions in; bombs and locked files."""

import base64
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pyarrow.parquet import encryption

from miro_jax.data.sources import images, open_source
from miro_jax.data.sources import parquet as source
from miro_jax.data.sources.tables import open_table
from tests.sources import encode, problems, read

PNG = encode(np.full((32, 32, 3), 7, np.uint8), "PNG")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CELL = {"bytes": PNG, "path": "0.png"}


def write(folder, name="a.parquet", **columns):
    parquet.write_table(pa.table(columns), folder / name)
    return f"table:{folder}/{name}"


def array(*values, kind=None):
    return pa.array(list(values), kind)


COLUMNS = {
    "struct": array(CELL, CELL, kind=IMAGE),
    "struct, path first": array(CELL, CELL, kind=pa.struct([IMAGE.field(1), IMAGE.field(0)])),
    "struct with more fields": pa.array([CELL | {"width": 3}] * 2),
    "struct of bytes alone": pa.array([{"bytes": PNG}] * 2),
    "path null everywhere": pa.array([{"bytes": PNG, "path": None}] * 2),
    "path of bytes": pa.array(
        [{"bytes": PNG, "path": "0.png"}] * 2,
        pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
    ),
    "struct of views": pa.array(
        [CELL] * 2, pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])
    ),
    "binary": array(PNG, PNG),
    "large binary": array(PNG, PNG, kind=pa.large_binary()),
    "binary view": array(PNG, PNG, kind=pa.binary_view()),
    "fixed size": array(PNG, PNG, kind=pa.binary(len(PNG))),
    "dictionary": array(PNG, PNG).dictionary_encode(),
    "list of uint8": array(list(PNG), list(PNG), kind=pa.list_(pa.uint8())),
    "large list of int8": array(
        *[[n - 256 * (n > 127) for n in PNG]] * 2, kind=pa.large_list(pa.int8())
    ),
    "list of structs": array([CELL], [CELL, None], kind=pa.list_(IMAGE)),
    "list that begins with nothing": array([None, CELL], [CELL], kind=pa.list_(IMAGE)),
    "list of bytes": array([PNG], [PNG, b"x"], kind=pa.list_(pa.binary())),
    "base64 with its kind": array(*["data:image/png;base64," + base64.b64encode(PNG).decode()] * 2),
    "short base64 without its kind": array(*[base64.b64encode(PNG).decode()] * 2),
    "base64 in lines": array(*[base64.encodebytes(PNG).decode()] * 2),
    "base64 as bytes": array(*[base64.b64encode(PNG)] * 2),
    "base64 with its kind as bytes": array(
        *[b"data:image/png;base64," + base64.b64encode(PNG)] * 2
    ),
    "struct of a path alone": pa.array([{"path": "x.png"}] * 2),
    "paths": array("x.png", "x.png"),
    "large paths": array("x.png", "x.png", kind=pa.large_string()),
    "paths in view": array("x.png", "x.png", kind=pa.string_view()),
    "paths in a dictionary": array("x.png", "x.png").dictionary_encode(),
    "list of paths": array(["x.png"], ["x.png", "y.png"]),
    "struct with paths alone": array(*[{"bytes": None, "path": "x.png"}] * 2, kind=IMAGE),
    "struct with paths, bytes null": pa.array([{"bytes": None, "path": "x.png"}] * 2),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("column", ["image", "images", "jpg", "photo"])
def test_images_are_read_from_columns_of_every_type(tmp_path, name, column):
    (tmp_path / "x.png").write_bytes(PNG)
    spec = write(tmp_path, **{column: COLUMNS[name]}, caption=["a", "b"])
    samples = read(spec + "?image=photo" * (column == "photo"))
    assert [(s.caption, s.problem) for s in samples] == [("a", ""), ("b", "")]
    assert all(sample.read() == PNG for sample in samples)


def test_long_base64_without_its_kind_is_an_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(noise, "PNG")
    spec = write(
        tmp_path, image=[base64.b64encode(data).decode(), "z" * 5000 + "!"], text=["a", "b"]
    )
    good, bad = read(spec)
    assert good.read() == data and not good.problem
    with pytest.raises(images.BadImage, match="neither a path nor base64"):
        bad.read()


def test_what_cannot_be_an_image_is_named_with_its_type(tmp_path):
    pixels = pa.array([[[[0, 0, 0]]]], pa.list_(pa.list_(pa.list_(pa.uint8()))))
    spec = write(tmp_path, image=pa.array([[[0.5]]]), more=[1.5], caption=["a"])
    with pytest.raises(
        ValueError, match=r"it has image \(list<.*double.*more \(double\).*image=COL"
    ):
        open_source(spec)
    write(tmp_path, image=pixels, caption=["a"])


def test_of_columns_of_captions_the_first_that_holds_text_counts(tmp_path):
    empty = ["  ", "[]", "", None, "\n", '[""]', "c"]
    for kind in (pa.string(), pa.binary()):
        given = pa.array([one and one.encode() for one in empty], pa.binary()).cast(kind)
        spec = write(tmp_path, image=[PNG] * 7, caption=given, text=["x"] * 7)
        assert [s.caption for s in read(spec)] == ["x"] * 6 + ["c"]
    spec = write(tmp_path, image=[PNG], caption=pa.array([b"\xff"]), text=["x"])
    assert problems(read(spec)) == {"a.parquet/00000000": "unreadable caption"}


def test_a_shard_without_a_single_image_or_caption_is_read_beside_others(tmp_path):
    write(tmp_path, "b0.parquet", image=[PNG] * 2, caption=["a", "b"])
    write(tmp_path, "b1.parquet", image=[PNG] * 2, caption=pa.nulls(2))
    write(tmp_path, "b2.parquet", image=pa.nulls(1), caption=["c"])
    write(tmp_path, "b3.parquet", image=[PNG], caption=pa.nulls(1), text=["d"])
    pieces = open_source(f"table:{tmp_path}/b*.parquet").pieces
    assert [piece.has_captions for piece in pieces] == [True, False, True, True]
    samples = [s for piece in pieces for s in piece.samples()]
    assert [s.caption for s in samples] == ["a", "b", None, None, "c", "d"]
    assert [s.problem for s in samples] == [""] * 2 + ["missing caption"] * 2 + [
        "missing image",
        "",
    ]
    free = [s for piece in pieces for s in piece.samples(needs_caption=False)]
    assert [s.problem for s in free] == [""] * 4 + ["missing image", ""]
    for option, want in (("caption=caption", ["a", "b", None, None, "c", None]),):
        assert [s.caption for s in read(f"table:{tmp_path}/b*.parquet?{option}")] == want


CAPTIONS = {
    "text": array("a"),
    "large text": array("a", kind=pa.large_string()),
    "text in view": array("a", kind=pa.string_view()),
    "bytes": array(b"a"),
    "bytes with a mark and a line break": array(b"\xef\xbb\xbfa\r\n"),
    "dictionary": array("a").dictionary_encode(),
    "list": array(["a", "b"]),
    "large list in view": array(["a"], kind=pa.large_list(pa.string_view())),
    "fixed size list": array(["a", "b"], kind=pa.list_(pa.string(), 2)),
    "list of objects": array([{"caption": "a", "id": 3}, {"caption": "b", "id": 4}]),
    "list of raw objects": array([{"raw": "a", "tokens": ["a"]}]),
    "object": array({"text": "a"}),
    "JSON list": array('["a", "b"]'),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_are_read_from_columns_of_every_type(tmp_path, name):
    (sample,) = read(write(tmp_path, image=[PNG], caption=CAPTIONS[name]))
    assert (sample.caption, sample.problem) == ("a", "")


@pytest.mark.parametrize(
    "column",
    [
        [{"caption": "a", "width": 3}],
        [json.dumps({"caption": "a", "width": 3})],
        [json.dumps({"caption": "a", "width": 3}).encode()],
        [{"caption": ["a", "b"], "width": 3}],
        [json.dumps({"captions": [{"text": "a"}], "width": 3})],
    ],
)
def test_the_json_of_a_web_data_set_is_read_as_the_tar_reader_reads_it(tmp_path, column):
    (sample,) = read(write(tmp_path, jpg=[CELL], json=column, __key__=["00"]))
    assert (sample.caption, sample.problem, sample.meta["width"]) == ("a", "", 3)
    forms = {"synthetic_caption": "long", "synthetic_caption_short": "short"}
    spec = write(tmp_path, jpg=[CELL], json=[json.dumps(forms)], txt=["own\n"])
    (sample,) = read(spec)
    assert (sample.caption, sample.synthetic) == ("own", {"long": "long", "short": "short"})


@pytest.mark.parametrize("column", [[["a", "b"]], [[{"caption": "a"}]], ['["a", "b"]'], ['"a"']])
def test_a_json_column_may_hold_the_captions_alone(tmp_path, column):
    (sample,) = read(write(tmp_path, jpg=[CELL], JSON=column))
    assert (sample.caption, sample.problem) == ("a", "")


def test_of_columns_by_ending_and_of_captions_the_first_that_has_a_value_counts(tmp_path):
    spec = write(
        tmp_path,
        jpg=array(CELL, None, kind=IMAGE),
        png=array(None, CELL, kind=IMAGE),
        caption=["a", None],
        text=["x", "b"],
    )
    samples = read(spec)
    assert [(s.caption, s.problem) for s in samples] == [("a", ""), ("b", "")]
    assert [sample.read() for sample in samples] == [PNG, PNG]
    assert [s.problem for s in read(f"{spec}?image=jpg")] == ["", "missing image"]
    assert [s.caption for s in read(f"{spec}?caption=caption")] == ["a", None]


def test_floats_that_are_all_nan_are_captions_that_are_missing(tmp_path):
    spec = write(tmp_path, image=[PNG], caption=[float("nan")])
    (sample,) = read(spec)
    assert sample.problem == "missing caption"
    ((sample,),) = [list(p.samples(needs_caption=False)) for p in open_source(spec).pieces]
    assert sample.problem == "" and sample.caption is None
    with pytest.raises(ValueError, match="column 'caption' must hold text"):
        read(write(tmp_path, image=[PNG] * 2, caption=[float("nan"), 0.5]))


def test_tables_without_a_row_are_refused_and_one_beside_others_is_not(tmp_path):
    empty = {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())}
    spec = write(tmp_path, "a0.parquet", **empty)
    with pytest.raises(ValueError, match=r"a0.parquet must have at least one row; it has none"):
        open_source(spec)
    write(tmp_path, "a1.parquet", image=[PNG], caption=["a"])
    assert [s.caption for s in read(f"table:{tmp_path}/a*.parquet")] == ["a"]


def test_a_json_column_that_is_none_spoils_its_row_alone(tmp_path):
    column = ['{"caption": "a"}', "{", "[1]", None]
    samples = read(write(tmp_path, jpg=[CELL] * 4, json=column))
    assert [s.caption for s in samples] == ["a", None, None, None]
    assert [s.problem for s in samples] == ["", *["unreadable json"] * 2, "missing caption"]
    assert [s.problem for s in read(write(tmp_path, jpg=[CELL], json=[3], caption=["x"]))] == [""]


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(source, "_NEVER_A_BOMB", 1 << 21)


def test_a_bomb_is_refused_before_it_is_unpacked_and_other_groups_are_read(tmp_path, small_limits):
    rows = [PNG, bytes(2_000_000), PNG]
    table = pa.table({"image": rows, "caption": list("abc")})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1, compression="zstd")
    samples = read(f"table:{tmp_path}/a.parquet")
    assert [s.caption for s in samples] == ["a", None, "c"]
    assert [s.key for s in samples if not s.problem] == [f"a.parquet/{i:08d}" for i in (0, 2)]
    assert problems(samples) == {"a.parquet#00000": "damaged table"}
    assert "rows 1 to 1 are lost: column image would be unpacked" in samples[1].detail
    assert "to 2000" in samples[1].detail


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip"])
def test_a_bomb_among_many_rows_is_known_by_how_small_it_is_packed(
    tmp_path, compression, small_limits
):
    rows = [PNG] * 9 + [bytes(3_000_000)]
    table = pa.table({"image": rows, "caption": ["x"] * 10})
    parquet.write_table(table, tmp_path / "a.parquet", compression=compression)
    (lost,) = read(f"table:{tmp_path}/a.parquet")
    assert lost.problem == "damaged table" and "rows 0 to 9 are lost" in lost.detail


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_called_so(tmp_path, plaintext_footer):
    class Keys(encryption.KmsClient):
        def wrap_key(self, key_bytes, master_key_identifier):
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return base64.b64decode(wrapped_key)

    options = encryption.EncryptionConfiguration(
        "k", column_keys={"c": ["image", "path"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), options)
    table = pa.table({"image": [PNG], "path": ["x"], "caption": ["a"]})
    parquet.write_table(table, tmp_path / "a.parquet", encryption_properties=properties)
    said = []
    try:
        said = [s.detail for s in read(f"table:{tmp_path}/a.parquet") if s.problem]
    except ValueError as error:
        said = [str(error)]
    try:
        open_table(tmp_path / "a.parquet")
    except ValueError as error:
        said.append(str(error))
    assert len(said) == 2 and all("encrypted" in text for text in said), said
