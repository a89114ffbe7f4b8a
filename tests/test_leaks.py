"""Saves leave nothing behind in memory, and their files are what Orbax writes by itself."""

import gc
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.serialization import tensorstore_utils

from miro_jax.train import leaks
from miro_jax.train.checkpoint import Checkpoints

ARRAYS, SAVES = 30, 10
STATE = {"params": {f"a{i}": jnp.full((3,), float(i)) for i in range(ARRAYS)}}


def grown(folder):
    """Blocks of Python's memory that ten saves leave behind, after some that make what is kept."""
    with Checkpoints(folder) as checkpoints:
        for step in range(1, 2 * SAVES + 1):
            checkpoints.save(step, STATE, {})
            checkpoints.wait()
            if step == SAVES:
                gc.collect()
                before = sys.getallocatedblocks()
        gc.collect()
        return sys.getallocatedblocks() - before


@pytest.mark.over_a_second
def test_saves_leave_less_behind_than_what_orbax_asks_for(tmp_path, monkeypatch):
    """If the second number falls, too, this is no longer needed."""
    ours = grown(tmp_path / "ours")
    monkeypatch.setattr(tensorstore_utils, "ts", tensorstore_utils.ts._real)
    monkeypatch.setattr(leaks, "_TensorStore", type(tensorstore_utils.ts))  # nothing to replace
    theirs = grown(tmp_path / "theirs")
    assert theirs > 3 * SAVES * ARRAYS and ours < theirs / 2, (ours, theirs)


@pytest.fixture(autouse=True)
def replaced():
    leaks.without_leaks()
    assert isinstance(tensorstore_utils.ts, leaks._TensorStore)


def test_a_local_folder_is_its_own_json_and_all_else_is_tensorstores():
    real, ours = tensorstore_utils.ts._real, tensorstore_utils.ts
    given = {"driver": "file", "path": "/a/b/"}
    assert ours.KvStore.Spec(given).to_json() == real.KvStore.Spec(given).to_json() == given
    for other in ({"driver": "memory"}, {"driver": "file", "path": "/a/", "context": {}}):
        assert type(ours.KvStore.Spec(other)) is real.KvStore.Spec
    assert ours.Context is real.Context and ours.KvStore.open is real.KvStore.open


def test_what_is_saved_is_read_by_orbax_alone(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, STATE, {})
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        _, state, _ = checkpoints.restore_latest(STATE)
    for name, value in STATE["params"].items():
        np.testing.assert_array_equal(state["params"][name], value)
