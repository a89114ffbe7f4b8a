"""The entry point: exit statuses, one line for errors, the order of stages."""

import errno
import gc
import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import base
from miro_jax import main as entry
from miro_jax.cli import exit as ends
from miro_jax.cli import run_folder
from miro_jax.cli.config import HELP
from miro_jax.cli.signals import ENDING
from miro_jax.evaluate import training

ROOT = pathlib.Path(__file__).parent.parent
TINY = f"--config={ROOT / 'configs' / 'base.py'}:tiny"


def run(capsys, *arguments):
    status = entry.main(list(arguments))
    caught = capsys.readouterr()
    return status, caught.out, caught.err


@pytest.mark.parametrize(
    "argument, said",
    [
        ("--config.train.num_step=5", "train.num_steps"),
        ("--config.rewards=('beuty',)", "beauty"),
        ("--config.rewards=a,b", "config.rewards"),
        ("--config.evaluate.evaluators=('dails',)", "; did you mean dials?"),
        ("--config.sample.targets=beuty=1", "config.sample.targets"),
        ("--config.sample.solver=rk4", "heun"),
        ("--config.train.batch_size=0", "config.train.batch_size"),
        ("--stage=fit", "evaluate"),
        ("--config.mesh.model=0", "config.mesh.model must be at least 1"),
        ("--config.mesh.data=-2", "config.mesh.data must be at least 1"),
    ],
)
def test_a_bad_argument_gives_status_2_one_line_and_no_folder(capsys, tmp_path, argument, said):
    folder = tmp_path / "run"
    status, out, err = run(capsys, TINY, f"--workdir={folder}", argument)
    assert status == 2 and out == ""
    assert err.startswith("miro-jax train: error: ") and err.count("\n") == 1 and said in err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("stage", "key", "value", "said"),
    [
        ("train", "mesh.model", 3, "config.mesh.model must divide the 8 devices; got 3"),
        ("study", "mesh.model", 3, "config.mesh.model must divide the 8 devices; got 3"),
        ("extend", "mesh.data", 3, "config.mesh.model must be the 8 devices; got 3 x 1"),
        ("train", "train.batch_size", 12, "config.train.batch_size must be a multiple of the 8"),
        ("train", "data.caption_buckets", (300,), "config.data.caption_buckets must rise"),
        ("train", "data.caption_buckets", (4.5,), "config.data.caption_buckets, num_threads"),
        ("train", "data.lanes", 3, "config.data.lanes must divide the batch size 16; got 3"),
        ("train", "sample.batch_size", 12, "config.sample.batch_size must be a multiple of the 8"),
    ],
)
def test_devices_and_batches_are_checked_before_any_work(
    capsys, tmp_path, monkeypatch, stage, key, value, said
):
    if stage != "train":
        monkeypatch.setitem(entry.STAGES, stage, lambda *_: 1 / 0)
        monkeypatch.setattr(entry, "CHECKS", {})
    monkeypatch.setattr(training.annotate, "run", lambda *_: 1 / 0)
    status, _, err = run(
        capsys, TINY, f"--workdir={tmp_path}", f"--config.{key}={value}", f"--stage={stage}"
    )
    assert status == 2 and said in err and err.count("\n") == 1


def test_a_folder_that_cannot_be_made_gives_status_2(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    assert status == 2 and err.count("\n") == 1 and "--workdir" in err


def test_without_arguments_all_that_must_be_given_is_named(capsys):
    status, out, err = run(capsys)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert "--config must be given (" in err and "--workdir must be given (" in err


@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_a_mistyped_run_folder_is_not_made(capsys, tmp_path, stage):
    folder = tmp_path / "bas"
    status, _, err = run(capsys, TINY, f"--workdir={folder}", f"--stage={stage}")
    assert status == 2 and f"there is no folder {folder}" in err
    assert not folder.exists()
    folder.mkdir()
    status, _, err = run(capsys, TINY, f"--workdir={folder}", f"--stage={stage}")
    assert status == 2 and f"there are no checkpoints in {folder}" in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "argument", "said"),
    [
        ("extend", "--config.data.new_reward=beauty", "must be given --config.extend.checkpoint"),
        ("extend", "--config.extend.checkpoint=gone", "must be given --config.data.new_reward"),
        ("extend", "--config.data.new_reward=beauty --config.extend.checkpoint=FOLDER", "FOLDER"),
        ("distil", "--config.distil.num_steps=2", "config.distil.checkpoint must name the teacher"),
        ("distil", "--config.distil.checkpoint=FOLDER", "FOLDER"),
        ("study", "--config.seed=2", "config.study is missing"),
        ("train", "--config=study:tiny", "must be given to --stage=study; got --stage=train"),
    ],
)
def test_a_stage_that_is_refused_makes_no_folder(capsys, tmp_path, stage, argument, said):
    words = argument.replace("FOLDER", str(tmp_path / "gone")).split()
    run_folder = tmp_path / "run"
    status, _, err = run(capsys, TINY, f"--workdir={run_folder}", f"--stage={stage}", *words)
    assert status == 2 and err.count("\n") == 1 and not run_folder.exists()
    assert said.replace("FOLDER", f"no folder {tmp_path / 'gone'}") in err


@pytest.mark.parametrize("stage", ["distil", "extend"])
def test_a_student_and_missing_records_are_refused_before_a_folder_is_made(capsys, tmp_path, stage):
    trained, folder = tmp_path / "trained", tmp_path / "run"
    (trained / "checkpoints").mkdir(parents=True)
    command = TINY, f"--workdir={folder}", f"--stage={stage}", "--config.data.new_reward=beauty"
    command += (f"--config.{stage}.checkpoint={trained}",)
    config = base.get_config("tiny,no_beauty")
    for student, said in (
        (True, "student"),
        (False, f"there are no records: the folder {trained / 'records'} does not exist. Run"),
    ):
        config.model.rin.student = student
        run_folder.write_config(config, trained / "config.json")
        status, _, err = run(capsys, *command)
        assert status == 2 and said in err and err.count("\n") == 1, err
        assert not folder.exists()
    (trained / "records").mkdir()
    _, _, err = run(capsys, *command)
    assert "records/manifest.json is missing: these records are not complete" in err


def test_a_refused_stage_leaves_no_config_in_the_folder_of_a_trained_run(capsys, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    words = TINY, f"--workdir={tmp_path}", "--stage=evaluate", "--config.mesh.data=3"
    status, _, err = run(capsys, *words)
    assert status == 2 and "must be the 8 devices; got 3 x 1" in err
    assert not list(tmp_path.glob("config*"))


def test_help_names_every_config_of_the_package_and_every_exit_status():
    names = [path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__"]
    named = HELP.partition("--config ")[2].partition("which come")[0]
    assert all(name in named for name in names)
    statuses = HELP.partition("Exit status:")[2]
    known = ends.DONE, ends.FAILED, ends.MISTAKEN, ends.TRY_AGAIN, *(128 + n for n in ENDING)
    assert all(str(status) in statuses for status in known)


def test_help_goes_to_stdout_with_status_0(capsys):
    status, out, err = run(capsys, "--help")
    assert status == 0 and err == ""
    for word in (*entry.STAGES, "tiny", "only_REWARD", "--workdir", "--config=base:tiny"):
        assert word in out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ValueError, 2),
        (FileNotFoundError, 2),
        (OSError, 1),
        (FloatingPointError, 1),
        (RuntimeError, 1),
    ],
)
def test_an_expected_failure_of_a_stage_gives_a_line_and_its_traceback_to_the_log(
    capsys, tmp_path, monkeypatch, kind, expected
):
    def fail(config, workdir):
        raise kind("two\nlines")

    monkeypatch.setitem(entry.STAGES, "annotate", fail)
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path}", "--stage=annotate")
    assert status == expected
    assert err == f"miro-jax train: error: two lines (traceback: {tmp_path / 'log.txt'})\n"
    log = (tmp_path / "log.txt").read_text()
    assert "Traceback" in log and kind.__name__ in log


@pytest.mark.parametrize(
    "error, where",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl"),
            "runs/a/metrics",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "runs/a/file"), "runs/a/file"),
        (ValueError('RESOURCE_EXHAUSTED: "runs/a/8": No space left on device [28]'), "runs/a/8"),
    ],
)
def test_a_full_disk_is_status_1_with_the_path_and_what_to_do(
    capsys, tmp_path, monkeypatch, error, where
):
    def fail(config, workdir):
        raise error

    assert not ends.is_out_of_memory(error)
    monkeypatch.setitem(entry.STAGES, "annotate", fail)
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path}", "--stage=annotate")
    assert status == 1 and err.count("\n") == 1
    assert err.startswith("miro-jax train: error: the disk is full: ") and where in err
    assert err.endswith(". Make room; the same command then resumes from here.\n")


def test_a_full_disk_at_the_start_is_status_1_naming_the_file(capsys, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_atomic", full)
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path}", "--stage=annotate")
    assert status == 1 and err.count("\n") == 1
    where = tmp_path / "config.json"
    assert f"the disk is full: {where} cannot be written. Make room, and try again.\n" in err


def test_stopping_from_the_keyboard_is_one_line(capsys, tmp_path, monkeypatch):
    def stop(config, workdir):
        raise KeyboardInterrupt

    monkeypatch.setitem(entry.STAGES, "annotate", stop)
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path}", "--stage=annotate")
    assert (
        status == 130
        and err == "miro-jax train: error: stopped; the same command resumes from here.\n"
    )


def test_stopping_while_the_command_is_checked_is_one_line(capsys, tmp_path, monkeypatch):
    def waiting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "start_processes", waiting)
    status, _, err = run(capsys, TINY, f"--workdir={tmp_path / 'run'}")
    assert (status, err) == (130, "miro-jax train: error: stopped; nothing has begun.\n")
    assert not (tmp_path / "run").exists()


def test_an_unexpected_failure_is_logged_and_raised(tmp_path, monkeypatch):
    def fail(config, workdir):
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(entry.STAGES, "annotate", fail)
    with pytest.raises(ZeroDivisionError):
        entry.main([TINY, f"--workdir={tmp_path}", "--stage=annotate"])
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


def test_a_stage_gets_the_locked_config_and_leaves_status_0(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(entry.STAGES, "annotate", lambda *given: seen.append(given))
    assert entry.main([TINY, f"--workdir={tmp_path}", "--stage=annotate", "--config.seed=3"]) == 0
    ((config, workdir),) = seen
    assert config.is_locked and config.seed == 3 and workdir == tmp_path
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["stage"] == "annotate" and described["attention"] == "xla"


@pytest.fixture
def order(monkeypatch):
    seen = []
    stages = {"annotate": entry.annotate, "train": training.loop, "evaluate": entry.evaluate.run}
    for name, module in stages.items():
        monkeypatch.setattr(module, "run", lambda *_, name=name, **given: seen.append(name))
    monkeypatch.delitem(entry.CHECKS, "train")  # no records are there, nor read
    return seen


@pytest.mark.parametrize(
    "changes, expected",
    [
        ([], ["annotate", "train", "evaluate"]),
        (["--noconfig.train.report"], ["annotate", "train"]),
        (["--config.source.spec=tar:/data/*.tar"], ["train", "evaluate"]),
    ],
)
def test_training_makes_missing_records_first_and_the_report_last(
    order, tmp_path, changes, expected
):
    assert entry.main([TINY, f"--workdir={tmp_path}", *changes]) == 0
    assert order == expected


def test_training_begins_before_records_are_made_unless_weights_must_be_fetched(
    order, tmp_path, monkeypatch
):
    def train(*_, begun):
        order.append(begun)

    monkeypatch.setattr(training.ahead, "begin", lambda config: order.append("begin") or "begun")
    monkeypatch.setattr(training.loop, "run", train)
    config = base.get_config("tiny")
    training.run(config, tmp_path)
    assert order == ["begin", "annotate", "begun", "evaluate"]
    order.clear()
    config.rewards = ("clip", *config.rewards)  # whose weights one process fetches first
    training.run(config, tmp_path)
    assert order == ["annotate", None, "evaluate"]


def test_records_named_in_the_config_are_made_only_where_they_are_missing(order, tmp_path):
    records = tmp_path / "shared"
    arguments = [TINY, f"--workdir={tmp_path / 'run'}", f"--config.data.records={records}"]
    entry.main(arguments)
    assert order == ["annotate", "train", "evaluate"]
    records.mkdir()
    (records / "manifest.json").write_text("{}")
    order.clear()
    entry.main(arguments)
    assert order == ["train", "evaluate"]


def test_ten_thousand_new_objects_are_no_reason_to_search_for_garbage():
    def searches_meanwhile():
        before = gc.get_stats()[0]["collections"]
        kept = [[] for _ in range(10_000)]
        return gc.get_stats()[0]["collections"] - before + (not kept)

    thresholds = gc.get_threshold()
    try:
        assert ends.leave(searches_meanwhile) == 0
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.slow
def test_as_a_program_a_bad_reward_touches_no_device(tmp_path):
    """jax has no platform to start here: a device would give another error."""
    done = subprocess.run(
        [sys.executable, "-m", "miro_jax.main", TINY, "--workdir=run", "--config.rewards=('x',)"],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "none", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "config.rewards" in done.stderr
    assert list(tmp_path.iterdir()) == []
