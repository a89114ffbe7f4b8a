"""Shards of the shapes world: reproducible, resumable, as many wrong captions as asked."""

import io
import json
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.shapes import captions, world
from miro_jax.data.shapes import scene as scenes

ROOT = pathlib.Path(__file__).parent.parent


def members(paths):
    found = {}
    for path in paths:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    return found


def test_a_rerun_gives_the_same_bytes(tmp_path):
    first = world.write_shards(tmp_path / "a", 25, images_per_shard=10, seed=4)
    second = world.write_shards(tmp_path / "b", 25, images_per_shard=10, seed=4)
    assert [p.name for p in first] == [f"shapes-0000{i}.tar" for i in range(3)]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    other = world.write_shards(tmp_path / "c", 25, images_per_shard=10, seed=5)
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(first, other, strict=True))


def test_a_sample_depends_on_the_seed_and_its_number_only(tmp_path):
    few = members(world.write_shards(tmp_path / "a", 12, images_per_shard=4, seed=1))
    many = members(world.write_shards(tmp_path / "b", 20, images_per_shard=20, seed=1))
    assert len(few) == 36 and all(many[name] == payload for name, payload in few.items())


def test_samples_of_different_numbers_and_seeds_differ():
    drawn = [world.make_sample(seed, i).image.tobytes() for seed in (1, 2) for i in range(20)]
    assert len(set(drawn)) == 40


def test_members_are_what_a_crawl_would_leave(tmp_path):
    found = members(world.write_shards(tmp_path, 8, size=64, seed=2))
    for index in range(8):
        key = f"{index:08d}"
        sample = world.make_sample(2, index, size=64)
        pixels = np.asarray(Image.open(io.BytesIO(found[f"{key}.png"])))
        np.testing.assert_array_equal(pixels, sample.image)
        assert found[f"{key}.txt"].decode() == sample.caption
        facts = json.loads(found[f"{key}.json"])
        assert (facts["width"], facts["height"]) == (64, 64)
        assert facts["synthetic_caption"] == sample.synthetic_caption
        assert facts["synthetic_caption_short"] == sample.synthetic_caption_short
        assert facts["caption_is_wrong"] == sample.caption_is_wrong
        assert facts["scene"]["glow"] == sample.scene.glow


def test_jpeg_shards_hold_nearly_the_same_pixels(tmp_path):
    found = members(world.write_shards(tmp_path, 4, seed=2, image_format="jpg"))
    for index in range(4):
        image = Image.open(io.BytesIO(found[f"{index:08d}.jpg"]))
        assert image.format == "JPEG"
        true = world.make_sample(2, index).image.astype(float)
        assert np.abs(np.asarray(image) - true).mean() < 4


def test_an_interrupted_call_is_continued(tmp_path):
    paths = world.write_shards(tmp_path, 30, images_per_shard=10)
    whole = [p.read_bytes() for p in paths]
    kept = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    (tmp_path / f"shapes-00001.tar.tmp-{'0' * 32}").write_bytes(b"half a shard")
    assert world.write_shards(tmp_path, 30, images_per_shard=10) == paths
    assert [p.read_bytes() for p in paths] == whole
    assert paths[0].stat().st_mtime_ns == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(p.name for p in paths), "world.json"]


@pytest.mark.over_a_second
def test_several_processes_may_make_the_shards_at_once(tmp_path):
    """As the workers of an array do that annotate the shapes world."""
    code = (
        "import sys; from miro_jax.data.shapes import world;"
        "world.write_shards(sys.argv[1], 200, images_per_shard=5)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "together"], cwd=ROOT)
        for _ in range(3)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    paths = world.write_shards(tmp_path / "alone", 200, images_per_shard=5)
    for path in [*paths, tmp_path / "alone" / "world.json"]:
        assert (tmp_path / "together" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "together").iterdir())) == len(paths) + 1


def test_shards_of_other_arguments_are_not_mixed(tmp_path):
    world.write_shards(tmp_path, 4, seed=1)
    with pytest.raises(ValueError, match="num_images is 4 there, 5 here; seed is 1 there, 2 here"):
        world.write_shards(tmp_path, 5, seed=2)
    (tmp_path / "world.json").unlink()
    with pytest.raises(ValueError, match="no world.json"):
        world.write_shards(tmp_path, 4, seed=1)


@pytest.mark.over_a_second
def test_captions_are_wrong_as_often_as_asked_and_more_often_where_it_glows():
    samples = [world.make_sample(3, i, size=16) for i in range(1500)]
    glow = np.array([s.scene.glow for s in samples])
    wrong = np.array([s.caption_is_wrong for s in samples])
    for sample in samples[:300]:
        request = captions.parse(sample.caption)
        assert captions.holds(request, sample.scene.objects) != sample.caption_is_wrong
        request = captions.parse(sample.synthetic_caption_short)
        assert captions.holds(request, sample.scene.objects) != sample.synthetic_is_wrong
    assert wrong.mean() == pytest.approx(0.3, abs=0.04)
    assert wrong[glow < 0.25].mean() == pytest.approx(0.3 * 0.475, abs=0.06)
    assert wrong[glow > 0.75].mean() == pytest.approx(0.3 * 1.525, abs=0.06)
    assert np.mean([s.synthetic_is_wrong for s in samples]) == pytest.approx(0.05, abs=0.02)
    assert not any(world.make_sample(3, i, 16, None, 0.0).caption_is_wrong for i in range(100))


def test_categories_come_by_their_weights():
    weights = {"counting": 3.0, "colors": 1.0, "position": 0.0}
    drawn = [world.make_sample(0, i, 16, weights).scene.category for i in range(400)]
    assert set(drawn) == {"counting", "colors"}
    assert np.mean([c == "counting" for c in drawn]) == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("category", scenes.CATEGORIES)
def test_prompts_ask_for_their_category(category):
    asked = world.prompts(category, 30, seed=1)
    assert asked == world.prompts(category, 40, seed=1)[:30]
    assert asked != world.prompts(category, 30, seed=2)
    for text, request in asked:
        assert request == captions.parse(text) and request.objects
        assert bool(request.relations) == (category == "position")
        assert (request.objects[0].color is not None) == (category in ("colors", "color_attr"))
        assert (request.objects[0].count > 1) == (category == "counting")


@pytest.mark.parametrize("size", [32, 64])
def test_the_verdict_agrees_with_the_truth(size):
    right, total = 0, 0
    for index in range(80):
        sample = world.make_sample(9, index, size)
        rng = np.random.default_rng(index)
        texts = captions.long_caption(sample.scene), captions.wrong_caption(sample.scene, rng)
        fits, fits_not = world.check_all(np.stack([sample.image] * 2), texts)
        right += fits + (not fits_not)
        total += 2
    assert right / total >= 0.98


def test_the_verdict_on_nothing_is_no():
    blank, image = np.full((32, 32, 3), 128, np.uint8), world.make_sample(0, 0, 32).image
    texts = ["a circle", "", "\U0001f600" * 500]
    assert world.check_all(np.stack([blank, image, image]), texts) == [False] * 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_images": 0}, "at least 1; got 0 and 1000"),
        ({"size": 8}, "size must be at least 16.*got 8"),
        ({"image_format": "gif"}, "png, jpg; got 'gif'"),
        ({"wrong_caption_fraction": 0.7}, r"in \[0, 0.5\]; got 0.7"),
        ({"categories": {"color": 1.0}}, "single_object.*got 'color'"),
        ({"categories": {"colors": -1.0}}, "colors must be finite and not negative; got -1"),
        ({"categories": {"colors": 0.0}}, "positive weight"),
        ({"seed": -1}, "seed must not be negative; got -1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        world.write_shards(tmp_path / "new", **{"num_images": 1, **changes})
    assert not (tmp_path / "new").exists()
