"""A run that was stopped, by a signal or by force, ends like one that never was."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from miro_jax.data.records.bins import Bins
from miro_jax.evaluate.preview import Preview
from miro_jax.sample.trained import restore
from miro_jax.train import ahead, components, loop, setup
from miro_jax.train.checkpoint import Checkpoints
from tests import compiling, training

pytestmark = pytest.mark.slow

KILLS = 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the runs of the launcher print to stderr."""
    return tmp_path_factory.mktemp("said") / "stderr"


@pytest.fixture(scope="module")
def launcher(said):
    launcher = training.Launcher(MIRO_TEST_STDERR=str(said))
    yield launcher
    launcher.close()


class Watched:
    """The data iterator, which keeps what it gave; sends SIGTERM to us with batch `stop_at`."""

    def __init__(self, inner, seen, stop_at):
        self.inner, self.seen, self.stop_at = inner, seen, stop_at

    def __next__(self):
        batch = next(self.inner)
        self.seen.append({k: v.copy() for k, v in batch.items()})
        if len(self.seen) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Trial:
    """Four steps in this process, on eight devices; keeps the batches, counts compilations."""

    def __init__(self, records, workdir, num_steps=4):
        self.records, self.workdir, self.num_steps = records, workdir, num_steps
        self.seen, self.traced = [], 0

    def run(self, stop_at=None, **changes):
        settings = {
            "num_steps": self.num_steps,
            "sample_every_steps": 0,
            "checkpoint_every_steps": 100,
        }
        config = training.small(
            data__records=str(self.records),
            optim__warmup_steps=2,
            # A bias of normed keys moves no softmax: its gradient is rounding alone, which Adam
            # blows up to a full step unless eps stands above it.
            optim__eps=1e-3,
            **{f"train__{k}": v for k, v in settings.items()},
            **changes,
        )
        make_iterator, make_train_step = setup.make_iterator, ahead.make_train_step

        def watch(*arguments):
            return Watched(make_iterator(*arguments), self.seen, stop_at)

        def count(*arguments):
            step = make_train_step(*arguments)

            def counted(*inputs):
                self.traced += 1
                return step(*inputs)

            return counted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(setup, "make_iterator", watch)
            patch.setattr(ahead, "make_train_step", count)
            loop.run(config, self.workdir, Preview)
        return self

    def stop_after_two_steps(self, **changes):
        with pytest.raises(SystemExit) as stopped:
            self.run(stop_at=2, **changes)
        assert stopped.value.code == 143
        return self


@pytest.fixture(scope="module")
def whole(records, tmp_path_factory):
    return Trial(records, tmp_path_factory.mktemp("whole")).run()


@pytest.fixture(scope="module")
def halves(records, tmp_path_factory):
    return Trial(records, tmp_path_factory.mktemp("halves")).stop_after_two_steps().run()


def assert_same_batches(found, expected):
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_two_and_two_steps_equal_four_bit_for_bit(whole, halves, parts):
    step, arrays, data_state = training.newest(halves.workdir, parts)
    expected_step, expected, expected_data_state = training.newest(whole.workdir, parts)
    assert step == expected_step == 4 and data_state == expected_data_state
    training.assert_same_arrays(arrays, expected)
    assert np.abs(expected["params/patch_in/kernel"] - expected["ema_params/patch_in/kernel"]).max()


def test_a_checkpoint_keeps_the_levels_of_its_training(whole, parts, records):
    *_, data_state = training.newest(whole.workdir, parts)
    assert components.stored_bins(data_state).to_bytes() == Bins.load(records).to_bytes()


def test_batches_continue_where_they_stopped(whole, halves):
    assert_same_batches(halves.seen, whole.seen)
    assert len(whole.seen) == len({tuple(batch["index"]) for batch in whole.seen}) == 4


def test_metrics_continue_where_they_stopped(whole, halves):
    lines = training.without_times(whole.workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert training.without_times(halves.workdir) == lines


def test_the_step_compiles_once_in_each_process(whole, halves):
    assert (whole.traced, halves.traced) == (1, 2)


def test_a_stop_saves_the_step_that_was_under_way_and_only_that(records, halves):
    with Checkpoints(halves.workdir / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4]


def test_a_run_does_not_go_on_as_another_network_of_the_same_shapes(records, halves):
    other = training.small(model__rin__sigma=0.5)
    with pytest.raises(ValueError, match="sigma=0.35 there, 0.5 here"):
        Trial(records, halves.workdir).run(model__rin__sigma=0.5)
    with pytest.raises(ValueError, match="sigma=0.35 there, 0.5 here"):
        restore(other, halves.workdir)


def test_a_stop_before_the_first_step_saves_nothing_and_begins_anew(records, whole, tmp_path):
    trial = Trial(records, tmp_path)

    def stop_at_once(loop, *arguments):
        loop.stop_signal = signal.SIGTERM
        return original(loop, *arguments)

    original = loop.Loop.run
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop.Loop, "run", stop_at_once)
        trial.run()
    assert trial.seen == [] and trial.traced == 1  # what is compiled ahead is traced at once
    assert training.last_step(tmp_path) == 0


def test_a_stop_during_the_last_step_ends_the_process_after_saving(records, parts, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        Trial(records, tmp_path).run(stop_at=4)
    assert stopped.value.code == 143
    assert training.newest(tmp_path, parts)[0] == 4 == training.last_step(tmp_path)


def arguments(records, workdir, checkpoint_every_steps):
    return (
        *training.COMMAND,
        f"--workdir={workdir}",
        f"--config.data.records={records}",
        f"--config.train.checkpoint_every_steps={checkpoint_every_steps}",
        "--noconfig.train.report",
    )


@pytest.fixture(scope="module")
def uninterrupted(launcher, records, tmp_path_factory):
    """A run of 20 steps."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert launcher(*arguments(records, workdir, 1)) == 0
    return workdir


def assert_like_uninterrupted(workdir, uninterrupted, parts):
    step, arrays, data_state = training.newest(workdir, parts)
    expected_step, expected, expected_data_state = training.newest(uninterrupted, parts)
    assert step == expected_step == 20 and data_state == expected_data_state
    training.assert_same_arrays(arrays, expected)
    lines = training.without_times(uninterrupted)
    # One line a step, and one more for each preview.
    assert sorted(line["step"] for line in lines) == sorted([*range(1, 21), 10, 20])
    assert training.without_times(workdir) == lines
    pictures = {p.name: p.read_bytes() for p in (uninterrupted / "samples").iterdir()}
    assert {p.name: p.read_bytes() for p in (workdir / "samples").iterdir()} == pictures
    assert sorted(pictures) == ["step-000010.png", "step-000020.png"]


def test_a_second_run_is_the_same(rerun, uninterrupted, parts):
    assert_like_uninterrupted(rerun[0], uninterrupted, parts)


@pytest.fixture(scope="module")
def rerun(launcher, records, uninterrupted, tmp_path_factory):
    """The same run again, now that everything is compiled, and its seconds up to the first step."""
    workdir = tmp_path_factory.mktemp("rerun")
    began = time.monotonic()
    pid = launcher.start(*arguments(records, workdir, 1))
    training.wait_until(lambda: training.last_step(workdir) > 0, pid)
    startup = time.monotonic() - began
    assert launcher.wait() == 0
    print(f"start-up {startup:.1f} s, whole run {time.monotonic() - began:.1f} s")
    return workdir, startup


def wait_for_moment(rng, workdir, first, startup, pid):
    """Wait for a random moment of a run from step `first`, of its start-up or of its steps."""
    log = workdir / "log.txt"
    if rng.random() < 0.3:
        end = time.monotonic() + rng.uniform(0.05, 1.0) * startup
        training.wait_until(
            lambda: time.monotonic() > end or training.last_step(workdir) > first, pid
        )
    else:
        begun, goal = resumptions(log), first + rng.randrange(3)
        training.wait_until(
            lambda: resumptions(log) > begun and training.last_step(workdir) >= goal, pid
        )
        time.sleep(rng.uniform(0.0, 0.3))


def test_a_run_killed_twenty_times_ends_like_an_uninterrupted_one(
    launcher, records, uninterrupted, rerun, parts, tmp_path
):
    rng, number, killed, begin = random.Random(0), 0, 0, time.monotonic()
    while True:
        workdir = tmp_path / str(number)
        first = committed(workdir)
        pid = launcher.start(*arguments(records, workdir, 1))
        if killed < KILLS:
            wait_for_moment(rng, workdir, first, rerun[1], pid)
            if training.is_running(pid):
                os.kill(pid, signal.SIGKILL)
        status = launcher.wait()
        print(
            f"{time.monotonic() - begin:.0f} s: run {number} left with {status}, checkpoint of "
            f"step {first} -> {committed(workdir)}, metrics up to {training.last_step(workdir)}"
        )
        assert status in (0, -signal.SIGKILL)
        killed += status == -signal.SIGKILL
        if status == 0:  # on a fast machine kills may be left for another run
            assert_like_uninterrupted(workdir, uninterrupted, parts)
            number += 1
            if killed == KILLS:
                break


def committed(workdir):
    """Step of the newest checkpoint; files alone are read, since the run may be writing."""
    found = [p.parent.name for p in (workdir / "checkpoints").glob("*/commit_success.txt")]
    return max((int(name) for name in found if name.isdecimal()), default=0)


def resumptions(log):
    """How often a run got to its first step, told by its log."""
    return log.read_text().count("Training from step") if log.exists() else 0


def test_a_run_stopped_by_each_signal_saves_at_once_and_loses_no_step(
    launcher, said, records, uninterrupted, parts, tmp_path
):
    call, step, waited = arguments(records, tmp_path, 100), 0, []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        pid = launcher.start(*call)
        goal = step + 3
        assert training.wait_until(lambda: training.last_step(tmp_path) >= goal, pid)  # noqa: B023
        os.kill(pid, number)
        sent = time.time()
        assert launcher.wait() == 128 + number
        step = committed(tmp_path)
        assert goal <= step == training.last_step(tmp_path) < 20
        written = tmp_path / "checkpoints" / str(step) / "commit_success.txt"
        waited.append((written.stat().st_mtime - sent) / training.slowdown())
        log = (tmp_path / "log.txt").read_text()
        assert f"Stopped by {number.name} after step {step}; the state is saved" in log
        *_, line = said.read_text().splitlines()
        assert line == (
            f"stopped by {number.name} after step {step}; the same command resumes from there."
        )
    print(
        "seconds of an idle machine from the signal to the commit:", *(f"{w:.2f}" for w in waited)
    )
    assert min(waited) < 2
    assert launcher(*call) == 0
    assert f"Training from step {step} " in (tmp_path / "log.txt").read_text()
    assert_like_uninterrupted(tmp_path, uninterrupted, parts)


def test_a_full_disk_ends_a_run_with_the_path_and_room_lets_it_resume(
    launcher, records, uninterrupted, parts, tmp_path
):
    """A limit on the size of files stands for the disk; a pipe has none."""
    call = arguments(records, tmp_path, 1)
    run = subprocess.Popen(
        [sys.executable, "-m", "miro_jax.main", *call],
        env=os.environ | {"XLA_FLAGS": compiling.xla_flags(1), "PYTHONPATH": str(training.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert training.wait_until(lambda: committed(tmp_path) >= 3, run.pid)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    said = run.communicate()[1]
    assert "Traceback" not in said and "never retrieved" not in said
    *_, line = said.splitlines()
    assert run.returncode == 1
    assert (
        line.startswith("python -m miro_jax.main: error: the disk is full: ")
        and str(tmp_path) in line
    )
    assert line.endswith("Make room; the same command then resumes from here.")
    assert launcher(*call) == 0
    assert_like_uninterrupted(tmp_path, uninterrupted, parts)


def test_the_log_says_how_long_each_save_held_training_up(launcher, records, tmp_path):
    call = [*arguments(records, tmp_path, 5), "--config.train.sample_every_steps=0"]
    assert launcher(*call) == 0
    log = (tmp_path / "log.txt").read_text()
    shares = [float(share) for share in re.findall(r"held training up .*, ([\d.]+)% of", log)]
    assert len(shares) == 4 and all(0 < share < 100 for share in shares)
