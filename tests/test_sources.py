"""Sources: samples of tar files, and every way in which a tar file is damaged."""

import io
import json
import tarfile

import pytest

from miro_jax.sources import DamagedTar, fingerprint, list_pieces, tar_samples


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def members_of(i):
    meta = {"caption": "from json", "synthetic_caption": f"long {i}", "width": 32}
    return [
        (f"dir/key{i}.jpg", bytes([i]) * 700),
        (f"dir/key{i}.txt", f"caption {i} ünï".encode()),
        (f"dir/key{i}.json", json.dumps(meta).encode()),
    ]


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "a.tar", [m for i in range(6) for m in members_of(i)])


def read_all(path):
    """Return the samples and the damage, or None."""
    samples = []
    try:
        for sample in tar_samples(path):
            samples.append(sample)
    except DamagedTar as damage:
        return samples, damage
    return samples, None


def header_offset(path, name):
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


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
    (sample,) = tar_samples(path)
    assert (sample.caption, sample.image) == ("c", b"x")
    assert sample.synthetic == {"long": "l", "short": "s"}


def test_missing_parts_stay_missing(tmp_path):
    members = [("a.jpg", b"x"), ("b.txt", b"only text"), ("c.jpg", b"y"), ("c.json", b"{}")]
    samples = list(tar_samples(write_tar(tmp_path / "a.tar", members)))
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
    samples = list(tar_samples(path))
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
    (sample,) = tar_samples(path)
    assert (sample.key, sample.image, sample.caption, sample.synthetic) == ("d/a", b"x", None, {})


def test_a_repeated_member_starts_another_sample_of_that_key(tmp_path):
    members = [("a.jpg", b"1"), ("a.txt", b"one"), ("a.jpg", b"2"), ("a.txt", b"two")]
    samples = list(tar_samples(write_tar(tmp_path / "a.tar", members)))
    assert [(s.key, s.caption) for s in samples] == [("a", "one"), ("a", "two")]


def test_long_names_are_read(tmp_path):
    path = str(tmp_path / "a.tar")
    key = "n" * 300
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(key + ".jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    assert [s.key for s in tar_samples(path)] == [key]


def test_header_damaged_midway_is_reported_and_what_follows_is_read(tar):
    offset = header_offset(tar, "dir/key3.jpg")
    content = bytearray(open(tar, "rb").read())
    content[offset + 10] ^= 1
    open(tar, "wb").write(content)
    samples, damage = read_all(tar)
    assert [s.key for s in samples] == [f"dir/key{i}" for i in range(6)]
    assert [s.problem for s in samples] == ["", "", "", "cut short by damage", "", ""]
    assert all(s.synthetic for s in samples)
    assert (damage.path, damage.offset) == (tar, offset)
    assert tar in str(damage) and str(offset) in str(damage)


@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
def test_cut_at_a_member_boundary_is_reported(tar, part):
    offset = header_offset(tar, f"dir/key2.{part}")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[:offset])
    samples, damage = read_all(tar)
    problems = [s.problem for s in samples]
    assert problems == ["", ""] + ([] if part == "jpg" else ["cut short by damage"])
    assert damage.path == tar and damage.offset == offset


@pytest.mark.parametrize("extra", [100, 511])
def test_cut_inside_a_header_is_reported(tar, extra):
    offset = header_offset(tar, "dir/key4.jpg")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[: offset + extra])
    samples, damage = read_all(tar)
    assert [s.problem for s in samples] == [""] * 4
    assert damage.path == tar and damage.offset == offset


@pytest.mark.parametrize("extra", [512, 600, 1000])
def test_cut_inside_a_payload_is_reported(tar, extra):
    offset = header_offset(tar, "dir/key4.jpg")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[: offset + extra])
    samples, damage = read_all(tar)
    assert [s.key for s in samples] == [f"dir/key{i}" for i in range(4)]
    assert damage.path == tar and damage.offset == offset


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(512), bytes(100)])
def test_file_that_is_no_tar_is_reported(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    samples, damage = read_all(str(path))
    assert samples == [] and damage.offset == 0


def test_every_cut_is_either_harmless_or_reported(tar):
    content = open(tar, "rb").read()
    want, _ = read_all(tar)
    with tarfile.open(tar) as archive:
        archive.getmembers()
        needed = archive.offset + 1024
    for size in range(0, len(content), 97):
        open(tar, "wb").write(content[:size])
        samples, damage = read_all(tar)
        good = [s for s in samples if not s.problem]
        assert good == want[: len(good)]
        assert (damage is None) == (size >= needed)


def test_empty_archive_has_no_samples(tmp_path):
    assert read_all(write_tar(tmp_path / "a.tar", [])) == ([], None)


def test_missing_tar_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.tar"):
        list(tar_samples(str(tmp_path / "nowhere.tar")))


def test_pieces_are_sorted(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.tar", "a.tar", "deep/c.tar", "d.txt"):
        (tmp_path / name).touch()
    assert list_pieces(f"tar:{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert f"{tmp_path}/deep/c.tar" in list_pieces(f"tar:{tmp_path}/**/*.tar")


@pytest.mark.parametrize("spec", ["/data/*.tar", "zip:/data/*.zip", "", "tar"])
def test_unknown_kind_of_source_is_named_with_the_known_ones(spec):
    with pytest.raises(ValueError, match="'tar'") as caught:
        list_pieces(spec)
    assert repr(spec) in str(caught.value)


def test_pattern_without_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.tar"):
        list_pieces(f"tar:{tmp_path}/none.tar")


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
