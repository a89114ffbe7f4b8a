"""The sampling stage: files, manifest and grid, without a network."""

import json

import numpy as np
import pytest
from PIL import Image

from configs import base as configs
from miro_jax import sample
from tests.painting import SAMPLING, Meter

NAMES = ("beauty", "count")


def write(folder, prompts=("A red circle!", "b"), targets=None, negative=None, names=NAMES):
    pipeline = Meter(names)
    paths = sample.write_images(
        pipeline, folder, list(prompts), 2, targets or {}, negative or {}, SAMPLING, 40
    )
    return pipeline, paths, json.loads((folder / "manifest.json").read_text())["images"]


def test_each_picture_is_a_file_named_after_its_prompt(tmp_path):
    _, paths, _ = write(tmp_path / "images", targets={"beauty": 0.6})
    assert [p.name for p in paths] == [
        "0000-a-red-circle-0.png",
        "0000-a-red-circle-1.png",
        "0001-b-0.png",
        "0001-b-1.png",
    ]
    picture = np.asarray(Image.open(paths[0]))
    assert picture.shape == (2, 8, 3) and set(picture[0].ravel()) == {153}  # 0.6 * 255


def test_the_manifest_says_how_to_make_each_picture_again(tmp_path):
    pipeline, paths, entries = write(
        tmp_path, targets={"beauty": 0.6}, negative={"count": None, "beauty": 0.1}
    )
    assert [e["file"] for e in entries] == [p.name for p in paths]
    assert entries[3] == {
        "file": "0001-b-1.png",
        "prompt": "b",
        "prompt_index": 1,
        "sample_index": 1,
        "seed": 7,
        "targets": {"beauty": 0.6, "count": 1.0},
        "negative_targets": {"beauty": 0.1, "count": None},
        "negative_prompt": "empty",
        "guidance_scale": 2.0,
        "solver": "euler",
        "num_steps": 3,
        "checkpoint_step": 40,
    }
    (call,) = pipeline.calls
    assert call["targets"] == {"beauty": 0.6}
    assert call["negative_targets"] == {"count": None, "beauty": 0.1}


def test_the_grid_shows_all_pictures(tmp_path):
    write(tmp_path)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.ndim == 3 and (grid < 160).all(axis=-1).any()


@pytest.mark.parametrize(
    "targets, text",
    [
        ({"a": 1.0, "b": 1.0}, "all rewards 1"),
        ({"a": 0.6, "b": None, "c": 1.0}, "a 0.6, b not asked, all others 1"),
        ({"a": 0.0}, "a 0"),
        ({}, "no rewards"),
    ],
)
def test_the_grid_names_the_targets_that_are_not_one(targets, text):
    assert sample._describe(targets) == text


def test_a_second_call_removes_what_the_first_one_listed_and_nothing_else(tmp_path):
    write(tmp_path, prompts=("first", "second"))
    (tmp_path / "mine.png").write_bytes(b"kept")
    _, paths, _ = write(tmp_path, prompts=("third",))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([*(p.name for p in paths), "grid.png", "manifest.json", "mine.png"])


def test_a_manifest_cannot_make_it_remove_files_elsewhere(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"kept")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"images": [{"file": "../outside.png"}]}))
    write(folder)
    assert outside.exists()


def test_a_network_without_rewards_can_be_sampled(tmp_path):
    def plain(prompts, num_images, **_):
        return np.zeros((len(prompts) * num_images, 8, 8, 3), np.uint8)

    plain.reward_names = ()
    sample.write_images(plain, tmp_path, ["a"], 1, {}, {}, SAMPLING, 1)
    assert json.loads((tmp_path / "manifest.json").read_text())["images"][0]["targets"] == {}


@pytest.mark.parametrize(
    "prompt, name",
    [("A  red, circle", "a-red-circle"), ("", "empty"), ("../../etc", "etc"), ("x" * 90, "x" * 40)],
)
def test_slugs_are_safe_file_names(prompt, name):
    assert sample.slug(prompt) == name


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("targets", "beauty", "config.sample.targets: .*NAME=LEVEL"),
        ("targets", "beuty=1", "config.sample.targets: unknown rewards .'beuty'.*beauty"),
        ("negative_targets", "count=high", "config.sample.negative_targets: .*number"),
        ("prompts", (), "config.sample.prompts must be a tuple"),
        ("images_per_prompt", 0, "config.sample.images_per_prompt"),
    ],
)
def test_bad_settings_name_their_key(key, value, said):
    config = configs.get_config("tiny")
    config.sample[key] = value
    with pytest.raises(ValueError, match=said):
        sample.validate(config)


def test_the_base_config_is_valid():
    sample.validate(configs.get_config(""))
