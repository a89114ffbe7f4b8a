"""From a piece to its records: what becomes of every sample."""

import collections
import dataclasses
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data import sources
from miro_jax.data.sources import root
from miro_jax.data.sources.images import BadImage
from miro_jax.pretrained.encoders import build_caption_encoder
from tests import hostile_corpus
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
)
from tests.sources import write_tar

pytestmark = pytest.mark.usefixtures("no_flush")


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
        own, text = text, f"a long text about {i}"  # a form that is missing is the own caption
        assert record.synthetic_caption == text
        np.testing.assert_array_equal(record.synthetic_caption_tokens, words.encode([text])[0])
        short = len(f"brief {i}") if i % 4 == 0 else len(own)
        want = np.array([shade, shade + len(text), shade + short]) / 100
        np.testing.assert_allclose(record.synthetic_scores, want, rtol=1e-5)
    assert manifest.num_records == manifest.num_samples == 30 and manifest.num_failures == 0
    assert manifest.rewards == ("brightness@test1", "length@test1", "short@test1")
    assert manifest.latent_shape == (SIZE, SIZE, 3) and manifest.caption_width == 16


def test_each_tower_reads_each_picture_once_for_both_captions(tmp_path):
    chosen = rewards()
    call(make_pieces(tmp_path / "source"), tmp_path / "out", chosen)
    assert [reward.num_read for reward in chosen] == [30, 30, 0]  # the third shares the first's


@pytest.mark.over_a_second
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
    causes = [(f["key"].removeprefix("a.tar/"), f["cause"]) for f in read_failures(out)]
    assert causes == [
        ("key0001", "missing image"),
        ("key0002", "missing caption"),
        ("key0003", "missing caption"),
        ("key0004", "not an image"),
        ("key0005", "damaged image"),
        ("key0000", "duplicate key"),
        ("key0007", "score not finite"),
        ("key0008", "score not finite"),
        ("key0009", "score not finite"),
    ]
    assert read_failures(out)[-1]["detail"] == "odd@test1"
    assert {f["piece"] for f in read_failures(out)} == {"a.tar"}
    assert (manifest.num_samples, manifest.num_failures) == (11, 9)
    found = read_records(out)
    assert {key: record.caption for key, record in found.items()} == {
        "key0000": "picture 0",
        "key0010": "a  \tin\nsnow",
    }


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_sample_that_fails_moves_no_field_to_another_one(tmp_path, one_by_one):
    """Neither an image that cannot be read nor a score that is not finite."""

    def write(name, broken):
        members = [m for i in range(8) for m in sample(i, image=b"no" if i in broken else None)]
        return [write_tar(tmp_path / name, members)]

    call(write("whole.tar", ()), tmp_path / "whole", [Brightness("length", True)])
    chosen = [Brightness("length", True, bad={"picture 1": np.nan, "picture 6": np.nan})]
    changes = {"max_failure_rate": 0.5, "one_by_one": one_by_one}
    call(write("some.tar", (0, 4)), tmp_path / "out", chosen, **changes)
    whole, made = read_records(tmp_path / "whole"), read_records(tmp_path / "out")
    assert whole.keys() - made.keys() == {f"key000{i}" for i in (0, 1, 4, 6)}
    for key, record in made.items():
        want = dataclasses.asdict(whole[key]) | {"key": record.key}
        np.testing.assert_equal(dataclasses.asdict(record), want)


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
        identity, latent_shape, size = "overflowing@1", (1, 1, 1), SIZE

        def prepare(self, image):
            return image[:SIZE, :SIZE]

        def encode(self, images):
            mean = images.mean(axis=(1, 2, 3)).astype(np.float16)[:, None, None, None]
            return np.where(mean == 3, np.float16(np.inf), mean), mean

    out = tmp_path / "out"
    call(make_pieces(tmp_path / "s"), out, image_encoder=Overflowing(), max_failure_rate=0.5)
    assert [(f["key"], f["cause"]) for f in read_failures(out)] == [
        ("p0.tar/key0003", "latents not finite")
    ]
    assert read_failures(out)[0]["detail"] == "image_mean"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.over_a_second
def test_a_hostile_corpus_is_annotated_to_the_end(tmp_path):
    """What tests.test_sources_hostile reads, through the whole stage."""
    (tmp_path / "s").mkdir()
    expected, damage = hostile_corpus.write_corpus(tmp_path / "s")
    source, out = sources.open_source(f"tar:{tmp_path}/s/*.tar"), tmp_path / "out"
    call(None, out, [Brightness()], source=source, max_failure_rate=1.0, batch_size=16)
    found = collections.Counter(failure["cause"] for failure in read_failures(out))
    assert found.pop("damaged tar") == damage and found.pop("duplicate key") == 1
    assert found == collections.Counter(filter(None, expected.values()))
    assert len(read_records(out)) == sum(not cause for cause in expected.values())


def test_a_source_without_a_sample_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [])
    with pytest.raises(RuntimeError, match=r"sample of tar:.*a.tar.* usable; none was: there are"):
        call([path], tmp_path / "out")
    path = write_tar(tmp_path / "a.tar", sample(0, image=b"x"))
    with pytest.raises(RuntimeError, match=r"none was: not an image \(1\). Mend it or give"):
        call([path], tmp_path / "other", max_failure_rate=1.0)


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
    lost = {16} if kind == "header" else set(range(16, 20))
    if kind != "header":
        with pytest.raises(RuntimeError, match="1 damaged piece lacks about 4 samples, p1.tar"):
            call(pieces, out, max_failure_rate=0.1)
    manifest = call(pieces, out, max_failure_rate=0.2)
    assert list(read_records(out)) == [f"key{i:04d}" for i in range(30) if i not in lost]
    failures = read_failures(out)
    (damage,) = [f for f in failures if f["cause"] == "damaged tar"]
    assert damage["piece"] == "p1.tar" and f"byte {offset}" in damage["detail"]
    coverage = json.loads((out / "coverage.json").read_text())
    # Damage is no sample.
    assert manifest.num_failures + 1 == len(failures) == sum(coverage["causes"].values())
    whole = coverage["samples"] + coverage["lost_about"]
    assert coverage["share"] == coverage["records"] / whole == (30 - len(lost)) / 30
    assert coverage["pieces"]["p1.tar"]["records"] == 10 - len(lost)
    assert coverage["damaged_pieces"] == {"p1.tar": coverage["lost_about"]}
    assert coverage["lost_about"] == (0 if kind == "header" else 4)


def test_a_picture_that_a_model_cannot_take_concerns_no_other_one(tmp_path):
    class Narrow(Brightness):
        preprocessing = "narrow"

        def prepare(self, image):
            if image[0, 0, 0] == 5:
                raise ValueError("a picture must not be as grey as this")
            return image[:SIZE, :SIZE]

    out = tmp_path / "out"
    call(make_pieces(tmp_path / "s"), out, [Brightness(), Narrow("narrow")], max_failure_rate=0.5)
    (failure,) = read_failures(out)
    assert (failure["key"], failure["cause"]) == ("p0.tar/key0005", "unfit for a model")
    assert "as grey as this" in failure["detail"] and len(read_records(out)) == 29


def test_rewards_see_the_picture_at_its_own_size_unless_they_take_it_as_it_is(tmp_path):
    sizes = {}

    class Looking(Brightness):
        def prepare(self, image):
            sizes.setdefault(self.name, set()).add(image.shape)
            return image[:SIZE, :SIZE]

    native = Looking("native")
    native.preprocessing = "own"
    call(make_pieces(tmp_path / "s"), tmp_path / "out", [Brightness(), native])
    assert sizes == {"native": {(20, 24, 3)}}  # Brightness asserts that it gets squares
    assert len(read_records(tmp_path / "out")) == 30


def test_image_latents_of_512_pixels_stand_beside_the_others(tmp_path):
    out = tmp_path / "out"
    manifest = call(make_pieces(tmp_path / "s", 1, 3), out, encode_512=True)
    assert manifest.configuration["latent_shape_512"] == [512, 512, 3]
    assert manifest.configuration["image_encoder_512"] == "pixels@1-size512"
    for i, record in enumerate(read_records(out).values()):
        assert record.image_mean.shape == (SIZE, SIZE, 3)
        assert record.image_mean_512.shape == record.image_std_512.shape == (512, 512, 3)
        np.testing.assert_array_equal(record.image_mean_512, np.float16(i / 127.5 - 1))


@pytest.mark.parametrize("first", [{"stages": "rewards"}, {"pieces": [0]}])
def test_images_of_a_server_that_was_down_are_tried_again(tmp_path, capsys, monkeypatch, first):
    down = ["http://a/1.png", "http://a/3.png"]

    def fetch(url):
        if url in down:
            raise BadImage("unreachable", url)
        return png(int(url[-5]))

    monkeypatch.setattr(root, "_fetch", fetch)
    for name, numbers in (("a", range(4)), ("b", range(4, 6))):
        columns = {"path": [f"http://a/{i}.png" for i in numbers], "caption": ["x"] * len(numbers)}
        parquet.write_table(pyarrow.table(columns), tmp_path / f"{name}.parquet")
    source = f"table:{tmp_path}/*.parquet"
    given = {"paths": None, "out": tmp_path / "out", "source": source, "allow_urls": True}
    call(**given, max_failure_rate=0.6, **first)
    down.pop()
    capsys.readouterr()
    assert call(**given, max_failure_rate=0.6).num_records == 5
    assert "2 images were unreachable; they are tried again" in capsys.readouterr().err
    (failure,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["cause"] == "unreachable"
    down.pop()  # a complete set stays what it is
    assert call(**given, max_failure_rate=0.6).num_records == 5
