"""Watching a run's checkpoints: the newest first, none twice, none that is gone; the curves."""

import json
import threading

import pytest

from configs import base as configs
from miro_jax import __main__ as entry
from miro_jax.evaluate.suites import manifest, watch
from miro_jax.report import suite_curves
from miro_jax.train.checkpoint import Checkpoints
from tests.states import DATA, abstract, make


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose checkpoints are names, evaluated by writing a manifest."""

    class Run:
        steps, evaluated, slept = [10, 20], [], 0

        def folder_of(self, step):
            return tmp_path / "evals" / f"step-{step:06d}" / "small@1"

        def evaluate(self, step):
            self.evaluated.append(step)
            groups = dict.fromkeys(manifest.GROUPS, {})
            value = {"value": step / 40, "low": 0.0, "high": 1.0}
            groups |= {"result": {"metrics": {"overall": value}, "order": ["overall"]}}
            (self.folder_of(step) / manifest.NAME).write_bytes(manifest.dump(groups))
            return f"step {step}"

        def watch(self, last=20, sleep=None):
            given = tmp_path, last, self.folder_of, self.evaluate, 1.0
            return watch.watch(*given, sleep=sleep or self.never)

        def never(self, seconds):
            raise AssertionError("there is nothing to wait for")

    made = Run()
    monkeypatch.setattr(watch, "steps_of", lambda _: list(made.steps))
    monkeypatch.setattr(watch.report, "write", lambda _: None)
    return made


def test_the_newest_comes_first_and_new_ones_are_awaited(run):
    def appear(seconds):
        run.steps = [20, 30] if 30 not in run.steps else [30, 40]

    assert run.watch(40, appear) == [20, 10, 30, 40]
    assert run.watch(40) == [] and run.evaluated == [20, 10, 30, 40]


def test_a_checkpoint_that_is_removed_is_skipped_with_a_line(run, capsys):
    evaluate = run.evaluate

    def gone(step):
        if step == 10:
            run.steps = [20]
            raise FileNotFoundError("no step 10")
        return evaluate(step)

    run.evaluate = gone
    assert run.watch() == [20]
    assert "step 10 was removed while it was evaluated" in capsys.readouterr().err

    def broken(step):
        raise ValueError("broken")

    looks = []
    run.steps, run.evaluate = [20, 30], broken
    with pytest.raises(ValueError, match="broken"):
        run.watch(30, looks.append)
    assert looks == [1.0]  # it might have been about to be removed


def test_a_checkpoint_that_is_still_listed_while_it_is_removed_is_skipped(run, capsys):
    evaluate = run.evaluate

    def half_gone(step):
        if step == 10:
            raise ValueError("no checkpoint can be used: an array is missing")
        return evaluate(step)

    run.evaluate = half_gone
    assert run.watch(sleep=lambda _: run.steps.remove(10)) == [20]
    assert capsys.readouterr().err.count("step 10 was removed while it was evaluated") == 1


@pytest.mark.slow
def test_a_late_watcher_bears_that_the_trainer_removes_old_checkpoints(tmp_path, capsys):
    """Real checkpoints, of which the trainer keeps two, and removes one that is being read."""
    read, wanted = [], abstract(make(0))

    def folder_of(step):
        return tmp_path / "evals" / f"step-{step:06d}" / "small@1"

    with Checkpoints(tmp_path / "checkpoints", keep=2) as trainer:

        def train_to(step):
            trainer.save(step, make(step), DATA)
            trainer.wait()

        def evaluate(step):
            if step == 20:  # the newest comes first: meanwhile two more push 10 and 20 out
                train_to(30), train_to(40)
            with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
                read.append(checkpoints.restore_latest(wanted, step)[0])
            groups = dict.fromkeys(manifest.GROUPS, {}) | {"result": {"metrics": {}, "order": []}}
            (folder_of(step) / manifest.NAME).write_bytes(manifest.dump(groups))
            return f"step {step}"

        train_to(10), train_to(20)
        given = tmp_path, 40, folder_of, evaluate, 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch.report, "write", lambda _: None)
            assert watch.watch(*given) == [40, 30] == read
    said = capsys.readouterr()
    assert said.err.count("\n") == said.err.count("step 20 was removed while it was eval") == 1
    assert said.out.split("\n") == ["step 40", "step 30", ""]


def test_a_run_without_a_checkpoint_yet_is_refused_in_one_line(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(configs.get_config("tiny").to_json())
    assert entry.main(["evaluate", str(run), "--suite=shapes"]) == 2
    err = capsys.readouterr().err
    assert "holds no finished checkpoint; training writes them. Give --watch" in err
    assert err.count("\n") == 1


def test_images_cannot_be_watched(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a red circle")
    words = [str(tmp_path), "--suite=shapes", "--watch", "--partial"]
    assert entry.main(["evaluate", *words]) == 2
    assert "--watch must be given a run" in capsys.readouterr().err


def test_two_watchers_do_no_work_twice(run):
    evaluate, inside, leave = run.evaluate, threading.Event(), threading.Event()

    def slow(step):
        inside.set()
        assert leave.wait(20)
        return evaluate(step)

    run.steps, run.evaluate = [20], slow
    first = threading.Thread(target=run.watch)
    first.start()
    assert inside.wait(20)

    def other_waits(seconds):
        leave.set()
        first.join(20)

    assert run.watch(sleep=other_waits) == []
    assert run.evaluated == [20]


def test_the_page_draws_the_curves_of_what_was_evaluated(run, tmp_path):
    run.watch()
    curves = suite_curves.read_curves(tmp_path)
    assert list(curves["small@1"]["overall"]) == [10, 20]
    chart = suite_curves.draw_curves(tmp_path)["small@1"]["overall"]
    assert "step 10: 0.25" in chart and "training step" in chart
    path = run.folder_of(10) / manifest.NAME
    path.write_text(json.dumps({"result": {"metrics": {}}}))
    assert suite_curves.draw_curves(tmp_path) == {}


def test_a_metric_without_an_interval_is_drawn_as_its_points(tmp_path):
    metrics = {"vendi_set@clip-1-n4": {"value": 2.5}, "blank": {"value": 1.0, "low": None}}
    for step in (10, 20):
        path = tmp_path / suite_curves.EVALS / f"step-{step:06d}" / "small@1" / manifest.NAME
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"result": {"metrics": metrics}}))
    drawn = suite_curves.draw_curves(tmp_path)["small@1"]
    assert list(drawn) == ["blank", "vendi_set@clip-1-n4"]
    assert "step 20: 2.5" in drawn["vendi_set@clip-1-n4"]
