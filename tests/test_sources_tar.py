"""Tar sources: samples, and every way in which a tar file is damaged."""

import io
import json
import random
import tarfile

import pytest

from miro_jax.sources import DamagedTar, fingerprint, open_source, tar_samples
from tests.sources import read, write_tar


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


def damage_of(tar):
    """Offsets of the damage that a source lists, and the other problems."""
    samples = read(f"tar:{tar}")
    places = [s.detail.split(":")[0] for s in samples if s.problem == "damaged tar"]
    others = {s.key: s.problem for s in samples if s.problem not in ("", "damaged tar")}
    return places, others, [s.key for s in samples if not s.problem]


def overwrite(tar, offset, data):
    with open(tar, "r+b") as file:
        file.seek(offset)
        file.write(data)


def good_but(*bad):
    return [f"a.tar/dir/key{i}" for i in range(6) if i not in bad]


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


@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
def test_a_flipped_bit_in_a_header_costs_one_sample(tar, part):
    offset = header_offset(tar, f"dir/key3.{part}")
    overwrite(tar, offset + 5, b"\xff")
    places, others, good = damage_of(tar)
    assert places == [f"at byte {offset}"]
    assert others == {"a.tar/dir/key3": "cut short by damage"}
    assert good == good_but(3)


def test_damage_at_the_first_sample_is_judged_by_a_later_one(tar):
    overwrite(tar, header_offset(tar, "dir/key0.json"), b"\xff")
    places, others, good = damage_of(tar)
    assert len(places) == 1
    assert others == {"a.tar/dir/key0": "cut short by damage"} and good == good_but(0)


def test_damage_beside_samples_that_lack_nothing_costs_none(tmp_path):
    members = [m for i in range(6) for m in members_of(i)]
    tar = write_tar(tmp_path / "a.tar", [*members[:9], ("README", b"x"), *members[9:]])
    offset = header_offset(tar, "README")
    overwrite(tar, offset, b"\xff")
    assert damage_of(tar) == ([f"at byte {offset}"], {}, good_but())


def test_a_block_of_zeros_in_the_middle_is_damage_and_not_the_end(tar):
    offset = header_offset(tar, "dir/key2.txt")
    overwrite(tar, offset, bytes(512))
    places, others, good = damage_of(tar)
    assert places == [f"at byte {offset}"]
    assert others == {"a.tar/dir/key2": "cut short by damage"} and good == good_but(2)


@pytest.mark.parametrize("length", [1, 100, 511, 512, 5000])
def test_bytes_that_slipped_in_shift_nothing(tar, length):
    offset = header_offset(tar, "dir/key2.jpg")
    content = open(tar, "rb").read()
    junk = random.Random(0).randbytes(length)
    open(tar, "wb").write(content[:offset] + junk + content[offset:])
    places, others, good = damage_of(tar)
    assert places == [f"at byte {offset}"] and others == {} and good == good_but()


@pytest.mark.parametrize("length", [1, 100, 512, 1024])
def test_bytes_that_fell_out_cost_the_samples_beside(tar, length):
    offset = header_offset(tar, "dir/key2.jpg")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[:offset] + content[offset + length :])
    places, others, good = damage_of(tar)
    assert places and set(good_but()) - set(good) <= {"a.tar/dir/key1", "a.tar/dir/key2"}
    assert set(good_but()) - set(good) <= set(others)


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"12x4\0"]
)
def test_a_member_that_claims_an_absurd_size_costs_one_sample(tar, size):
    offset = header_offset(tar, "dir/key3.jpg")
    block = bytearray(open(tar, "rb").read()[offset : offset + 512])
    block[124 : 124 + len(size)] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    overwrite(tar, offset, block)
    places, others, good = damage_of(tar)
    assert places == [f"at byte {offset}"]
    assert others == {"a.tar/dir/key3": "cut short by damage"} and good == good_but(3)


def test_two_archives_in_one_file_are_both_read(tar, tmp_path):
    other = write_tar(tmp_path / "b.tar", [(f"two/{n}", c) for n, c in members_of(9)])
    with open(tar, "ab") as file:
        file.write(open(other, "rb").read())
    places, others, good = damage_of(tar)
    assert len(places) == 1 and others == {} and good == [*good_but(), "a.tar/two/dir/key9"]


def test_any_single_damaged_block_is_survived(tar):
    """Whatever block is hit, at most two samples are lost or changed."""
    content = open(tar, "rb").read()
    want = {sample.key: sample for sample in read(f"tar:{tar}")}
    for offset in range(0, len(content) - 10240, 512):
        rng = random.Random(offset)
        open(tar, "wb").write(content[:offset] + rng.randbytes(512) + content[offset + 512 :])
        samples = read(f"tar:{tar}")
        good = {s.key: s for s in samples if not s.problem}
        changed = [key for key in want if key not in good or good[key] != want[key]]
        assert len(changed) <= 2
        assert set(good) <= set(want)


def test_random_damage_never_raises(tar):
    content = open(tar, "rb").read()
    for seed in range(200):
        rng = random.Random(seed)
        data = bytearray(content)
        for _ in range(rng.randrange(1, 40)):
            at = rng.randrange(len(data))
            if rng.random() < 0.2:
                del data[at : at + rng.randrange(1, 2000)]
            data[at : at + 1] = rng.randbytes(rng.choice((1, 1, 1, 12)))
        open(tar, "wb").write(data)
        for sample in read(f"tar:{tar}"):
            assert sample.problem or sample.image is not None


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
    (sample,) = tar_samples(path)
    assert sample.key == r"caf\xe9" and sample.key.encode("utf-8")


def special(kind, name, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]
)
def test_what_is_no_regular_file_is_no_picture(tmp_path, kind):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        for name, content in [("a.txt", b"text"), ("b.jpg", b"x"), ("b.txt", b"text")]:
            if name == "a.txt":
                archive.addfile(special(kind, "a.jpg", "/etc/passwd"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert [(s.key, s.problem) for s in read(f"tar:{path}")] == [
        ("a.tar/a", "missing image"),
        ("a.tar/b", ""),
    ]


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
