"""Tar sources: what becomes of the members of an archive that is sound."""

import dataclasses
import io
import json
import os
import subprocess
import tarfile

import pytest

from miro_jax.data.sources import expected_samples, open_source
from miro_jax.data.sources import tar as tar_source
from miro_jax.data.sources.reading import fingerprint
from tests.sources import members_of, read, read_all, triple, write_tar


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "a.tar", [m for i in range(6) for m in members_of(i)])


def test_samples_come_in_order_with_all_their_parts(tar):
    samples, damage = read_all(tar)
    assert damage is None and [s.key for s in samples] == [f"dir/key{i}" for i in range(6)]
    for i, sample in enumerate(samples):
        assert sample.image == bytes([i]) * 700
        assert sample.caption == f"caption {i} ünï"
        assert sample.synthetic == {"long": f"long {i}", "short": "from json"}
        assert sample.meta["width"] == 32 and sample.problem == ""


def test_caption_and_both_synthetic_forms_may_come_from_json(tmp_path):
    meta = {"caption": "c", "synthetic_caption": "l", "synthetic_caption_short": "s"}
    path = write_tar(tmp_path / "a.tar", [("k.PNG", b"x"), ("k.json", json.dumps(meta).encode())])
    ((sample,), _) = read_all(path)
    assert (sample.caption, sample.image) == ("c", b"x")
    assert sample.synthetic == {"long": "l", "short": "s"}


def test_missing_parts_stay_missing(tmp_path):
    members = [("a.jpg", b"x"), ("b.txt", b"only text"), ("c.jpg", b"y"), ("c.json", b"{}")]
    samples = read_all(write_tar(tmp_path / "a.tar", members))[0]
    assert [s.caption for s in samples] == [None, "only text", None]
    assert [s.image for s in samples] == [b"x", None, b"y"]
    assert all(s.synthetic == {} and s.problem == "" for s in samples)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"\xff\xfe\xff", "unreadable caption"),
        ("a.json", b"{broken", "unreadable json"),
        ("a.json", b"[1]", "unreadable json"),
        ("a.json", b"[" * 99999, "unreadable json"),
    ],
)
def test_unreadable_text_is_a_problem_not_an_exception(tmp_path, name, content, problem):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), (name, content), ("b.jpg", b"y")])
    samples = read_all(path)[0]
    assert [s.problem for s in samples] == [problem, ""]


def test_directories_hidden_files_and_values_of_other_types_are_passed_over(tmp_path):
    meta = json.dumps({"caption": 7, "synthetic_caption": None}).encode()
    members = [
        ("d/._a.jpg", b"junk"),
        (".DS_Store", b"junk"),
        ("d/a.jpg", b"x"),
        ("d/a.json", meta),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("d.x")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    ((sample,), _) = read_all(path)
    assert (sample.key, sample.image, sample.caption, sample.synthetic) == ("d/a", b"x", None, {})


def test_a_repeated_member_starts_another_sample_of_that_key(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"one"), ("a.jpg", b"2"), ("a.txt", b"two")]
    samples = read_all(write_tar(tmp_path / "a.tar", members))[0]
    assert [(s.key, s.caption) for s in samples] == [("a", "one"), ("a", "two")]


def test_empty_archive_has_no_samples(tmp_path):
    assert read_all(write_tar(tmp_path / "a.tar", [])) == ([], None)


def test_fingerprint_notices_changes_at_both_ends_and_of_size(tmp_path):
    path = tmp_path / "a.tar"
    content = bytearray(300_000)
    found = set()
    for position, value in ((0, 0), (0, 1), (299_999, 1)):
        content[position] = value
        path.write_bytes(content)
        found.add(fingerprint(str(path)))
    path.write_bytes(content[:-1] + b"\1\1")
    found.add(fingerprint(str(path)))
    assert len(found) == 4
    path.write_bytes(content)
    assert fingerprint(str(path)) in found


def test_a_piece_is_an_archive_and_its_keys_begin_with_its_name(tmp_path):
    for name in ("b/1", "a/1"):
        (tmp_path / name).parent.mkdir()
        write_tar(tmp_path / f"{name}.tar", [("k.jpg", b"x"), ("k.txt", b"<PERSON> and a cat")])
    first, second = open_source(f"tar:{tmp_path}/*/1.tar").pieces
    assert (first.number, first.id, second.number, second.id) == (0, "a/1.tar", 1, "b/1.tar")
    assert first.num_bytes == 10240 and first.count is None
    (sample,) = second.samples()
    assert (sample.key, sample.problem) == ("b/1.tar/k", "")
    assert sample.caption == " and a cat"  # the placeholder alone is deleted
    assert first.fingerprint() == second.fingerprint() == fingerprint(f"{tmp_path}/a/1.tar")


def test_a_piece_names_its_id_whatever_else_matches(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "1.tar", [])
    (one,) = open_source(f"tar:{tmp_path}/[b]/1.tar").pieces
    assert one.id in [piece.id for piece in open_source(f"tar:{tmp_path}/*/1.tar").pieces]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_of_both_forms_are_read(tmp_path, form):
    path = str(tmp_path / "a.tar")
    keys = ["n" * 300, "ünï/日本", "./dot", "a" * 98 + "/" + "b" * 80]
    with tarfile.open(path, "w", format=form) as archive:
        for key in keys:
            info = tarfile.TarInfo(key + ".jpg")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    samples, damage = read_all(path)
    assert damage is None
    assert [s.key for s in samples] == [key.removeprefix("./") for key in keys]


def test_names_that_are_not_utf8_become_text(tmp_path):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("caf\xe9.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    ((sample,), _) = read_all(path)
    assert sample.key == r"caf\xe9" and sample.key.encode("utf-8")


def special(kind, name, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_what_is_no_regular_file_is_no_picture(tmp_path, kind):
    cause = "missing image" if kind == tarfile.DIRTYPE else "not a file"
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        for name, content in [("a.txt", b"text"), ("b.jpg", b"x"), ("b.txt", b"text")]:
            if name == "a.txt":
                archive.addfile(special(kind, "a.jpg", "/etc/passwd"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [(s.key, s.problem) for s in read(f"tar:{path}")] == [
        ("a.tar/a", cause),
        ("a.tar/b", ""),
    ]


@pytest.mark.parametrize(
    ("ending", "cause"),
    [("jpg", "not a file"), ("txt", "unreadable caption"), ("json", "unreadable json")],
)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, b"S"])
def test_a_part_that_is_a_link_is_not_left_out_in_silence(tmp_path, kind, ending, cause):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        for name, content in triple("a", 1) + triple("b", 2):
            info = tarfile.TarInfo(name)
            if name == f"b.{ending}":
                archive.addfile(special(kind, name, f"a.{ending}"))
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert [(s.key, s.problem) for s in read(f"tar:{path}")] == [
        ("a.tar/a", ""),
        ("a.tar/b", cause),
    ]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_file_that_pax_stores_in_pieces_is_no_picture(tmp_path, version):
    """As GNU tar writes it: the values of a header of its own, then a member of another name."""
    values = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99"}
    if version == "0.0":
        values = {"GNU.sparse.size": "99", "GNU.sparse.numblocks": "1"}
    name = "b.jpg"
    if version != "0.0":
        values["GNU.sparse.name"], name = "b.jpg", "GNUSparseFile.17/b.jpg"
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in [*triple("a", 1), (name, b"pieces"), ("b.txt", b"text")]:
            info = tarfile.TarInfo(member)
            info.size, info.pax_headers = len(content), values if member == name else {}
            archive.addfile(info, io.BytesIO(content))
    found = [(s.key, s.problem) for s in read(f"tar:{path}")]
    assert found == [("a.tar/a", ""), ("a.tar/b", "not a file")]


def test_a_compressed_archive_is_called_so(tmp_path):
    for mode, name in (("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")):
        with tarfile.open(tmp_path / f"a.{mode}.tar", f"w:{mode}") as archive:
            archive.addfile(tarfile.TarInfo("a.jpg"))
        (sample,) = read(f"tar:{tmp_path}/a.{mode}.tar")
        assert sample.problem == "damaged tar" and f"compressed with {name}" in sample.detail
    (tmp_path / "b.tar").write_bytes(b"")
    (sample,) = read(f"tar:{tmp_path}/b.tar")
    assert sample.problem == "damaged tar" and "the file is empty" in sample.detail


@pytest.mark.parametrize(
    "name", ["d/k", "d/k.jpg", "a.tar/d/k", "a.tar/d/k.jpg", "{}/a.tar/d/k.jpg"]
)
def test_a_table_may_name_a_picture_in_every_way(tmp_path, name):
    write_tar(tmp_path / "a.tar", [("d/k.jpg", b"1"), ("d/k.txt", b"old")])
    (tmp_path / "c.csv").write_text(f"path,caption\n{name.format(tmp_path)},new\n")
    (sample,) = read(f"tar:{tmp_path}/*.tar?captions={tmp_path}/c.csv")
    assert sample.caption == "new"


def test_duplicates_are_refused_and_the_first_is_kept(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"one"), ("b.jpg", b"2"), ("b.txt", b"two")]
    path = write_tar(tmp_path / "a.tar", [*members, *members[:2]])
    found = [(s.key, s.image, s.problem) for s in read(f"tar:{path}")]
    assert found == [
        ("a.tar/a", b"1", ""),
        ("a.tar/b", b"2", ""),
        ("a.tar/a", b"1", "duplicate key"),
    ]


def test_equal_keys_of_two_archives_do_not_collide(tmp_path):
    for name in ("1.tar", "2.tar"):
        write_tar(tmp_path / name, [("a.jpg", b"1"), ("a.txt", b"one")])
    samples = read(f"tar:{tmp_path}/*.tar")
    assert [(s.key, s.problem) for s in samples] == [("1.tar/a", ""), ("2.tar/a", "")]


def test_samples_are_counted_or_guessed_from_the_pieces_that_were_read(tmp_path):
    for name, count in (("1.tar", 2), ("2.tar", 4), ("3.tar", 6)):
        write_tar(tmp_path / name, [(f"{i}.jpg", bytes(30_000)) for i in range(count)])
    pieces = open_source(f"tar:{tmp_path}/*.tar").pieces
    assert expected_samples(pieces) is None
    assert expected_samples(pieces, pieces[:1], 2) == pytest.approx(12, abs=2)
    assert expected_samples(pieces, pieces, 12) == 12
    unknown = [dataclasses.replace(piece, num_bytes=None) for piece in pieces]
    assert expected_samples(unknown, unknown[:2], 6) == 9
    assert expected_samples([dataclasses.replace(piece, count=5) for piece in pieces]) == 15


def test_a_piece_whose_name_is_not_utf8_becomes_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.tar"
    os.rename(write_tar(tmp_path / "a.tar", [("k.jpg", b"1"), ("k.txt", b"one")]), path)
    (sample,) = read(f"tar:{tmp_path}/*.tar")
    assert sample.key == r"caf\xe9.tar/k" and sample.key.encode("utf-8")


def test_of_members_that_are_not_used_nothing_is_kept(tmp_path):
    """Frames of a film may be thousands of members of one key."""
    frames = [(f"film.{i:03d}.jpg", bytes(1000)) for i in range(200)]
    path = write_tar(tmp_path / "a.tar", [*frames, *triple("x", 1)])
    (group, _) = tar_source._groups(path)
    assert len(group.members) == 200
    assert all(member.content is None for member in group.members.values())
    film, good = read(f"tar:{path}")
    assert film.problem == "missing image" and len(film.detail) < 200 and good.problem == ""


@pytest.mark.parametrize("regions", [3, 30])
def test_a_sparse_file_is_no_damage(tmp_path, regions):
    folder = tmp_path / "d"
    folder.mkdir()
    with open(folder / "0.bin", "wb") as file:
        for number in range(regions):
            file.seek(number * 100_000)
            file.write(bytes([1]) * 4096)
        file.truncate(regions * 100_000)
    for name, content in triple("1", 1):
        (folder / name).write_bytes(content)
    command = ["tar", "--sparse", "--format=gnu", "--sort=name", "-cf", tmp_path / "a.tar", "-C"]
    subprocess.run([*command, folder, "."], check=True)
    assert [(s.key, s.problem) for s in read(f"tar:{tmp_path}/a.tar")] == [("a.tar/1", "")]
