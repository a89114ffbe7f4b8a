"""Inputs of the score stage: folders, tables and tar shards, with everything that can be wrong."""

import base64
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from miro_jax.score import summary
from tests.annotating import make_pieces, sample
from tests.scoring import (
    Brightness,
    file_bytes,
    grey,
    make_folder,
    read_failures,
    read_rows,
    score,
    write_csv,
)
from tests.sources import write_tar

pytestmark = pytest.mark.usefixtures("no_flush")


def huge_png():
    """A picture of 60000 x 60000 pixels by its header; there is hardly anything behind it."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def hostile_files():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    jpeg = file_bytes(noise, "JPEG")
    return {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged image"),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"<html>403 Forbidden</html>", "not an image"),
        "one pixel.png": (file_bytes(grey(1, 1, 1)), "too small"),
        "huge.png": (huge_png(), "too large"),
        "narrow.png": (file_bytes(grey(1, 16, 60000)), None),
        "cmyk.jpg": (file_bytes(Image.new("CMYK", (30, 20), (10, 20, 30, 40)), "JPEG"), None),
        "alpha.png": (file_bytes(Image.new("RGBA", (30, 20), (0, 0, 0, 0))), None),
        "deep.png": (file_bytes(Image.fromarray(np.full((20, 30), 40000, np.uint16))), None),
        "UPPER.JPG": (jpeg, None),
        "caf\u00e9 \u732b \U0001f98a.png": (file_bytes(grey(7)), None),
    }


def test_hostile_pictures_fail_by_cause_and_the_others_get_their_scores(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "a.csv"
    folder.mkdir()
    for name, (data, _) in hostile_files().items():
        (folder / name).write_bytes(data)
    score(folder, out, [Brightness()])
    expected = {name: cause for name, (_, cause) in hostile_files().items() if cause}
    assert read_failures(out) == expected
    rows = {row["key"]: row for row in read_rows(out)}
    assert set(rows) == set(hostile_files()) - set(expected)
    assert float(rows["alpha.png"]["brightness@test1"]) == 255  # over white
    assert float(rows["deep.png"]["brightness@test1"]) == round(40000 / 257)


def test_files_that_are_no_files_and_names_that_are_no_text_do_not_stop_a_run(tmp_path):
    folder, out = make_folder(tmp_path / "in", 1), tmp_path / "a.parquet"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "locked.png").write_bytes(b"x" * 100)
    odd = os.fsencode(folder) + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write(file_bytes(grey(9)))
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(file_bytes(grey(8)))
    (folder / ".hidden.png").write_bytes(file_bytes(grey(1)))
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(file_bytes(grey(1)))
    score(folder, out, [Brightness()])
    assert read_failures(out) == {
        "pipe.jpg": "not a file",
        "gone.jpg": "missing image",
        "locked.png": "not an image",
    }
    assert [row["key"] for row in read_rows(out)] == ["000.png", "\\xff\\xfe.png"] + [
        "folder.jpg/inside.png"
    ]


def test_a_reward_that_cannot_prepare_a_picture_fails_that_picture(tmp_path):
    class Wide(Brightness):
        def prepare(self, image):
            if image.shape[1] > 100:
                raise ValueError("a picture must not be so narrow")
            return super().prepare(image)

    folder = make_folder(tmp_path / "in", 3)
    (folder / "wide.png").write_bytes(file_bytes(grey(1, 20, 101)))
    score(folder, tmp_path / "a.csv", [Wide()])
    assert read_failures(tmp_path / "a.csv") == {"wide.png": "unfit for a model"}


def test_captions_stand_beside_pictures_and_a_missing_one_is_a_failure(tmp_path):
    folder, out = make_folder(tmp_path / "in", 5), tmp_path / "a.csv"
    needing = [Brightness("length", True)]
    (folder / "001.txt").unlink()
    (folder / "002.txt").write_text(" \n")
    (folder / "003.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "004.txt").write_bytes(b"\xef\xbb\xbfwith a mark\n")
    score(folder, out, needing)
    assert read_failures(out) == {
        "001.png": "missing caption",
        "002.png": "missing caption",
        "003.png": "unreadable caption",
    }
    assert [row["caption"] for row in read_rows(out)] == ["picture 0", "with a mark"]
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(RuntimeError, match=r"missing caption \(5\).*--captions=FILE .* gives them"):
        score(folder, tmp_path / "b.csv", needing)


def test_damage_of_an_image_counts_before_its_missing_caption(tmp_path):
    folder, out = make_folder(tmp_path / "in", 5), tmp_path / "a.csv"
    for name in ("001", "002", "003"):
        (folder / f"{name}.txt").unlink()
    (folder / "001.png").write_bytes(b"<html>")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:50])
    score(folder, out, [Brightness("length", True)])
    assert read_failures(out) == {
        "001.png": "not an image",
        "002.png": "damaged image",
        "003.png": "missing caption",
    }
    assert [row["caption"] for row in read_rows(out)] == ["picture 0", "picture 4"]


def test_an_image_without_a_caption_is_scored_by_the_rewards_that_need_none(tmp_path):
    folder, out = make_folder(tmp_path / "in", 6), tmp_path / "a.jsonl"
    (folder / "001.txt").unlink()
    (folder / "003.txt").write_bytes(b"\xff\xfe\x00")
    facts = score(folder, out)
    rows = read_rows(out)
    assert [row["brightness@test1"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["length@test1"] for row in rows] == [9, None, 11, None, 13, 14]
    assert [row["caption"] for row in rows][1:4:2] == [None, None]
    assert read_failures(out) == {"003.png": "unreadable caption"}  # the other has none
    assert facts["without_caption"] == {"missing caption": 1, "unreadable caption": 1}
    assert facts["rewards"]["length@test1"]["missing"] == 2
    assert facts["rewards"]["brightness@test1"]["missing"] == 0
    text = summary.as_text(facts)
    assert "so without length@test1: missing caption (1), unreadable caption (1)" in text


def test_rewards_that_need_no_caption_score_pictures_without_one(tmp_path):
    folder = make_folder(tmp_path / "in", 2, sidecars=False)
    score(folder, tmp_path / "a.jsonl", [Brightness()])
    assert [row["caption"] for row in read_rows(tmp_path / "a.jsonl")] == [None, None]


def test_a_table_of_captions_names_pictures_in_several_ways(tmp_path):
    folder = make_folder(tmp_path / "in", 4, sidecars=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "cafe\u0301.png").write_bytes(file_bytes(grey(9)))
    rows = [
        ("caption", "file_name"),
        ("by path", "./000.png"),
        ("without its ending", "001"),
        ("by absolute path", str(folder.absolute() / "002.png")),
        ("from the table's folder", "in/003.png"),
        ("composed letters", "sub/caf\u00e9.png"),
        ("a picture that is not there", "009.png"),
    ]
    out = tmp_path / "a.csv"
    score(folder, out, captions=write_csv(tmp_path / "captions.csv", rows))
    assert [row["caption"] for row in read_rows(out)] == [row[0] for row in rows[1:6]]


def test_rows_of_captions_that_are_of_no_image_are_counted(tmp_path):
    folder, out = make_folder(tmp_path / "in", 3, sidecars=False), tmp_path / "a.csv"
    rows = [
        ("path", "caption"),
        ("gone.png", "x"),
        ("000", "a"),
        ("in/001.png", "b"),
        ("0.png", ""),
    ]
    captions = write_csv(tmp_path / "c.csv", [*rows, ("gone.png", "x")])
    facts = score(folder, out, captions=captions)
    assert facts["captions"] == {"without_image": 2, "first_without_image": "gone.png"}
    text = summary.as_text(facts)
    assert "names in --captions that are of no image: 2, the first is gone.png" in text
    table = write_csv(tmp_path / "t.csv", [("path",), ("in/000.png",), ("in/001.png",)])
    facts = score(table, tmp_path / "b.csv", captions=captions)
    assert facts["captions"]["without_image"] == 3  # a table names images in its own way alone
    whole = write_csv(tmp_path / "w.csv", [rows[0], ("000", "a"), ("001", "b"), ("./002.png", "c")])
    facts = score(folder, tmp_path / "c.parquet", captions=whole)
    assert facts["captions"]["without_image"] == 0 and "of no image" not in summary.as_text(facts)


def test_captions_of_other_images_are_refused_before_anything_is_scored(tmp_path):
    folder = make_folder(tmp_path / "in", 3, sidecars=True)
    captions = write_csv(tmp_path / "c.csv", [("path", "caption"), ("x/a.png", "a"), ("b", "b")])
    said = "c.csv must name images of .*in; of its rows .2. none does: its first is for 'x/a.png', "
    with pytest.raises(ValueError, match=said + "the first image is '000.png'"):
        score(folder, tmp_path / "a.csv", captions=captions)
    assert not list(tmp_path.glob("a.csv*"))


def test_a_picture_that_the_table_lacks_has_no_caption_even_if_one_stands_beside_it(tmp_path):
    folder, out = make_folder(tmp_path / "in", 2), tmp_path / "a.csv"
    captions = write_csv(tmp_path / "c.csv", [("path", "text"), ("000", "x")])
    score(folder, out, captions=captions)
    assert [row["caption"] for row in read_rows(out)] == ["x", ""]
    out = tmp_path / "b.csv"
    score(folder, out, [Brightness("length", True)], captions=captions)
    assert read_failures(out) == {"001.png": "missing caption"}


def test_a_table_that_gives_a_picture_two_captions_is_refused_and_two_equal_ones_are_not(tmp_path):
    folder = make_folder(tmp_path / "in", 1)
    rows = [("path", "caption"), ("000.png", "a"), ("000.png", "a"), ("./000.png", "b")]
    with pytest.raises(ValueError, match=r"'000.png' two, in lines 2 and 4"):
        score(folder, tmp_path / "a.csv", captions=write_csv(tmp_path / "c.csv", rows))
    score(folder, tmp_path / "a.csv", captions=write_csv(tmp_path / "c.csv", rows[:3]))
    assert [row["caption"] for row in read_rows(tmp_path / "a.csv")] == ["a"]
    assert not list(tmp_path.glob("*captions-index"))


def test_every_row_of_a_table_is_scored_also_those_of_one_picture(tmp_path):
    folder = make_folder(tmp_path / "in", 2, sidecars=False)
    rows = [
        ("path", "caption"),
        ("001.png", "one"),
        ("000.png", "zero"),
        ("001.png", "one again"),
        ("001.png", "one"),
        ("009.png", "nothing"),
        ("", "nameless"),
        ("000.png", ""),
        (str(folder / "000.png"), "absolute"),
    ]
    out = tmp_path / "a.csv"
    score(write_csv(folder / "table.csv", rows), out, [Brightness("length", True)])
    assert [(r["key"], r["caption"]) for r in read_rows(out)] == [*rows[1:5], rows[8]]
    assert read_failures(out) == {
        "009.png": "missing image",
        "line 7": "missing image",
        "000.png": "missing caption",
    }


def test_an_image_that_a_row_holds_as_base64_is_called_by_its_line(tmp_path):
    folder = make_folder(tmp_path / "in", 1)
    text = base64.b64encode((folder / "000.png").read_bytes()).decode()
    table = write_csv(folder / "t.csv", [("image", "caption"), (text, "a"), ("000.png", "b")])
    score(table, tmp_path / "a.csv")
    rows = read_rows(tmp_path / "a.csv")
    assert [row["key"] for row in rows] == ["line 2", "000.png"]
    assert len({row["brightness@test1"] for row in rows}) == 1


def test_captions_of_a_table_of_paths_may_come_from_another_table(tmp_path):
    folder = make_folder(tmp_path / "in", 2, sidecars=False)
    table = write_csv(folder / "table.csv", [("path", "caption"), ("001.png", "its own")])
    captions = write_csv(tmp_path / "c.csv", [("path", "caption"), ("001.png", "the other")])
    score(table, tmp_path / "a.csv", captions=captions)
    assert [row["caption"] for row in read_rows(tmp_path / "a.csv")] == ["the other"]


def test_a_table_without_captions_is_refused_where_they_are_needed(tmp_path):
    table = write_csv(make_folder(tmp_path / "in", 1) / "t.csv", [("path",), ("000.png",)])
    with pytest.raises(ValueError, match="captions are needed for length"):
        score(table, tmp_path / "a.csv")
    score(table, tmp_path / "a.csv", [Brightness()])


def test_tar_shards_are_scored_one_after_the_other(tmp_path):
    pieces = make_pieces(tmp_path / "source", 3, 5)
    out = tmp_path / "a.csv"
    facts = score(f"tar:{tmp_path}/source/*.tar", out)
    rows = read_rows(out)
    assert [row["key"] for row in rows][4:6] == ["p0.tar/key0004", "p1.tar/key0005"]
    assert rows[7]["caption"] == "picture 7" and float(rows[7]["brightness@test1"]) == 7
    score(pieces, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes() == out.read_bytes()
    captions = write_csv(
        tmp_path / "c.csv",
        [("key", "caption"), ("p1.tar/key0006", "by shard"), ("key0001", "by key")],
    )
    needing = [Brightness("length", True)]
    score(pieces, tmp_path / "d.csv", needing, captions=captions)
    assert {r["key"]: r["caption"] for r in read_rows(tmp_path / "d.csv")} == {
        "p0.tar/key0001": "by key",
        "p1.tar/key0006": "by shard",
    }
    assert facts["num_images"] == 15


def test_damaged_tar_and_bad_samples_are_listed_and_the_rest_is_scored(tmp_path):
    members = [*sample(0), *sample(1, image=b"bad"), *sample(2, image=b""), *sample(3, caption="")]
    members += [*sample(4), *sample(5, key="key0004"), *sample(6)]
    path = write_tar(tmp_path / "a.tar", members)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 9000)
    other = write_tar(tmp_path / "b.tar", sample(7))
    out = tmp_path / "out.csv"
    score([path, other], out, [Brightness("length", True)])
    assert read_failures(out) == {
        "a.tar/key0001": "not an image",
        "a.tar/key0002": "missing image",
        "a.tar/key0003": "missing caption",
        "a.tar/key0004": "duplicate key",
        "a.tar/key0006": "cut short by damage",
        "a.tar": "damaged tar",
    }
    assert [row["key"] for row in read_rows(out)] == [
        "a.tar/key0000",
        "a.tar/key0004",
        "b.tar/key0007",
    ]


def test_a_tar_run_resumes_inside_of_a_shard_and_after_a_damaged_one(tmp_path):
    pieces = make_pieces(tmp_path / "source", 2, 7)
    with open(pieces[0], "r+b") as file:
        file.truncate(os.path.getsize(pieces[0]) - 9000)
    score(pieces, tmp_path / "whole.csv")

    class Stops(Brightness):
        def encode(self, prepared):
            if self.num_encoded >= self.limit:
                raise KeyboardInterrupt
            return super().encode(prepared)

    for limit in (3, 6, 9):
        out = tmp_path / f"{limit}.csv"
        stops = Stops()
        stops.limit = limit
        with pytest.raises(KeyboardInterrupt):
            score(pieces, out, [stops, Brightness("length", True)])
        score(pieces, out)
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
        assert read_failures(out) == read_failures(tmp_path / "whole.csv")


def test_an_unreadable_subfolder_is_an_error_and_not_an_empty_one(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "in", 1)
    (folder / "sub").mkdir()
    scan = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="sub"):
        score(folder, tmp_path / "a.csv")


def test_text_that_utf8_cannot_hold_is_a_failure(tmp_path):
    folder = make_folder(tmp_path / "in", 1, sidecars=False)
    table = folder / "t.jsonl"
    lines = [
        '{"path": "000.png", "caption": "half \\ud83e of a pair"}',
        '{"path": "\\ud83e.png", "caption": "fine"}',
        '{"path": "nul\\u0000.png", "caption": "fine"}',
        '{"path": "000.png", "caption": "<PERSON> in the snow"}',
    ]
    table.write_text("\n".join(lines))
    out = tmp_path / "a.jsonl"
    score(table, out, [Brightness("length", True)])
    assert read_failures(out) == {
        "000.png": "unreadable caption",
        "\\ud83e.png": "missing image",
        "nul\0.png": "missing image",
    }
    (row,) = read_rows(out)
    assert row["caption"] == " in the snow"  # as annotation has it


def test_any_source_of_annotation_is_scored(tmp_path):
    folder = make_folder(tmp_path / "in", 6)
    score(folder, tmp_path / "a.csv")
    score(f"folder:{folder}?per_piece=4", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    make_pieces(tmp_path / "source", 3, 4)
    facts = score(f"tar:{tmp_path}/source/p{{0,2}}.tar", tmp_path / "c.csv", [Brightness()])
    keys = [row["key"] for row in read_rows(tmp_path / "c.csv")]
    assert facts["num_images"] == 8 and keys[::4] == ["p0.tar/key0000", "p2.tar/key0008"]
    with pytest.raises(ValueError, match="Pieces must differ in name; .*tar:A.*::B"):
        score([f"tar:{tmp_path}/source/*.tar", f"{tmp_path}/source/p1.tar"], tmp_path / "d.csv")
