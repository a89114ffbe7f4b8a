"""A run's folder becomes a pipeline with its averaged weights."""

import json

import jax
import numpy as np
import pytest

from configs import base as configs
from miro_jax.data.records.bins import fit_bins
from miro_jax.models import sharding
from miro_jax.pretrained.weights import hub, tensors
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import load, peek, restore
from miro_jax.train import components
from miro_jax.train.checkpoint import Checkpoints
from tests.sampling import save_tiny


def random_state(parts, seed):
    """The run's state with random numbers in place of an initialisation, which would compile."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        values = np.asarray(rng.random(leaf.shape)).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, parts.abstract)


@pytest.mark.slow
def test_averaged_weights_and_the_buffers_are_restored(monkeypatch, tmp_path):
    config = configs.get_config("tiny")
    parts = components.build_components(config)
    scores = np.random.default_rng(1).random((50, len(config.rewards)))
    bins = fit_bins(scores, config.rewards, 8, manifest_digest="of training")
    monkeypatch.setattr(components, "build_components", lambda _: parts)  # building takes seconds
    with sharding.use_mesh(parts.mesh), Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = random_state(parts, seed=0)
        checkpoints.save(20, state, components.describe_training(config, bins))
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    trained = restore(config, tmp_path)
    assert trained.step == 20
    for restored, saved in zip(trained.weights, (state.ema_params, state.buffers), strict=True):
        jax.tree.map(np.testing.assert_array_equal, restored, saved)
    assert trained.reward_names == config.data.train_rewards
    assert trained.bins.to_bytes() == bins.to_bytes()  # bit by bit
    with pytest.raises(ValueError, match="batch_size must be a positive multiple of the 8"):
        MiroPipeline(trained, 12)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before


def test_checkpoints_of_early_versions_keep_no_levels():
    assert components.stored_bins({"train_rewards": ["beauty"]}) is None


def test_a_folder_without_checkpoints_says_who_writes_them(tmp_path):
    config = configs.get_config("tiny")
    with pytest.raises(FileNotFoundError, match="checkpoints is missing; a training run"):
        restore(config, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; the train stage"):
        restore(config, tmp_path)


@pytest.mark.parametrize(
    "source, said",
    [
        ("runs/bas", "there is no folder runs/bas; did you mean runs/base"),
        ("run/base", "there is no folder run/base; did you mean runs/base"),
        ("runs/another", r"there is no folder runs/another\. A hub id reads owner/name"),
        ("runs/emptys", r"there is no folder runs/emptys\. A hub"),  # runs/empty is no checkpoint
        ("runs/relased", "there is no folder runs/relased; did you mean runs/released"),
        ("./owner/name", "there is no folder ./owner/name"),
        ("../owner/name", "there is no folder"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("~/nowhere", "there is no folder ~/nowhere"),
        ("base", "there is no folder base"),
    ],
)
def test_a_mistyped_folder_is_not_taken_for_a_hub_id(monkeypatch, tmp_path, source, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.Repository, "_find", lambda *_: 1 / 0)  # nothing is looked for
    for name in ("base/checkpoints", "colors/checkpoints", "empty", "released"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs/released/config.json").write_text("{}")
    for look in (peek, load):
        with pytest.raises(FileNotFoundError, match=said):
            look(source)


def test_an_empty_text_is_not_the_folder_that_one_is_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for look in (peek, load):
        with pytest.raises(ValueError, match="a hub id; got an empty text"):
            look("")


def test_a_folder_beside_a_run_names_the_run(tmp_path):
    (tmp_path / "runs/base/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/base/config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, said in (
        ("runs", "it holds .*runs/base. Give .*runs/base"),
        ("runs/base/checkpoints", "it is part of .*runs/base. Give .*runs/base"),
        ("runs/base/config.json", "it is part of .*runs/base. Give .*runs/base"),
        ("empty", "with config.json; it has neither"),
    ):
        for look in (peek, load):
            with pytest.raises(FileNotFoundError, match=said):
                look(tmp_path / path)


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize(
    "text",
    ["", "null", "5", "[5]", "[" * 100_000, "{", "{}", '{"data": 5}', '{"network": []}']
    + ['{"network": {"coherence_keys": 5}}', '{"network": {}, "coherence_keys": [[]]}']
    + ['{"data": {"train_rewards": "all"}, "sample": {}}', '{"data": {}, "sample": {"x": NaN}}'],
)
def test_a_config_that_is_none_is_named_and_nothing_is_read(monkeypatch, tmp_path, run, text):
    monkeypatch.setattr("miro_jax.sample.trained.restore", lambda *_: 1 / 0)
    if run:
        (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(text)
    for look in (peek, load):
        with pytest.raises(ValueError, match="config.json") as refused:
            look(tmp_path)
        assert "\n" not in str(refused.value)


def test_offline_a_hub_id_names_both_possibilities(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "1")
    (tmp_path / "runs/base/checkpoints").mkdir(parents=True)
    with pytest.raises(hub.OfflineError, match="no folder owner/name; as a hub id: .*fetched"):
        peek("owner/name")


def test_the_home_of_the_user_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="~/mine must be a run .*or a folder in the released"):
        peek("~/mine")


@pytest.mark.over_a_second
def test_weights_in_several_files_are_named_by_all_of_them(tmp_path):
    folder = save_tiny(tmp_path / "tiny")
    whole = folder / "model.safetensors"
    arrays = {key: tensor.read() for key, tensor in tensors.open_safetensors(whole).items()}
    whole.unlink()
    names = {key: f"{n % 2}.safetensors" for n, key in enumerate(arrays)}
    index = json.dumps({"weight_map": names})
    (folder / "model.safetensors.index.json").write_text(index)

    def name(arrays):
        for file in set(names.values()):
            own = {key: array for key, array in arrays.items() if names[key] == file}
            tensors.write_safetensors(folder / file, own)
        return load(folder).name

    before = name(arrays)
    key = next(key for key in arrays if "latents" in key)
    assert name(arrays | {key: arrays[key] + 1}) != before
    assert name(arrays) == before


@pytest.mark.over_a_second
def test_a_batch_size_of_zero_is_none(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be a positive multiple .*; got 0"):
        MiroPipeline.from_pretrained(save_tiny(tmp_path / "tiny"), batch_size=0)


@pytest.mark.over_a_second
def test_other_weights_reach_the_encoders_that_a_release_names(tmp_path):
    folder, weights = save_tiny(tmp_path / "tiny"), tmp_path / "t5"
    weights.mkdir()
    config = json.loads((folder / "config.json").read_text())
    config["miro_jax"]["encoders"]["caption"] = {"name": "flan_t5", "width": 16, "max_tokens": 8}
    (folder / "config.json").write_text(json.dumps(config))
    assert str(load(folder, text_encoder=str(weights)).caption_encoder.repository) == str(weights)
    with pytest.raises(ValueError, match="vae must be given for an encoder with weights.*'pixels'"):
        load(folder, vae=str(weights))


@pytest.mark.parametrize("name", ["text_encoder", "vae", "revision"])
def test_what_is_of_releases_alone_is_refused_for_a_run(tmp_path, name):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(configs.get_config("tiny").to_json())
    with pytest.raises(ValueError, match=f"{name} must be given for a release alone.*got 'other'"):
        load(tmp_path, **{name: "other"})


def test_a_step_is_refused_for_a_release(tmp_path):
    with pytest.raises(ValueError, match="only runs have checkpoints by step.*got 3"):
        load(save_tiny(tmp_path / "tiny"), step=3)
