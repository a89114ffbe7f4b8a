"""From a piece to its records: what becomes of every sample."""

import os
import tarfile

import numpy as np
import pytest

from miro_jax.encoders import build_caption_encoder
from tests.annotating import (
    SIZE,
    Brightness,
    call,
    contents,
    make_pieces,
    png,
    read_failures,
    read_records,
    rewards,
    sample,
    write_tar,
)


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """Waiting for a busy disk would make these tests slow; test_shards checks that we flush."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_every_sample_becomes_the_right_record(tmp_path):
    pieces = make_pieces(tmp_path / "source")
    chosen = rewards()
    manifest = call(pieces, tmp_path / "out", chosen)
    found = read_records(tmp_path / "out")
    assert list(found) == [f"key{i:04d}" for i in range(30)]
    words = build_caption_encoder("words", width=16, max_tokens=8)
    for i, record in enumerate(found.values()):
        text = f"picture {i}"
        assert (record.caption, record.width, record.height) == (text, 24, 20)
        np.testing.assert_array_equal(record.image_mean, np.float16(i / 127.5 - 1))
        np.testing.assert_array_equal(record.caption_tokens, words.encode([text])[0])
        shade, length = i / 255, len(text)
        np.testing.assert_allclose(
            record.scores, np.array([shade, shade + length, shade + length]) / 100, rtol=1e-5
        )
        if i % 2:
            assert record.synthetic_caption is None
            continue
        text = f"a long text about {i}"
        assert record.synthetic_caption == text
        np.testing.assert_array_equal(record.synthetic_caption_tokens, words.encode([text])[0])
        short = len(f"brief {i}") if i % 4 == 0 else len(text)
        want = np.array([shade, shade + len(text), shade + short]) / 100
        np.testing.assert_allclose(record.synthetic_scores, want, rtol=1e-5)
    assert manifest.num_records == manifest.num_samples == 30 and manifest.num_failures == 0
    assert manifest.rewards == ("brightness@test1", "length@test1", "short@test1")
    assert manifest.latent_shape == (SIZE, SIZE, 3) and manifest.caption_width == 16


def test_each_tower_reads_each_picture_once_for_both_captions(tmp_path):
    chosen = rewards()
    call(make_pieces(tmp_path / "source"), tmp_path / "out", chosen)
    assert [reward.num_read for reward in chosen] == [30, 30, 0]  # the third shares the first's


def test_batch_size_and_threads_do_not_change_a_byte(tmp_path):
    pieces = make_pieces(tmp_path / "source")
    call(pieces, tmp_path / "a", batch_size=1, num_threads=1)
    call(pieces, tmp_path / "b", batch_size=7, num_threads=8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_every_kind_of_bad_sample_is_listed_with_its_cause(tmp_path):
    members = [
        *sample(0),
        *sample(1, image=b""),
        *sample(2, caption=""),
        *sample(3, caption="  <PERSON> "),
        *sample(4, image=b"<html>"),
        *sample(5, image=png(5)[:60]),
        *sample(6, key="key0000"),
        *sample(7, caption="nan"),
        *sample(8, caption="inf"),
        *sample(9, caption="good", synthetic_caption="nan"),
        *sample(10, caption="a  <PERSON>\tin\nsnow"),
    ]
    odd = Brightness("odd", True, bad={"nan": np.nan, "inf": np.inf})
    out = tmp_path / "out"
    path = write_tar(tmp_path / "a.tar", members)
    manifest = call([path], out, [Brightness(), odd], max_failure_rate=0.9, batch_size=3)
    causes = [(f["key"], f["cause"]) for f in read_failures(out)]
    assert causes == [
        ("key0001", "missing image"),
        ("key0002", "missing caption"),
        ("key0003", "missing caption"),
        ("key0004", "not an image"),
        ("key0005", "damaged image"),
        ("key0000", "duplicate key"),
        ("key0007", "score not finite: odd@test1"),
        ("key0008", "score not finite: odd@test1"),
        ("key0009", "score not finite: odd@test1"),
    ]
    assert {f["piece"] for f in read_failures(out)} == {"a.tar"}
    assert (manifest.num_samples, manifest.num_failures) == (11, 9)
    found = read_records(out)
    assert {key: record.caption for key, record in found.items()} == {
        "key0000": "picture 0",
        "key0010": "a in snow",
    }


def test_nan_is_missing_only_where_the_reward_says_so(tmp_path):
    odd = Brightness("odd", True, bad={"nan": np.nan, "inf": np.inf})
    odd.may_be_missing = True
    path = write_tar(
        tmp_path / "a.tar", [*sample(0), *sample(1, caption="nan"), *sample(2, caption="inf")]
    )
    call([path], tmp_path / "out", [Brightness(), odd], max_failure_rate=0.5)
    found = read_records(tmp_path / "out")
    assert list(found) == ["key0000", "key0001"]
    assert np.isnan(found["key0001"].scores).tolist() == [False, True]


def test_numbers_of_an_encoder_that_are_not_finite_are_failures(tmp_path):
    class Overflowing:
        identity, latent_shape = "overflowing@1", (1, 1, 1)

        def encode(self, images):
            mean = images.mean(axis=(1, 2, 3)).astype(np.float16)[:, None, None, None]
            return np.where(mean == 3, np.float16(np.inf), mean), mean

    out = tmp_path / "out"
    call(make_pieces(tmp_path / "s"), out, image_encoder=Overflowing(), max_failure_rate=0.5)
    assert [(f["key"], f["cause"]) for f in read_failures(out)] == [
        ("key0003", "image_mean not finite")
    ]


@pytest.mark.parametrize("kind", ["header", "boundary", "payload"])
def test_readable_part_of_a_damaged_tar_is_annotated(tmp_path, kind):
    pieces = make_pieces(tmp_path / "source")
    with tarfile.open(pieces[1]) as archive:
        offset = archive.getmember("key0016.png").offset
    content = bytearray(open(pieces[1], "rb").read())
    if kind == "header":
        content[offset + 3] ^= 1
    else:
        del content[offset + (0 if kind == "boundary" else 530) :]
    open(pieces[1], "wb").write(content)
    out = tmp_path / "out"
    manifest = call(pieces, out, max_failure_rate=0.1)
    assert list(read_records(out)) == [f"key{i:04d}" for i in [*range(16), *range(20, 30)]]
    (failure,) = read_failures(out)
    assert failure["cause"] == "damaged tar"
    assert "p1.tar" in failure["detail"] and f"byte {offset}" in failure["detail"]
    assert manifest.num_failures == 1
