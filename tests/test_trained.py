"""A run's folder becomes a pipeline with its averaged weights."""

import jax
import numpy as np
import pytest

from configs import base as configs
from miro_jax.data.records.bins import fit_bins
from miro_jax.models import sharding
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import restore
from miro_jax.train import components
from miro_jax.train.checkpoint import Checkpoints


def random_state(parts, seed):
    """The run's state with random numbers in place of an initialisation, which would compile."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        values = np.asarray(rng.random(leaf.shape)).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, parts.abstract)


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
