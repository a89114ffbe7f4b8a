"""A run's folder becomes a pipeline with its averaged weights."""

import jax
import numpy as np
import pytest

from configs import base as configs
from miro_jax import runs, sharding
from miro_jax.checkpoint import Checkpoints
from miro_jax.trained import load_pipeline


def random_state(parts, seed):
    """The run's state with random numbers in place of an initialisation, which would compile."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        values = np.asarray(rng.random(leaf.shape)).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, parts.abstract)


def test_averaged_weights_and_the_buffers_are_restored(monkeypatch, tmp_path):
    config = configs.get_config("tiny")
    parts = runs.build_parts(config)
    monkeypatch.setattr(runs, "build_parts", lambda _: parts)  # building takes seconds
    with sharding.use_mesh(parts.mesh), Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = random_state(parts, seed=0)
        checkpoints.save(20, state, {})
    config.sample.batch_size = 12
    with pytest.raises(ValueError, match="config.sample.batch_size must be a multiple of the 8"):
        load_pipeline(config, tmp_path, "sample.batch_size")
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    pipeline, step = load_pipeline(config, tmp_path, "evaluate.batch_size")
    assert step == 20
    for restored, saved in ((pipeline.params, state.ema_params), (pipeline.buffers, state.buffers)):
        jax.tree.map(np.testing.assert_array_equal, restored, saved)
    assert pipeline.reward_names == config.data.train_rewards
    assert pipeline.batch_size == config.evaluate.batch_size
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before


def test_a_folder_without_checkpoints_says_who_writes_them(tmp_path):
    config = configs.get_config("tiny")
    with pytest.raises(FileNotFoundError, match="checkpoints is missing; a training run"):
        load_pipeline(config, tmp_path, "sample.batch_size")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; the train stage"):
        load_pipeline(config, tmp_path, "sample.batch_size")
