"""Tar sources: every way in which an archive is damaged, and what is read all the same."""

import io
import random
import tarfile

import pytest

from tests.sources import members_of, read, read_all, write_tar


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "a.tar", [m for i in range(6) for m in members_of(i)])


def header_offset(path, name):
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


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


def test_header_damaged_midway_is_reported_and_what_follows_is_read(tar):
    offset = header_offset(tar, "dir/key3.jpg")
    content = bytearray(open(tar, "rb").read())
    content[offset + 10] ^= 1
    open(tar, "wb").write(content)
    samples, damage = read_all(tar)
    assert [s.key for s in samples] == [f"dir/key{i}" for i in range(6)]
    assert [s.problem for s in samples] == ["", "", "", "cut short by damage", "", ""]
    assert all(s.synthetic for s in samples)
    assert damage == offset


@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
def test_cut_at_a_member_boundary_is_reported(tar, part):
    offset = header_offset(tar, f"dir/key2.{part}")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[:offset])
    samples, damage = read_all(tar)
    problems = [s.problem for s in samples]
    assert problems == ["", ""] + ([] if part == "jpg" else ["cut short by damage"])
    assert damage == offset


@pytest.mark.parametrize("extra", [100, 511])
def test_cut_inside_a_header_is_reported(tar, extra):
    offset = header_offset(tar, "dir/key4.jpg")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[: offset + extra])
    samples, damage = read_all(tar)
    assert [s.problem for s in samples] == [""] * 4
    assert damage == offset


@pytest.mark.parametrize("extra", [512, 600, 1000])
def test_cut_inside_a_payload_is_reported(tar, extra):
    offset = header_offset(tar, "dir/key4.jpg")
    content = open(tar, "rb").read()
    open(tar, "wb").write(content[: offset + extra])
    samples, damage = read_all(tar)
    assert [s.key for s in samples] == [f"dir/key{i}" for i in range(4)]
    assert damage == offset


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(512), bytes(100)])
def test_file_that_is_no_tar_is_reported(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    samples, damage = read_all(str(path))
    assert samples == [] and damage == 0


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
    """The member before them may not be its own any more, so its sample is not used."""
    offset = header_offset(tar, "dir/key2.jpg")
    content = open(tar, "rb").read()
    junk = random.Random(0).randbytes(length)
    open(tar, "wb").write(content[:offset] + junk + content[offset:])
    places, others, good = damage_of(tar)
    assert places == [f"at byte {offset}"] and good == good_but(1)
    assert others == {"a.tar/dir/key1": "cut short by damage"}


@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
@pytest.mark.parametrize("kind", ["lost", "inserted"])
def test_a_member_never_has_the_bytes_of_another(tar, part, kind):
    """A block was lost or slipped in at the beginning of a member's content."""
    offset = header_offset(tar, f"dir/key2.{part}") + 512
    content = open(tar, "rb").read()
    other = header_offset(tar, f"dir/key1.{part}") + 512
    inserted = content[other : other + 512] if kind == "inserted" else b""
    rest = content[offset:] if kind == "inserted" else content[offset + 512 :]
    want = {sample.key: sample for sample in read(f"tar:{tar}")}
    open(tar, "wb").write(content[:offset] + inserted + rest)
    places, others, good = damage_of(tar)
    assert places and set(good) <= set(good_but(2)) and len(good) >= 4
    assert {s.key: s for s in read(f"tar:{tar}") if not s.problem} == {
        key: want[key] for key in good
    }


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


def test_parts_that_any_sample_far_from_damage_has_are_missed_beside_it(tmp_path):
    whole, without_json = members_of(0), members_of(1)[:2]
    tar = write_tar(tmp_path / "a.tar", [*whole, *without_json, *members_of(2), *members_of(3)])
    overwrite(tar, header_offset(tar, "dir/key2.json"), b"damage")
    assert damage_of(tar)[1] == {"a.tar/dir/key2": "cut short by damage"}


def test_long_names_in_solaris_headers_are_read(tmp_path):
    path, long = tmp_path / "a.tar", "ü" * 120
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in ((f"{long}.jpg", b"x" * 700), (f"{long}.txt", b"text")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 512):
        if data[at + 156 : at + 157] == b"x" and data[at + 257 : at + 262] == b"ustar":
            data[at + 156 : at + 157] = b"X"
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    (sample,) = read(f"tar:{path}")
    assert (sample.key, sample.caption) == (f"a.tar/{long}", "text")


def test_a_size_of_a_pax_header_stands_above_that_of_the_member(tmp_path):
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("a.jpg", b"x" * 700), ("a.txt", b"text"), ("b.jpg", b"y")):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"size": str(len(content))}
            archive.addfile(info, io.BytesIO(content))
    data = bytearray(open(path, "rb").read())
    for name in (b"a.jpg", b"a.txt"):  # as for files of over 8 GiB
        at = next(i for i in range(0, len(data), 512) if data[i : i + 5] == name)
        data[at + 124 : at + 136] = b"0" * 11 + b"\0"
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    open(path, "wb").write(data)
    first, second = read(f"tar:{path}")
    assert (first.image, first.caption, second.image) == (b"x" * 700, "text", b"y")
