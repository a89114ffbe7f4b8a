"""The sampling stage and the folder it fills: files, manifest, grid, settings."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from configs import base as configs
from miro_jax import __version__, sample
from miro_jax.sample import draw, request, sheets
from miro_jax.sample.pipeline import NotFinite
from miro_jax.sample.verbs import Images, Sweep
from tests.sampling import NAMES, Dial, Killed, ask, fill, kill_at, write


def test_each_picture_is_a_file_named_after_its_prompt(tmp_path):
    paths, _ = write(tmp_path / "images", targets={"beauty": 0.6})
    assert [p.name for p in paths] == [
        "0000-a-red-circle-0.png",
        "0000-a-red-circle-1.png",
        "0001-b-0.png",
        "0001-b-1.png",
    ]
    positive, negative, scale = Dial().shown(Image.open(paths[0]))
    np.testing.assert_allclose(positive, [0.6, 1, 1])
    np.testing.assert_allclose(negative, [0, 0, 0])
    assert scale == 2


def test_many_pictures_are_numbered_with_as_many_digits_as_it_takes(tmp_path):
    paths, _ = write(tmp_path, prompts=["a"], num_images=11)
    assert [p.name for p in paths][:2] == ["0000-a-00.png", "0000-a-01.png"]
    assert [p.name for p in paths] == sorted(p.name for p in paths)


def test_the_manifest_says_how_to_make_each_picture_again(tmp_path):
    pipe = Dial()
    asked = {"targets": {"beauty": 0.6}, "negative_targets": {"count": None, "beauty": 0.1}}
    paths, manifest = write(tmp_path, pipe, guidance_interval=(0.1, 0.9), **asked)
    entries = manifest["images"]
    assert [e["file"] for e in entries] == [p.name for p in paths]
    assert entries[3] == {
        "file": "0001-b-1.png",
        "prompt": "b",
        "prompt_index": 1,
        "sample_index": 1,
        "seed": 7,
        "targets": {"beauty": 0.6, "count": 1.0, "colors": 1.0},
        "negative_targets": {"beauty": 0.1, "count": None, "colors": 0.0},
        "negative_prompt": "empty",
        "guidance_scale": 2.0,
        "guidance_interval": [0.1, 0.9],
        "solver": "euler",
        "num_steps": 3,
        "checkpoint": "dial sha256:d1a1",
        "checkpoint_step": 40,
        "checkpoint_parameters": 0,
    }
    for entry, path in zip(entries, paths, strict=True):
        np.testing.assert_array_equal(sample.remake(Dial(), entry), np.asarray(Image.open(path)))
    (call,) = pipe.calls
    assert call["guidance_interval"] == (0.1, 0.9) and call["num_steps"] == 3


def test_pictures_differ_in_their_noise_alone_and_have_their_own_seeds(tmp_path):
    prompts = [sample.Prompt("a"), sample.Prompt("a", seed=8), sample.Prompt("a", {"beauty": 0.5})]
    write(tmp_path, prompts=prompts, num_images=2)
    found = [np.asarray(Image.open(p)) for p in sorted(tmp_path.glob("0*.png"))]
    assert len({picture.tobytes() for picture in found}) == 6
    assert [Dial().shown(p)[0][0] for p in found[::2]] == [1.0, 1.0, pytest.approx(0.5, abs=0.01)]
    entries = json.loads((tmp_path / "manifest.json").read_text())["images"]
    assert [e["seed"] for e in entries] == [7, 7, 8, 8, 7, 7]


def test_levels_of_a_prompt_come_before_those_of_the_request_in_both_branches():
    prompt = sample.Prompt("a", {"beauty": 0.5}, {"count": 0.25, "beauty": None})
    of_all = {"beauty": 0.1, "count": 0.2}, {"count": 1.0, "colors": 0.75}
    asked = ask(prompts=[prompt, "b"], targets=of_all[0], negative_targets=of_all[1])
    first, *_, last = Images().sheet(asked).images
    assert first.targets == {"beauty": 0.5, "count": 0.2, "colors": 1.0}
    assert first.negative_targets == {"beauty": None, "count": 0.25, "colors": 0.75}
    assert last.targets == {"beauty": 0.1, "count": 0.2, "colors": 1.0}
    assert last.negative_targets == {"beauty": 0.0, "count": 1.0, "colors": 0.75}


def test_the_seed_of_a_prompt_decides_its_noise_whatever_its_batch():
    images = Images().sheet(ask(prompts=["a", sample.Prompt("b", seed=8)])).images
    together = draw.draw(Dial(), images)
    for pixels, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(draw.draw(Dial(), [image])[0], pixels)
    other = draw.draw(Dial(), [dataclasses.replace(images[2], seed=7)])[0]
    assert (other != together[2]).any()


def test_the_grid_shows_all_pictures(tmp_path):
    write(tmp_path)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.ndim == 3 and (grid < 160).all(axis=-1).any()


def test_a_grid_of_very_many_pictures_shows_the_first_and_says_so():
    sheet = Images().sheet(ask(prompts=["x"] * 500, num_images=4))
    assert len(sheet.images) == 2000 and len(sheet.on_grid) == 4 * sheets.MOST_LINES
    drawn = draw.draw_grid(sheet, np.zeros((len(sheet.on_grid), 8, 8, 3), np.uint8))
    assert drawn.shape[0] < sheets.MOST_LINES * 74 + 100
    assert sheet.labels()[1].endswith("; the first 32 of 500 prompts")
    wide = Sweep("beauty", levels=64).sheet(ask(prompts=["x"] * 500))
    assert len(wide.on_grid) == sheets.MOST_IMAGES
    one = Images().sheet(ask(prompts=["x"], num_images=300))
    assert len(one.on_grid) == 300


@pytest.mark.parametrize(
    "targets, text",
    [
        ({"a": 1.0, "b": 1.0}, "all rewards 1"),
        ({"a": 0.6, "b": None, "c": 1.0}, "a 0.6, b not requested, all others 1"),
        ({"a": 0.0}, "a 0"),
        ({}, "no rewards"),
    ],
)
def test_the_grid_names_the_targets_that_are_not_one(targets, text):
    assert sheets.describe_levels(targets) == text


def test_the_stage_removes_what_an_earlier_request_listed_and_nothing_else(tmp_path):
    write(tmp_path, prompts=("first", "second"))
    (tmp_path / "mine.png").write_bytes(b"kept")
    paths, _ = write(tmp_path, prompts=("third",))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([*(p.name for p in paths), "grid.png", "manifest.json", "mine.png"])


def test_the_stage_removes_what_a_killed_earlier_request_left(tmp_path, monkeypatch):
    kill_at(monkeypatch, 4)
    with pytest.raises(Killed):
        write(tmp_path, prompts=("first", "second"))
    monkeypatch.undo()
    assert any(tmp_path.glob("0000-first-*.png"))
    paths, _ = write(tmp_path, prompts=("third",))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([*(p.name for p in paths), "grid.png", "manifest.json"])


def test_a_manifest_cannot_make_it_remove_files_elsewhere(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"kept")
    inside = tmp_path / "images"
    inside.mkdir()
    listed = [{"file": "../outside.png"}, {"file": str(outside)}]
    (inside / "manifest.json").write_text(json.dumps({"images": listed}))
    write(inside)
    assert outside.exists()


def test_the_stage_ends_with_where_the_images_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample.stage, "restore", lambda *_: None)
    monkeypatch.setattr(sample.stage, "MiroPipeline", lambda *_: Dial())
    config = configs.get_config("tiny")
    with config.unlocked():
        config.rewards = config.data.train_rewards = NAMES
    sample.run(config, tmp_path)
    assert capsys.readouterr().out == f"images: {tmp_path / 'images'}\n"
    assert (tmp_path / "images" / "grid.png").is_file()


def test_several_processes_do_not_sample_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sample.stage.jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="--stage=sample is for one process, .*; got 2"):
        sample.run(configs.get_config("tiny"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_rewards_can_be_sampled(tmp_path):
    _, manifest = write(tmp_path, Dial(()))
    assert manifest["images"][0]["targets"] == {}


@pytest.mark.parametrize(
    "prompt, name",
    [
        ("A  red, circle", "a-red-circle"),
        ("", "empty"),
        ("חתול שחור", "other-letters"),
        ("../../etc", "etc"),
        ("x" * 90, "x" * 40),
    ],
)
def test_slugs_are_safe_file_names(prompt, name):
    assert request.slug(prompt) == name


# Settings.


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"solver": "rk4"}, "one of euler, heun, dpmpp_2m; got 'rk4'"),
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval must be"),
        ({"prompts": []}, "at least one prompt is needed; got none"),
        ({"num_images": 0}, "num_images must be at least 1; got 0"),
        ({"targets": {"beuty": 1}}, "Unknown reward 'beuty'; this model knows: beauty, count"),
        ({"negative_targets": {"count": "x"}}, "level of 'count' must be a number"),
        ({"prompts": [sample.Prompt("a", {"beuty": 1})]}, "Unknown reward 'beuty'"),
        ({"targets": {"beauty": 1.5}}, "level of 'beauty' must be .*got 1.5"),
        ({"prompts": [sample.Prompt("a", {"beauty": -1})]}, "level of 'beauty' must be .*got -1"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be finite; got inf"),
        ({"num_steps": 1.5}, "num_steps must be an integer; got 1.5"),
        ({"guidance_interval": (0, 0.5, 1)}, "guidance_interval must be"),
        ({"prompts": [sample.Prompt("a", seed=-1)]}, "seed must be in 0..4294967295; got -1"),
    ],
)
def test_bad_requests_are_named(changes, said):
    with pytest.raises(ValueError, match=said):
        ask(**changes)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("targets", "beauty", "config.sample.targets: .*NAME=LEVEL"),
        ("targets", "beuty=1", "config.sample.targets: Unknown reward 'beuty'; .*beauty"),
        ("negative_targets", "count=high", "config.sample.negative_targets: .*number"),
        ("targets", "beauty=1.5", "config.sample.targets: .*1 is best; got '1.5'"),
        ("guidance_scale", float("nan"), "config.sample.guidance_scale must be finite; got nan"),
        ("guidance_scale", 1e38, "config.sample.guidance_scale must be at most 1000"),
        ("num_steps", 0, "config.sample.num_steps must be at least 1; got 0"),
        ("seed", -1, "config.sample.seed must be in 0..4294967295; got -1"),
        ("prompts", (), "config.sample.prompts must be a tuple"),
        ("images_per_prompt", 0, "config.sample.images_per_prompt"),
    ],
)
def test_bad_settings_name_their_key(key, value, said):
    config = configs.get_config("tiny")
    config.sample[key] = value
    with pytest.raises(ValueError, match=said):
        sample.validate(config)


def test_the_base_config_is_valid_and_reaches_the_request():
    config = configs.get_config("")
    sample.validate(config)
    found = sample.stage.read_config(config)
    assert found.settings.num_steps == config.sample.num_steps
    assert found.settings.guidance_scale == config.sample.guidance_scale
    assert [p.text for p in found.prompts] == list(config.sample.prompts)


def test_rewards_are_named_with_or_without_their_version():
    asked = ask(names=("hpsv2@2.1", "redness"), targets={"hpsv2": 0.5, "mine.py:Redness": 0.25})
    assert asked.targets == {"hpsv2@2.1": 0.5, "redness": 0.25}
    assert request.find_reward("hpsv2@2.1", ("hpsv2",)) == "hpsv2"
    with pytest.raises(ValueError, match="Unknown reward 'hpsv2'; this model knows: hpsv2@2.1, hp"):
        request.find_reward("hpsv2", ("hpsv2@2.1", "hpsv2@2.0"))


def test_an_image_request_is_the_entry_of_the_manifest():
    image = Images().sheet(ask(guidance_interval=(0.1, 0.9))).images[3]
    entry = json.loads(json.dumps(image.to_entry()))
    assert request.ImageRequest.from_entry(entry) == image
    assert entry["guidance_interval"] == [0.1, 0.9] and "settings" not in entry


def test_every_image_of_a_manifest_has_a_file_and_a_prompt_and_other_files_stand_apart(tmp_path):
    _, manifest = write(tmp_path)
    assert sorted(manifest) == ["files", "images", "request", "sha256"]
    assert sorted(manifest["sha256"]) == sorted(p.name for p in tmp_path.glob("*.png"))
    files = [entry["file"] for entry in manifest["images"]]
    assert all(entry["prompt"] for entry in manifest["images"])
    assert manifest["files"] == ["grid.png"]
    assert {p.name for p in tmp_path.glob("*.png")} == {*files, *manifest["files"]}


def test_a_request_has_the_digest_that_earlier_versions_wrote():
    """Recorded from version 0.1: a folder begun then is resumed only while these are equal."""
    asked = sample.ask(NAMES, ["a", "b"], 5, 7)
    facts = asked.describe("images", Images().sheet(asked).images)
    assert facts == {
        "guidance_interval": (0.0, 1.0),
        "guidance_scale": 7.0,
        "images_per_prompt": 5,
        "miro_jax": __version__,
        "negative_prompt": "empty",
        "negative_targets": {},
        "num_steps": 50,
        "pictures_sha256": "9e59466ee71e1b92dff77c1500bd945317cefb3d82976d7975cc407316312b1e",
        "prompts": ["a", "b"],
        "seed": 7,
        "solver": "euler",
        "targets": {},
        "verb": "images",
    }


def test_latents_that_are_not_finite_stop_the_work_and_name_the_file(tmp_path):
    class Broken(Dial):
        def __call__(self, prompts, *arguments, **settings):
            if "b" in prompts:
                raise NotFinite("image 0 of prompt 2 has latents that are not finite", 2)
            return super().__call__(prompts, *arguments, **settings)

    with pytest.raises(FloatingPointError, match="0001-b-0.png of 'b' has latents that are not"):
        fill(tmp_path, Broken(), num_images=6)
    assert len(list(tmp_path.glob("0*.png"))) == 4  # the batch before it


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"guidance_scale": 1e38}, "guidance_scale must be at most 1000"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
        ({"targets": {"beauty": 1.5}}, "level of 'beauty' must be a number in"),
        ({"targets": {"beauty": "1"}}, "targets.beauty must be a number or null"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"solver": "rk4"}, "solver must be one of"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": None}, "seed must be an integer; got null"),
        ({"prompt": 5}, "prompt must be a string"),
        ({"guidance_interval": 5}, "guidance_interval must be"),
    ],
)
def test_an_entry_of_a_manifest_is_checked_as_all_requests_are(tmp_path, changes, said):
    _, manifest = write(tmp_path)
    entry = manifest["images"][0]
    with pytest.raises(ValueError, match=said):
        sample.remake(Dial(), entry | changes)
    with pytest.raises(ValueError, match="the entry of an image: prompt is missing"):
        sample.remake(Dial(), {key: value for key, value in entry.items() if key != "prompt"})
