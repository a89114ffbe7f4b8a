"""Many saves: a killed one is whole or not there, and none leaves anything in memory."""

import gc
import logging
import multiprocessing
import time

import numpy as np
import pytest

from miro_jax.train.checkpoint import Checkpoints
from tests.states import DATA, abstract, assert_same, make


@pytest.mark.slow
def test_saving_leaks_nothing(tmp_path, monkeypatch):
    """Orbax would keep 48 objects of each save; a run of a day saves hundreds of times."""
    counts = []
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest keeps records
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 16):
            checkpoints.save(step, make(step), DATA)
            checkpoints.wait()
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[14] - counts[4] < 100, counts


KILL_SIZE = 20_000  # rows: a state of about 2 MB


def save_until_killed(folder):
    """Go on from the latest checkpoint, saving every step; the child process of the next test."""
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_latest(abstract(make(0, size=KILL_SIZE)))
        first = 0 if found is None else found[0]
        for step in range(first + 1, first + 1000):
            checkpoints.save(step, make(step, size=KILL_SIZE), DATA | {"position": step})


@pytest.mark.slow
def test_a_killed_run_goes_on_from_a_whole_checkpoint(tmp_path):
    """SIGKILL at 20 random moments while saving: the content is exact, steps never go back."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_checkpoint_kills"])  # children start warm
    rng = np.random.default_rng()  # the moment is not reproducible anyway
    reached = 0
    for _ in range(20):
        child = context.Process(target=save_until_killed, args=(tmp_path,))
        child.start()
        deadline = time.monotonic() + 180
        while not (tmp_path / str(reached + 1) / "commit_success.txt").exists():
            assert child.is_alive() and time.monotonic() < deadline, "no checkpoint in 180 seconds"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        child.kill()
        child.join()
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            step, state, data_state = checkpoints.restore_latest(abstract(make(0, size=KILL_SIZE)))
        assert step > reached and data_state["position"] == step
        assert_same(state, make(step, size=KILL_SIZE))
        reached = step
    assert not list(tmp_path.glob("unusable-*"))
