"""A program that is compiled before its arguments are there, and what may happen meanwhile."""

import logging
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.cli.exit import COMPILER
from miro_jax.train import ahead, components, loop
from miro_jax.train.state import check_structure, over_leaves
from tests import training

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def compiled():
    """The names of the programs that XLA compiles."""
    names = []

    class Listener(logging.Handler):
        def emit(self, record):
            words = record.getMessage().split()
            if words[:3] == ["Finished", "XLA", "compilation"]:
                names.append(words[4])

    logger, listener = logging.getLogger("jax._src.dispatch"), Listener()
    logger.addHandler(listener)
    logger.propagate = False
    jax.config.update("jax_log_compiles", True)  # in all threads
    yield names
    jax.config.update("jax_log_compiles", False)
    logger.propagate = True
    logger.removeHandler(listener)


def shape(*sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def add_one(state, batch):
    return state + batch["x"], jnp.sum(batch["x"])


def test_the_call_that_was_foreseen_compiles_nothing_and_others_do(compiled):
    step = ahead.Ahead(jax.jit(add_one, donate_argnums=0), shape(4), {"x": shape(4)})
    while not step.is_ready(0.1):
        pass
    assert compiled.count("jit(add_one)") == 1 and step.seconds > 0
    state, batch = jnp.zeros(4), {"x": jnp.arange(4.0)}
    with jax.transfer_guard("disallow"):
        after, total = step(state, batch)
    assert compiled.count("jit(add_one)") == 1
    assert state.is_deleted() and after.tolist() == [0, 1, 2, 3] and float(total) == 6
    assert step(jnp.zeros(4), {"x": jnp.ones(())})[0].tolist() == [1] * 4
    assert step(jnp.zeros(4), {"x": jnp.arange(4)})[0].tolist() == [0, 1, 2, 3]  # integers
    assert step(after, batch)[0].tolist() == [0, 2, 4, 6]


def test_what_the_compiler_raises_is_raised_by_the_call(compiled):
    wrong = jax.jit(add_one, compiler_options={"xla_no_such_option": True})
    arguments = jnp.zeros(3), {"x": jnp.zeros(3)}
    with pytest.raises(Exception, match="xla_no_such_option") as usual:
        wrong(*arguments)
    step = ahead.Ahead(wrong, shape(3), {"x": shape(3)})
    while not step.is_ready(0.1):
        pass
    with pytest.raises(usual.type) as caught:
        step(*arguments)
    assert str(caught.value) == str(usual.value) and step.seconds == 0


def test_what_tracing_raises_is_raised_at_once():
    with pytest.raises(TypeError, match="broadcast"):
        ahead.Ahead(jax.jit(add_one), shape(3), {"x": shape(4)})
    assert COMPILER not in [thread.name for thread in threading.enumerate()]


def test_a_step_over_leaves_is_the_step_and_keeps_its_name():
    def step(state, batch):
        return {"a": state["b"], "b": [state["a"], state["b"] + batch]}, {"sum": batch}

    state = {"a": 1, "b": [2, 3]}
    of_leaves = over_leaves(lambda state, batch: (state, batch), jax.tree.structure(state))
    assert of_leaves([1, 2, 3], 4) == ([1, 2, 3], 4)
    structure = jax.tree.structure({"a": 1, "b": 2})
    assert over_leaves(step, structure)([1, 2], 5) == ([2, 1, 7], {"sum": 5})
    assert over_leaves(step, structure).__name__ == "step"  # that of the program


def test_a_state_of_another_tree_than_the_compiled_one_is_refused_by_name():
    abstract = {"a": [1, 2], "b": 3}
    assert check_structure({"a": [4, 5], "b": 6}, abstract) == {"a": [4, 5], "b": 6}
    with pytest.raises(ValueError, match="they differ in a/1, c"):
        check_structure({"a": [1], "b": 3, "c": 4}, abstract)
    with pytest.raises(ValueError, match="beside the arrays"):
        check_structure({"a": (1, 2), "b": 3}, abstract)


class Never:
    """A program that is never ready; a signal comes meanwhile."""

    def __init__(self, made):
        self.made, self.looks = made, 0

    def is_ready(self, seconds):
        self.looks += 1
        if self.looks == 3:
            self.made._on_signal(signal.SIGTERM, None)
        return False


def test_a_signal_ends_a_run_that_waits_for_the_compiler(monkeypatch, capsys):
    made = loop.Loop(training.small(), None, None, {}, NoCheckpoints, None, None)
    made.program = Never(made)
    monkeypatch.setattr(loop.signal, "signal", lambda *arguments: None)
    with pytest.raises(SystemExit) as left:
        made._wait_for_program(0)
    assert left.value.code == 128 + signal.SIGTERM and made.program.looks == 3
    assert "stopped by SIGTERM after step 0" in capsys.readouterr().err
    assert made.spent.seconds["compilation"] > 0


class NoCheckpoints:
    @staticmethod
    def wait():
        pass


LEAVING = f"""
import sys, threading, time
from miro_jax.cli import exit

def fail():
    threading.Thread(target=time.sleep, args=[float(sys.argv[1])], name={COMPILER!r}).start()
    print("said")
    if sys.argv[2] == "raise":
        raise SystemExit(143)
    return 2

sys.exit(exit.leave(fail))
"""


@pytest.mark.parametrize("how, status", [("raise", 143), ("return", 2)])
@pytest.mark.parametrize("seconds", [0, 300])
def test_a_command_does_not_wait_for_the_compiler(how, status, seconds):
    begin = time.monotonic()
    call = [sys.executable, "-c", LEAVING, str(seconds), how]
    done = subprocess.run(call, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (status, "said\n")
    assert time.monotonic() - begin < 250


SIGNALLED = """
import atexit, sys, jax
from miro_jax.cli import exit

atexit.register(lambda: print("Python took itself apart", flush=True))
jax.distributed.is_initialized = lambda: sys.argv[1] == "several"
sys.exit(exit.leave(lambda: int(sys.argv[2])))
"""


@pytest.mark.parametrize(
    "how, status, torn", [("one", 143, False), ("several", 143, True), ("one", 2, True)]
)
@pytest.mark.over_a_second
def test_after_a_signal_python_takes_nothing_apart_that_xla_may_still_use(how, status, torn):
    call = [sys.executable, "-c", SIGNALLED, how, str(status)]
    done = subprocess.run(call, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=600)
    assert (done.returncode, "apart" in done.stdout) == (status, torn)


# Runs.


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


def run(records, workdir, **changes):
    defaults = {
        "data__records": str(records),
        "optim__warmup_steps": 2,
        "train__num_steps": 6,
        "train__log_every_steps": 1,
        "train__sample_every_steps": 0,
    }
    loop.run(training.small(**(defaults | changes)), workdir, lambda *arguments: None)
    return [line for line in training.read_metrics(workdir) if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("early, buckets, microbatches", [(True, (), 1), (False, (8,), 2)])
def test_a_run_compiles_its_step_once_to_the_bits_of_a_step_on_demand(
    records, tmp_path, compiled, monkeypatch, early, buckets, microbatches
):
    changes = {"data__caption_buckets": buckets, "train__microbatches": microbatches}
    monkeypatch.setattr(ahead, "is_early", lambda config: early)
    first, *rest = run(records, tmp_path / "ahead", **changes)
    lengths = 1 if not buckets else 2
    assert compiled.count("jit(train_step)") == lengths
    monkeypatch.setattr(ahead, "Ahead", OnDemand)
    expected = run(records, tmp_path / "demand", **changes)
    assert compiled.count("jit(train_step)") == 2 * lengths
    parts = components.build_components(training.small(**changes))
    found, on_demand = (training.newest(tmp_path / name, parts)[1] for name in ("ahead", "demand"))
    training.assert_same_arrays(found, on_demand)
    assert [line["loss"] for line in (first, *rest)] == [line["loss"] for line in expected]
    assert 0 < first["compilation_seconds"] and 0 < first["compiler_seconds"]
    assert not any("compiler_seconds" in line for line in rest)


def test_the_step_waits_for_captions_of_buckets_and_on_a_cpu_for_the_state(monkeypatch):
    assert not ahead.is_early(training.small())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ahead.is_early(training.small())
    assert not ahead.is_early(training.small(data__caption_buckets=(8,)))


def test_where_no_step_is_left_nothing_is_compiled(monkeypatch):
    lengths = []
    monkeypatch.setattr(ahead, "compile_step", lambda config, parts, length: lengths.append(length))
    config, begun = training.small(train__num_steps=20), ahead.Begun(None, None)
    data = types.SimpleNamespace(caption_length=5)
    ahead.step_of(config, begun, data, first=20)
    assert lengths == []
    ahead.step_of(config, begun, data, first=19)
    config.data.caption_buckets = (5,)
    ahead.step_of(config, begun, data, first=19)
    assert lengths == [config.encoder.caption.max_tokens, 5]


class OnDemand:
    """The step as `jax.jit` gives it."""

    seconds = 0.0

    def __init__(self, function, *shapes):
        self.function = function

    def is_ready(self, seconds):
        return True

    def __call__(self, *arguments):
        return self.function(*arguments)
