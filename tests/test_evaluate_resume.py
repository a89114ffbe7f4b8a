"""An evaluation that is stopped: its images are kept, the same call resumes; one process alone."""

import errno
import json
import os
import signal

import numpy as np
import pytest

from configs import base as configs
from miro_jax.cli import exit as exits
from miro_jax.cli.signals import ENDING
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.lease import locked
from miro_jax.evaluate import base, gallery, run
from tests.painting import SAMPLING, Meter, build_all, gauges

FACTS = {"checkpoint": "run step 5 sha256:d1a1"}


@pytest.fixture(autouse=True)
def facts(monkeypatch):
    monkeypatch.setattr(run, "describe_pipeline", lambda pipeline: FACTS)


def evaluators(folder):
    config = configs.get_config("tiny")
    rewards = gauges(config.rewards, captioned=config.rewards)[0]
    return config.rewards, build_all(config, folder / "images", rewards)


class Stopping(Meter):
    """A Meter that gets a signal in its call number `last`."""

    def __init__(self, names, last, number):
        super().__init__(names)
        self.last, self.number = last, number

    def __call__(self, *arguments, **settings):
        if len(self.calls) == self.last:
            signal.raise_signal(self.number)
        return super().__call__(*arguments, **settings)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_keeps_what_is_drawn_and_the_next_call_draws_the_rest(tmp_path, capsys, number):
    names, built = evaluators(tmp_path)
    whole = Meter(names)
    expected = run.run_evaluators(built, whole, 5)
    stopping, drawn = Stopping(names, 7, number), tmp_path / "drawn"
    status = exits.run(
        "evaluate",
        lambda: None,
        lambda _: run.run_evaluators(built, stopping, 5, drawn),
        resumes=exits.always,
    )
    assert status == 128 + number and len(stopping.calls) == 7
    assert "stopped; the same command resumes" in capsys.readouterr().err
    assert len(list(drawn.iterdir())) == 7
    again = Meter(names)
    assert run.run_evaluators(built, again, 5, drawn) == expected
    assert len(again.calls) == len(whole.calls) - 7
    assert not drawn.exists()


@pytest.mark.parametrize("writer", [(LocalFolder, "write"), (gallery, "write_atomic")])
def test_a_full_disk_gives_status_1_the_path_and_what_to_do(tmp_path, capsys, monkeypatch, writer):
    names, built = evaluators(tmp_path)

    def full(where, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))

    with monkeypatch.context() as patch:
        patch.setattr(*writer, full)
        status = exits.run(
            "evaluate",
            lambda: None,
            lambda _: run.run_evaluators(built, Meter(names), 5, tmp_path / "drawn"),
            resumes=exits.always,
        )
    err = capsys.readouterr().err
    assert status == 1 and "the disk is full" in err and str(tmp_path) in err
    assert "Make room; the same command then resumes" in err
    assert run.run_evaluators(built, Meter(names), 5, tmp_path / "drawn")


def remember(folder, facts=FACTS):
    pipeline = Meter(("a", "b"))
    memory = base.Remembering(pipeline, folder, facts)
    images = SAMPLING.sample(memory, ["x"], 2, targets={"a": 0.5})
    return images, len(pipeline.calls)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:99] + b"!" + data[100:]]
)
def test_a_damaged_file_of_images_is_drawn_again(tmp_path, damage):
    images, calls = remember(tmp_path)
    assert calls == 1 and remember(tmp_path)[1] == 0
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again, calls = remember(tmp_path)
    assert calls == 1 and path.read_bytes() == whole
    np.testing.assert_array_equal(again, images)


def test_images_of_other_weights_are_not_taken(tmp_path):
    remember(tmp_path)
    assert remember(tmp_path, FACTS | {"checkpoint": "run step 5 sha256:0000"})[1] == 1


def test_a_second_evaluation_of_a_run_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "restore", lambda *_: 1 / 0)
    with locked(tmp_path, run.LOCK):
        with pytest.raises(
            BlockingIOError, match="evaluation of .* is in use by another process .host"
        ):
            run.run(configs.get_config("tiny"), tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "restore", lambda *_: 1 / 0)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", "/proc/self"):
        with pytest.raises((PermissionError, NotADirectoryError), match=f"{folder} must be a fold"):
            run.run(configs.get_config("tiny"), folder)


@pytest.mark.parametrize(
    "text",
    ["", "null", "{}", "[5]", "[" * 100_000, '[{"step": 1}]', '[{"step": NaN, "settings": {}}]'],
)
def test_a_list_of_evaluations_that_is_none_is_kept_and_named(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="evaluation.json must be a list of evaluations"):
        run.append(path, {"step": 1, "settings": {}})
    assert path.read_text() == text


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    path = tmp_path / "evaluation.json"
    run.append(path, {"step": 1, "settings": {}})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="results.mean must be a finite number"):
        run.append(path, {"step": 2, "settings": {}, "results": {"mean": float("nan")}})
    assert path.read_bytes() == before
    assert [entry["step"] for entry in json.loads(before)] == [1]
