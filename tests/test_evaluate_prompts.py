"""Prompts of evaluators: of the shapes world, of files, of records."""

import numpy as np
import pytest

from miro_jax.data.records.manifest import Manifest
from miro_jax.data.records.record import Record
from miro_jax.data.records.shards import write_shard
from miro_jax.data.shapes import captions
from miro_jax.data.storage import open_folder
from miro_jax.evaluate import prompts
from miro_jax.evaluate.settings import Settings


def make_records(folder, sizes, caption=lambda index: f"caption {index}"):
    """A set of records whose captions name their position; shards of these sizes."""
    shards, index = {}, 0
    for number, size in enumerate(sizes):
        name = f"shard-{number:05d}.array_record"
        rows = range(index, index + size)
        write_shard(open_folder(folder), name, (make_record(i, caption(i)) for i in rows))
        shards[name], index = size, index + size
    configuration = {"source": {"kind": "tar"}, "rewards": []}
    configuration |= {"latent_shape": [2, 2, 3], "caption_width": 4}
    Manifest(configuration, shards, index, 0, {}).save(folder)
    return folder


def make_record(index, caption):
    image, tokens = np.zeros((2, 2, 3), np.float16), np.zeros((1, 4), np.float16)
    scores = np.zeros(1, np.float32)
    return Record(f"key{index}", caption, None, 2, 2, image, image, tokens, None, scores, None)


def make(settings, folder, is_shapes=False):
    return prompts.make_prompts(settings, is_shapes, folder, seed=0)


def test_captions_are_spread_evenly_over_all_shards_and_are_the_same_again(tmp_path):
    make_records(tmp_path, [5, 0, 7])
    assert prompts.read_captions(tmp_path, 4) == [f"caption {i}" for i in (0, 3, 6, 9)]
    assert prompts.read_captions(tmp_path, 100) == [f"caption {i}" for i in range(12)]


def test_empty_captions_are_dropped_and_none_at_all_is_an_error(tmp_path):
    make_records(tmp_path / "some", [4], lambda i: "" if i % 2 else f"caption {i}")
    assert prompts.read_captions(tmp_path / "some", 4) == ["caption 0", "caption 2"]
    make_records(tmp_path / "none", [4], lambda i: " ")
    with pytest.raises(ValueError, match="config.evaluate.prompts to a file"):
        prompts.read_captions(tmp_path / "none", 4)


def test_auto_is_captions_of_a_run_of_other_images_and_prompts_of_shapes_else(tmp_path):
    make_records(tmp_path, [3])
    found = make(Settings(images_per_level=5), tmp_path)
    assert found.texts == ["caption 0", "caption 1", "caption 2"]
    assert list(found.per_level) == [f"caption {i}" for i in (0, 1, 2, 0, 1)]
    assert found.source == "captions of 3 training records"
    world = make(Settings(prompts_per_category=2, images_per_level=3), tmp_path, is_shapes=True)
    assert list(world.categories) == ["single_object", "colors"] and len(world.texts) == 4
    assert all(captions.parse(text).objects for text in (*world.texts, *world.per_level))


def test_a_file_gives_its_first_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a fox\n\na bowl of ramen\na horse\n")
    found = make(Settings(prompts=str(path), max_prompts=2, images_per_level=2), tmp_path, True)
    assert found.texts == ["a fox", "a bowl of ramen"] == list(found.per_level)
    assert found.source == str(path)


def test_json_lines_give_prompts_and_their_other_keys_are_ignored(tmp_path):
    path = tmp_path / "geneval.jsonl"
    path.write_text('{"tag": "colors", "prompt": "a red cow"}\n')
    assert make(Settings(prompts=str(path), images_per_level=1), tmp_path).texts == ["a red cow"]


def test_a_prompt_with_its_own_targets_is_refused_before_any_device_is_used(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a fox", "targets": {"clip": 1}}\n')
    with pytest.raises(ValueError, match="must hold prompts alone.*'a fox'"):
        prompts.check(str(path), is_shapes=False)


def test_a_missing_file_and_shapes_for_other_images_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        prompts.check(str(tmp_path / "nothing.txt"), is_shapes=True)
    with pytest.raises(ValueError, match="'shapes' is for runs trained on the shapes world"):
        prompts.check("shapes", is_shapes=False)
    for source in ("auto", "captions"):
        prompts.check(source, is_shapes=False)


def test_the_identity_of_prompts_changes_with_any_of_them():
    first = prompts.Prompts("x", {"": ["a", "b"]}, ["a"]).to_json()
    assert first == prompts.Prompts("x", {"": ["a", "b"]}, ["a"]).to_json() and first["count"] == 2
    assert first["sha256"] != prompts.Prompts("x", {"": ["a", "c"]}, ["a"]).to_json()["sha256"]
