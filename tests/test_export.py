"""Export: a run becomes a folder that `MiroPipeline.from_pretrained` loads with its encoders."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from configs import base as configs
from miro_jax.models import sharding
from miro_jax.pretrained.weights.official import FIXED
from miro_jax.sample import export, model_card, trained
from miro_jax.train import components
from miro_jax.train.checkpoint import Checkpoints
from tests.networks import paths


def make_config(**changes):
    config = configs.get_config("tiny").copy_and_resolve_references()
    with config.unlocked():
        config.model.rin.update(changes)
        config.data.train_rewards = ("beauty", "count")
    return config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with one checkpoint of random weights."""
    config = make_config(**FIXED)
    parts = components.build_components(config)
    monkeypatch.setattr(components, "build_components", lambda _: parts)  # building takes seconds
    rng = np.random.default_rng(0)

    def fill(leaf):
        values = np.asarray(rng.random(leaf.shape)).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    folder = tmp_path / "run"
    with sharding.use_mesh(parts.mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(20, jax.tree.map(fill, parts.abstract), {})
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.mark.slow
def test_an_exported_run_loads_with_the_same_weights_and_encoders(run, tmp_path, capsys):
    assert export.main([f"--workdir={run}", f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "uncond_embedding.npy"]
    assert 'MiroPipeline.from_pretrained("out")' in (tmp_path / "out" / "README.md").read_text()
    before, after = (trained.load(folder) for folder in (run, tmp_path / "out"))
    expected, found = (paths(nnx.merge_state(*side.weights)) for side in (before, after))
    assert found.keys() == expected.keys() and len(found) > 50
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    assert after.reward_names == before.reward_names == ("beauty", "count")
    for kind in ("image_encoder", "caption_encoder"):
        assert getattr(after, kind).identity == getattr(before, kind).identity
    np.testing.assert_array_equal(after.empty_tokens, before.caption_encoder.encode([""])[0])
    assert after.config == dataclasses.replace(
        before.config, table_std=after.config.table_std, remat=False
    )


def test_a_network_that_the_layout_cannot_hold_is_refused_unread(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(make_config().to_json())
    assert export.main([f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "config.model.rin.condition_heads must be 16; got 2" in err


def test_a_folder_that_cannot_be_written_is_refused_before_the_weights_are_read(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "file"
    (run / "checkpoints").mkdir(parents=True)
    text = make_config(**FIXED).to_json()
    (run / "config.json").write_text(text)
    file.touch()
    for out, said in (
        (run, "--out must be a folder of its own: a run's config.json would be replaced; got"),
        (file, "must be a folder; it is a file"),
        ("gs://bucket/mine", "--out must be a folder of this machine; got gs://bucket/mine"),
        ("", "A folder must have a name"),
    ):
        assert export.main([f"--workdir={run}", f"--out={out}"]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert (run / "config.json").read_text() == text


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_no_run_is_named(tmp_path, capsys, there):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"network": {}}))
    assert export.main([f"--workdir={folder}", "--out=out"]) == 2
    assert f"--workdir must be a run's folder with checkpoints; got {folder}" in (
        capsys.readouterr().err
    )
    with pytest.raises(FileNotFoundError, match="must be a run's folder with checkpoints; got"):
        export.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_files_that_no_export_wrote_are_not_replaced(tmp_path, capsys, name):
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(make_config(**FIXED).to_json())
    out.mkdir()
    (out / name).write_text("mine")
    assert export.main([f"--workdir={run}", f"--out={out}"]) == 2
    err = capsys.readouterr().err
    assert f"{out / name} would be replaced, and this command did not write it" in err
    assert err.count("\n") == 1 and (out / name).read_text() == "mine"


@pytest.mark.parametrize("licence", [None, "mit"])
def test_the_folder_of_an_earlier_export_may_be_written_again(tmp_path, licence):
    card = model_card.write_card(tmp_path, make_config().to_dict(), 20, licence=licence)
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "model.safetensors").write_text("")
    assert export.check_out(tmp_path) == tmp_path
