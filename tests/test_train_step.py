"""What every step draws, what stops a run, and how signals do: quick, without a network."""

import collections
import os
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miro_jax.cli import signals
from miro_jax.train import loop
from miro_jax.train.state import TrainState
from miro_jax.train.step import make_train_step
from tests import training

# The step: its key, its averages.


def make_stepper(seed=3, decay=0.9):
    """The step of one weight, whose loss draws one number."""

    def loss(params, buffers, batch, key):
        drawn = jax.random.uniform(key)
        return jnp.sum(params["w"] * batch["x"]) * drawn, {"drawn": drawn}

    recipe = types.SimpleNamespace(ema_decay=decay)
    return make_train_step(loss, optax.sgd(1.0), lambda count: 1.0, recipe, seed)


def start(step=0):
    params = {"w": jnp.ones(2)}
    empty = optax.sgd(1.0).init(params)
    return TrainState(jnp.int32(step), params, {"w": jnp.zeros(2)}, {}, empty)


def draws(seed=3, first=0, count=4):
    step, state, drawn = make_stepper(seed), start(first), []
    for _ in range(count):
        state, metrics = step(state, {"x": jnp.ones(2)})
        drawn.append(float(metrics["drawn"]))
    return drawn


def test_every_step_draws_anew_and_a_resumed_one_as_before():
    drawn = draws()
    assert len(set(drawn)) == 4
    assert draws(first=2, count=2) == drawn[2:]
    key = jax.random.key(3)
    expected = [float(jax.random.uniform(jax.random.fold_in(key, step))) for step in range(4)]
    assert drawn == pytest.approx(expected, rel=1e-6)
    assert not {*draws(seed=4)} & {*drawn}


def test_the_average_is_of_the_parameters_after_the_update():
    state, metrics = make_stepper(decay=0.75)(start(), {"x": jnp.array([1.0, 2.0])})
    new = 1.0 - float(metrics["drawn"]) * np.array([1.0, 2.0])
    np.testing.assert_allclose(state.params["w"], new, rtol=1e-6)
    np.testing.assert_allclose(state.ema_params["w"], 0.25 * new, rtol=1e-6)
    assert int(state.step) == 1
    assert metrics["update_norm"] == pytest.approx(np.linalg.norm(new - 1), rel=1e-5)
    assert metrics["param_norm"] == pytest.approx(np.linalg.norm(new), rel=1e-5)


# The loop: what it does with the metrics of the step before.


def make_loop(**changes):
    written = []
    metrics = types.SimpleNamespace(scalars=lambda step, values: written.append((step, values)))
    data = types.SimpleNamespace(key=lambda index: f"key-{index}")
    config = training.small(train__num_steps=20, train__log_every_steps=2, **changes)
    made = loop.Loop(config, None, data, {}, None, metrics, None)
    made.since, made.status = 0, ""
    return made, written


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_what_is_not_finite_stops_the_run_also_where_the_other_is(name, bad):
    made, written = make_loop()
    values = {"loss": np.float32(0.5), "grad_norm": np.float32(1.0)} | {name: np.float32(bad)}
    made.pending = (6, values, {"index": np.arange(9), "length": 8})
    with pytest.raises(FloatingPointError, match="step 6 gave loss .*'key-0', 'key-1'.*of 9"):
        made._read_pending()
    assert written == []


def test_metrics_are_written_under_the_step_that_made_them_and_when_due():
    made, written = make_loop()
    for step in (1, 2, 3, 4, 20):
        values = {"loss": np.float32(step), "grad_norm": np.float32(1)}
        made.pending = (step, values, {"index": np.arange(1), "length": 8})
        made._read_pending()
        assert made.pending is None
    assert [(step, values["loss"]) for step, values in written] == [(2, 2.0), (4, 4.0), (20, 20.0)]


def test_a_step_that_is_read_before_its_turn_gets_no_speed_of_its_own(monkeypatch):
    made, written = make_loop()
    made.config.train.log_every_steps = 1
    monkeypatch.setattr(made.spent, "since_mark", lambda: (2.0, collections.Counter()))
    size = made.config.train.batch_size
    for step, in_turn in ((1, True), (2, False), (3, True), (20, False)):
        values = {"loss": np.float32(step), "grad_norm": np.float32(1)}
        made.pending = (step, values, {"index": np.arange(1), "length": 8})
        made._read_pending(in_turn)
    speeds = [values.get("images_per_second") for _, values in written]
    assert speeds == [size / 2, None, 2 * size / 2, 17 * size / 2]


def test_a_run_that_has_more_steps_than_are_wanted_takes_none(caplog):
    made, _ = make_loop()
    made.checkpoints = types.SimpleNamespace(wait=lambda: None)
    with caplog.at_level("INFO", "miro_jax"):
        assert int(made.run(None, start(25), 25).step) == 25
    assert "Training: 0 steps in" in caplog.text


# Signals: a real process for each case.

SIGNALLED = """
import sys, time
from miro_jax.cli import signals
from miro_jax.train import loop

class Waiting(loop.Loop):
    def __init__(self):
        self.stop_signal = None

waiting, told = Waiting(), False
with waiting._watched_signals():
    print("ready", flush=True)
    while True:
        time.sleep(0.005)
        if waiting._stop_requested(1) and not told:
            told = True
            print(waiting._stop_requested(1), flush=True)
"""


@pytest.fixture(scope="module")
def signalled():
    """What starts a process that only notes the first signal."""
    processes = []

    def start(prefix=""):
        process = subprocess.Popen(
            ["sh", "-c", prefix + 'exec "$0" -c "$1"', sys.executable, SIGNALLED],
            env=os.environ | {"PYTHONPATH": str(training.ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once(signalled):
    numbers = signals.ENDING
    assert set(numbers) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    started = [signalled() for _ in numbers]
    for first, second, process in zip(numbers, numbers[1:] + numbers[:1], started, strict=True):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        process.send_signal(first)  # as a shell does that hands on what the terminal sent already
        assert process.stdout.readline() == f"{first.value}\n"
        process.send_signal(second)
        assert process.wait(training.PATIENCE) == -second


@pytest.mark.slow
def test_what_nohup_ignores_stays_ignored(signalled):
    process = signalled("trap '' HUP; ")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"{signal.SIGTERM.value}\n"
    process.send_signal(signal.SIGHUP)  # the terminal is closed while the state is saved
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
