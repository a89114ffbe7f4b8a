"""Trackers get a copy of the metrics, and whatever happens to them stops nothing."""

import logging
import sys
import types

import pytest

from miro_jax.report.metric_lines import read_metrics
from miro_jax.train import settings
from miro_jax.train.metrics import MetricsWriter
from miro_jax.train.trackers import NAMES, Trackers


def fake(monkeypatch, name, failing=""):
    """Install a module that keeps its calls; the one that is called `failing` raises."""
    calls = []

    def method(word):
        def call(*given, **named):
            calls.append((word, *given, named))
            if word == failing:
                raise RuntimeError("no\nnetwork") if word != "finish" else SystemExit(3)

        return call

    methods = {word: method(word) for word in ("init", "log", "finish")}
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**methods))
    return calls


def write(workdir, names, steps=(1, 2)):
    with MetricsWriter(workdir, 0, lambda: Trackers(names, "mine", {"seed": 1})) as writer:
        for step in steps:
            writer.scalars(step, {"loss": step / 4})
    assert [line["step"] for line in read_metrics(workdir)] == list(steps)


def test_each_tracker_gets_the_config_and_every_line(tmp_path, monkeypatch):
    calls = {name: fake(monkeypatch, name) for name in NAMES}
    write(tmp_path, NAMES)
    for name in NAMES:
        start, *lines, end = calls[name]
        more = {"id": "mine"} if name == "wandb" else {}
        about = {"project": "miro_jax", "name": "mine", "config": {"seed": 1}, "resume": "allow"}
        assert start == ("init", about | more)
        assert lines == [("log", {"loss": s / 4}, {"step": s}) for s in (1, 2)]
        assert end == ("finish", {})


@pytest.mark.parametrize("failing, count", [("init", 1), ("log", 2), ("finish", 4)])
def test_one_that_fails_gets_nothing_more_and_the_other_goes_on(
    tmp_path, monkeypatch, caplog, failing, count
):
    calls = {"wandb": fake(monkeypatch, "wandb", failing), "trackio": fake(monkeypatch, "trackio")}
    with caplog.at_level(logging.WARNING, "miro_jax"):
        write(tmp_path, NAMES)
    assert len(calls["wandb"]) == count and len(calls["trackio"]) == 4
    (warning,) = caplog.records
    assert "wandb gets nothing more" in warning.getMessage() and "\n" not in warning.getMessage()


def test_one_that_is_not_installed_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "trackio", None)  # importing it fails
    with caplog.at_level(logging.WARNING, "miro_jax"):
        write(tmp_path, ["trackio"])
    (warning,) = caplog.records
    assert "trackio" in warning.getMessage()


def test_an_unknown_tracker_is_refused_by_name():
    given = dict.fromkeys(("num_steps", "batch_size", "log_every_steps", "keep_checkpoints"), 1)
    given |= dict.fromkeys(("sample_every_steps", "checkpoint_every_steps"), 1)
    rates = ("time_mean", "time_std", "self_condition_rate", "ema_decay")
    given |= dict.fromkeys((*rates, "reward_dropout", "caption_dropout"), 0.5)
    with pytest.raises(ValueError, match="must name some of wandb, trackio; got comet, mlflow"):
        settings.Training(**given, score_samples=False, report=False, trackers=("mlflow", "comet"))
