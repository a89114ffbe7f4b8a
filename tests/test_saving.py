"""When a run is saved by time, which checkpoints are kept, and what --resume refuses."""

import math
import time

import jax.numpy as jnp
import pytest

from miro_jax.cli import run_folder
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.saving import AUTO, Keep, SaveClock, best_interval
from tests import training
from tests.states import DATA, make


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("failures, cost", [(14_400, 1.0), (3_600, 0.5), (86_400, 3.0)])
def test_the_interval_is_where_saves_and_lost_work_cost_least(failures, cost):
    def lost(interval):
        return cost / interval + interval / (2 * failures)

    best = best_interval(failures, cost)
    assert best == pytest.approx(math.sqrt(2 * failures * cost))
    assert all(lost(best) < lost(factor * best) for factor in (0.5, 0.9, 1.1, 2.0))


@pytest.mark.parametrize("cost", [0.0, 0.01, 1.0, 10.0, 100.0])
def test_saves_take_at_most_a_hundredth_of_the_default_interval_and_come_once_a_minute(cost):
    interval = best_interval(600.0, cost)
    assert cost <= 0.01 * interval and interval >= 60


def test_a_save_is_due_by_the_cost_of_the_last_one():
    clock = Clock()
    saves = SaveClock(AUTO, 14_400.0, clock)
    clock.now += 50  # of compilation
    saves.start()
    clock.now += 59.9
    assert not saves.is_due()
    clock.now += 0.2
    assert saves.is_due()
    text = saves.saved(2.0)
    assert text.startswith("held training up for 2.00 s, 3.3% of the time since the last; the next")
    assert "due in 240 s: sqrt(2 x 14400 s between failures x 2.00 s)" in text
    assert not saves.is_due()
    clock.now += 239.9
    assert not saves.is_due()
    clock.now += 0.2
    assert saves.is_due()


@pytest.mark.parametrize("every, due", [(30.0, True), (0.0, False)])
def test_seconds_that_are_given_are_taken_and_zero_is_never(every, due):
    clock = Clock()
    saves = SaveClock(every, 14_400.0, clock)
    clock.now += 30 if due else 1e9
    assert saves.is_due() == due
    assert saves.saved(2.0).endswith("of the time since the last")


@pytest.mark.parametrize(
    "keep, kept",
    [
        (Keep(1), {7}),
        (Keep(3), {5, 6, 7}),
        (Keep(1, every_steps=3), {3, 6, 7}),
        (Keep(2, best="reward/beauty"), {2, 6, 7}),
        (Keep(1, best="-reward/beauty"), {4, 7}),
    ],
)
def test_what_any_rule_wants_is_kept(keep, kept):
    beauty = {1: 0.5, 2: 0.9, 3: 0.5, 4: 0.1, 5: math.nan, 6: 0.5}
    values = {step: keep.value({"reward/beauty": v}) for step, v in beauty.items()}
    assert keep.kept(values | {7: keep.value({})}) == kept


def test_of_checkpoints_that_are_equally_good_the_newest_is_kept():
    keep = Keep(1, best="reward/beauty")
    assert keep.kept({1: 0.9, 2: 0.9, 3: 0.5}) == keep.kept({2: 0.9, 1: 0.9, 3: 0.5}) == {2, 3}


@pytest.mark.over_a_second
def test_the_best_checkpoint_is_kept_also_by_a_run_that_resumes(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 1.5}
    for steps in ((1, 2, 3), (4, 5)):
        with Checkpoints(tmp_path, Keep(1, best="-loss")) as checkpoints:
            for step in steps:
                checkpoints.save(step, make(step), DATA, metrics={"loss": losses[step], "other": 1})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5]


@pytest.mark.parametrize("text", ['{"metrics": 3}', "{", '{"metrics": {"loss": "x"}}'])
def test_a_checkpoint_whose_metrics_are_damaged_is_not_the_best(tmp_path, text):
    keep = Keep(1, best="-loss")
    with Checkpoints(tmp_path, keep) as checkpoints:
        checkpoints.save(1, make(1), DATA, metrics={"loss": 1.0})
    (tmp_path / "1" / "host" / "metadata").write_text(text)
    with Checkpoints(tmp_path, keep) as checkpoints:
        assert checkpoints._values == {1: None}


def test_resume_says_whether_there_must_be_a_checkpoint(tmp_path):
    config = training.tiny()
    with pytest.raises(FileNotFoundError, match="--resume=required .*holds no checkpoint"):
        run_folder.open_folder(config, tmp_path / "a", "train", resume="required")
    run_folder.open_folder(config, tmp_path / "a", "train", resume="never")
    (tmp_path / "a" / "checkpoints" / "4").mkdir(parents=True)  # not committed
    run_folder.open_folder(config, tmp_path / "a", "train", resume="never")
    (tmp_path / "a" / "checkpoints" / "4" / "commit_success.txt").touch()
    run_folder.open_folder(config, tmp_path / "a", "train", resume="required")
    with pytest.raises(FileExistsError, match="--resume=never .*holds a checkpoint of step 4"):
        run_folder.open_folder(config, tmp_path / "a", "train", resume="never")
    with pytest.raises(ValueError, match="is for stages that train .*; got --stage=sample"):
        run_folder.open_folder(config, tmp_path / "a", "sample", resume="required")


@pytest.mark.over_a_second
def test_what_saves_hold_up_is_less_than_a_twentieth_of_the_time_between_them(tmp_path):
    """With the seconds that real saves of 32 MB take, and steps that take none but by the clock."""
    clock, state = Clock(), {"params": {"w": jnp.ones((8, 1 << 20))}}
    saves, shares, last = SaveClock(AUTO, 14_400.0, clock), [], clock.now
    with Checkpoints(tmp_path, Keep(1)) as checkpoints:
        for step in range(1, 1000):
            clock.now += 1.0
            if saves.is_due():
                begin = time.perf_counter()
                assert checkpoints.save(step, state, DATA)
                cost = time.perf_counter() - begin
                clock.now += cost
                text = saves.saved(cost)
                shares.append(cost / (clock.now - last))
                assert f"{100 * shares[-1]:.1f}% of the time since the last" in text
                last = clock.now
                if len(shares) > 16:
                    break
    assert 4 <= len(shares) <= 16 and max(shares[1:]) < 0.05
    assert shares[0] < 0.2  # the first is due before its cost is known, and is compiled
