"""Folder sources: runs of pictures with the texts beside them."""

import errno
import os
import time

import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources import open_source, reading
from miro_jax.data.sources.images import BadImage
from tests.sources import jpeg, problems, read, shade_of


def make(folder, names, texts=True):
    """Pictures whose shade is their number, each with a text beside it."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
        if texts:
            path.with_suffix(".txt").write_text(f"text of {name}", "utf-8")
    return folder


def test_pictures_come_sorted_in_runs_with_their_texts(tmp_path):
    names = ["b/2.png", "b/1.JPG", "a.jpeg", "ünï ü.webp", "c/d/x.y.jpg"]
    folder = make(tmp_path / "f", names)
    (folder / "b" / "1.json").write_text('{"synthetic_caption": "long", "width": 3}')
    (folder / "notes.md").touch()
    pieces = open_source(f"folder:{folder}?per_piece=2").pieces
    assert [(p.number, p.id, p.count) for p in pieces] == [
        (0, "files-00000", 2),
        (1, "files-00001", 2),
        (2, "files-00002", 1),
    ]
    samples = [sample for piece in pieces for sample in piece.samples()]
    assert [s.key for s in samples] == ["a.jpeg", "ünï ü.webp", "b/1.JPG", "b/2.png", "c/d/x.y.jpg"]
    assert [shade_of(s) for s in samples] == [2, 3, 1, 0, 4]
    assert [s.caption for s in samples] == [f"text of {s.key}" for s in samples]
    assert samples[2].meta["width"] == 3 and samples[2].synthetic["long"] == "long"
    assert pieces[0].num_bytes == len(jpeg(2)) + len(jpeg(3))


def test_the_pieces_do_not_depend_on_their_reader_and_notice_changes(tmp_path):
    folder = make(tmp_path / "f", [f"{i:02d}.jpg" for i in range(10)])
    spec = f"folder:{folder}?per_piece=4"

    def prints():
        return [piece.fingerprint() for piece in open_source(spec).pieces]

    first = prints()
    assert prints() == first and len(set(first)) == 3
    (folder / "05.txt").write_text("a longer text than before", "utf-8")
    assert [a == b for a, b in zip(prints(), first, strict=True)] == [True, False, True]
    (folder / "00a.jpg").write_bytes(jpeg(1))
    assert not set(prints()) & set(first)


def test_captions_may_come_from_tables_of_all_kinds(tmp_path):
    folder = make(tmp_path / "f", ["a/1.jpg", "2.jpg", "3.jpg", "4.jpg"], texts=False)
    rows = [("a/1.jpg", "one"), ("2", "two"), (str(folder / "3.jpg"), "three")]
    (tmp_path / "c.csv").write_text("file,caption\n" + "".join(f"{n},{t}\n" for n, t in rows))
    (tmp_path / "c.tsv").write_text("Path\tText\n" + "".join(f"{n}\t{t}\n" for n, t in rows))
    lines = [f'{{"file_name": "{n}", "prompt": "{t}"}}\n' for n, t in rows]
    (tmp_path / "c.jsonl").write_text("".join(lines))
    for ending in ("csv", "tsv", "jsonl"):
        samples = read(f"folder:{folder}?captions={tmp_path}/c.{ending}")
        assert {s.key: s.caption for s in samples if not s.problem} == {
            "2.jpg": "two",
            "3.jpg": "three",
            "a/1.jpg": "one",
        }
        assert problems(samples) == {"4.jpg": "missing caption"}
        (missing,) = [s for s in samples if s.problem]
        assert "has no row for it; its first is for" in missing.detail


def test_a_table_without_captions_is_refused(tmp_path):
    folder = make(tmp_path / "f", ["1.jpg"])
    (tmp_path / "c.csv").write_text("file\n1.jpg\n")
    with pytest.raises(ValueError, match="column of captions"):
        open_source(f"folder:{folder}?captions={tmp_path}/c.csv")


def test_pictures_of_one_stem_share_their_text_and_keep_their_keys(tmp_path):
    folder = make(tmp_path / "f", ["a.jpg", "a.png"])
    assert [(s.key, s.caption) for s in read(f"folder:{folder}")] == [
        ("a.jpg", "text of a.png"),
        ("a.png", "text of a.png"),
    ]


def causes_of_files(folder):
    found = {}
    for sample in read(f"folder:{folder}"):
        found[sample.key] = sample.problem
        if not sample.problem:
            try:
                sample.read()
            except BadImage as error:
                found[sample.key] = error.cause
    return found


def test_files_that_are_no_files_have_a_cause(tmp_path):
    names = ["good", "empty", "link", "lost", "loop", "pipe", "device", "torn", "huge"]
    folder = make(tmp_path / "f", [f"{name}.jpg" for name in names])
    for name in names[2:]:
        (folder / f"{name}.jpg").unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "link.jpg").symlink_to(folder / "good.jpg")
    (folder / "lost.jpg").symlink_to(folder / "nowhere")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "torn.jpg").write_bytes(jpeg(1))
    (folder / "torn.txt").unlink()
    os.mkfifo(folder / "torn.txt")
    with open(folder / "huge.jpg", "wb") as file:
        file.truncate(1 << 30)
    (folder / "folder.jpg").mkdir()
    begin = time.perf_counter()
    assert causes_of_files(folder) == {
        "good.jpg": "",
        "link.jpg": "",
        "empty.jpg": "",  # known once it is decoded: load_rgb says "empty file"
        "lost.jpg": "missing image",
        "loop.jpg": "unreadable file",
        "pipe.jpg": "not a file",
        "device.jpg": "not a file",
        "torn.jpg": "unreadable caption",
        "huge.jpg": "too large",
    }
    assert time.perf_counter() - begin < 5


def test_a_file_that_went_away_is_a_missing_image(tmp_path):
    folder = make(tmp_path / "f", ["1.jpg", "2.jpg"])
    (piece,) = open_source(f"folder:{folder}").pieces
    samples = list(piece.samples())
    (folder / "2.jpg").unlink()
    assert samples[0].read() == jpeg(0)
    with pytest.raises(BadImage, match="missing image"):
        samples[1].read()


def test_names_that_are_not_utf8_are_read(tmp_path):
    folder = make(tmp_path / "f", ["a.jpg"])
    strange = os.fsencode(folder) + b"/caf\xe9.jpg"
    with open(strange, "wb") as file:
        file.write(jpeg(7))
    with open(strange[:-3] + b"txt", "w") as file:
        file.write("coffee")
    samples = read(f"folder:{folder}")
    assert [(s.key, s.caption) for s in samples] == [
        ("a.jpg", "text of a.jpg"),
        (r"caf\xe9.jpg", "coffee"),
    ]
    assert samples[1].read() == jpeg(7)


def test_a_folder_without_pictures_or_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none"):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(f"folder:{tmp_path}/nowhere")


def test_a_failing_disk_is_an_error_and_no_cause(tmp_path, monkeypatch):
    folder = make(tmp_path / "f", ["1.jpg"])
    (piece,) = open_source(f"folder:{folder}").pieces
    (sample,) = piece.samples()

    def fail(path):
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(reading, "open_read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        sample.read()
    with pytest.raises(OSError, match="Input/output error"):
        list(piece.samples())


@pytest.mark.parametrize("ending", ["txt", "TXT", "Txt"])
def test_endings_may_be_written_in_capitals(tmp_path, ending):
    (tmp_path / "A.JPG").write_bytes(jpeg(1))
    (tmp_path / f"A.{ending}").write_text("a caption")
    (tmp_path / "A.JSON").write_text('{"synthetic_caption": "long"}')
    (sample,) = read(f"folder:{tmp_path}")
    assert (sample.key, sample.caption) == ("A.JPG", "a caption")
    assert sample.synthetic == {"long": "long", "short": "a caption"}


@pytest.mark.parametrize("place", ["nosuch://a/b.jpg", "hf:/x"])
def test_a_path_that_cannot_be_read_here_concerns_its_sample_alone(tmp_path, place):
    parquet.write_table(
        pyarrow.table({"image": [place, "1.jpg"], "caption": ["a", "b"]}), tmp_path / "a.parquet"
    )
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    bad, good = read(f"table:{tmp_path}/a.parquet")
    with pytest.raises(BadImage, match=r"outside the source|missing image"):
        bad.read()
    assert good.read() == jpeg(1)


@pytest.mark.parametrize("kind", ["picture", "text", "pipe"])
def test_names_that_are_not_utf8_can_be_told(tmp_path, kind):
    folder = make(tmp_path / "f", ["a.jpg"])
    odd = os.fsencode(folder) + b"/z\xff"
    if kind == "pipe":
        os.mkfifo(odd + b".jpg")
    else:
        os.symlink(b"/nowhere", odd + (b".jpg" if kind == "picture" else b".txt"))
    if kind == "text":
        (folder / "a.jpg").rename(os.fsdecode(odd + b".jpg"))
    else:
        (folder / "a.txt").rename(os.fsdecode(odd + b".txt"))
    for sample in read(f"folder:{folder}"):
        detail = sample.detail
        if not sample.problem:
            with pytest.raises(BadImage) as caught:
                sample.read()
            detail = caught.value.detail
        if "xff" in sample.key:
            assert r"z\xff" in detail
        detail.encode("utf-8")


@pytest.mark.parametrize("change", ["deleted", "longer text", "other picture"])
def test_a_folder_that_changed_has_another_fingerprint_when_asked_again(tmp_path, change):
    folder = make(tmp_path / "f", ["a.jpg", "b/c.jpg"])
    (piece,) = open_source(f"folder:{folder}").pieces
    assert piece.fingerprint() == piece.fingerprint(again=True)
    if change == "deleted":
        (folder / "b" / "c.jpg").unlink()
    elif change == "longer text":
        (folder / "b" / "c.txt").write_text("a caption of another length")
    else:
        (folder / "b" / "c.jpg").write_bytes(jpeg(99, 40))
    assert piece.fingerprint() != piece.fingerprint(again=True)
