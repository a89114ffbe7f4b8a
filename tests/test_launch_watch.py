"""launch/watch.py against a cloud that is a file: whatever happens there, nothing is left."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from tests import fake_cloud

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
sys.path.insert(0, str(LAUNCH))

import cluster  # noqa: E402
import watch  # noqa: E402

TYPES = {"queued": "v6e-16", "mig": "h100-32", "gke": "v5e-16"}
TRAIN = ["miro-jax", "train", "--config=miro", "--config.mesh.distributed=True"]


class Clock:
    """Time that only sleeping takes, so that hours pass at once."""

    def __init__(self):
        self.now, self.strftime = 0.0, time.strftime

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class World:
    """A scenario, and `watch` in it."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.state, self.workdir = folder / "state.json", folder / "run"

    def install(self, *lives, **fails):
        fake_cloud.install(self.folder / "bin", self.state, self.workdir, *lives, **fails)

    def words(self, *more, verb="watch", **options):
        usual = {"max-hours": 10, "tries": 3}
        place = {"zone": "us-east5-b", "type": TYPES.get(self.kind, "")}
        if self.kind == "gke":
            place |= {"cluster": "main", "image": "registry/miro:1"}
        if self.kind == "slurm":
            place = {"hosts": 4}
        given = {"on": self.kind, "name": "miro", "ledger": self.folder / "ledger.json"}
        given |= place | usual | {"call-seconds": 20} | options
        where = self.workdir if self.kind == "slurm" else "gs://bucket/run"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return [verb, *flags, *more, "--", *TRAIN, f"--workdir={where}"]

    def __call__(self, *more, **options):
        return watch.main(self.words(*more, **options))

    def start(self, until, *before):
        """Start the program, behind the words `before`; return it when the cloud saw `until`."""
        program = [*before, sys.executable, str(LAUNCH / "watch.py")]
        command = [*program, *self.words(poll_seconds=0.01)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not self.count(until):
            assert process.poll() is None
            time.sleep(0.02)
        return process

    @property
    def now(self):
        return fake_cloud.change(self.state, dict)

    def count(self, verb):
        of_hosts = self.kind == "mig" and verb not in ("create", "delete")
        return self.now["calls"].count(verb) // (fake_cloud.HOSTS if of_hosts else 1)


@pytest.fixture
def world(request, tmp_path, monkeypatch):
    made = World(tmp_path, getattr(request, "param", "queued"))
    monkeypatch.setattr(watch, "time", Clock())
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    if made.kind == "slurm":  # its script works in the clone that it stands in
        clone = tmp_path / "clone"
        (clone / ".venv/bin").mkdir(parents=True)
        (clone / ".uv/bin").mkdir(parents=True)
        for path in (clone / ".venv/bin/python", clone / ".uv/bin/uv"):
            path.write_text("#!/bin/bash\n")
            path.chmod(0o755)
        (clone / "launch").symlink_to(LAUNCH)
        monkeypatch.setattr(cluster, "LAUNCH", clone / "launch")
    yield made
    if made.state.exists():
        assert not made.now["there"] or getattr(made, "left", False), "machines were left"


ALL = pytest.mark.parametrize("world", watch.KINDS, indirect=True)


@ALL
@pytest.mark.over_a_second
def test_a_run_that_nothing_happens_to_is_complete(world, capsys):
    world.install(["waiting", "creating", "ready", "ready:100", "ready:200!0"])
    assert world() == watch.DONE
    said = capsys.readouterr().err
    assert "the run is complete; step 200" in said
    assert world.count("run") == 1 and not (world.folder / "ledger.json").exists()


@ALL
@pytest.mark.over_a_second
def test_machines_that_are_taken_are_made_again_until_the_run_is_complete(world, capsys):
    world.install(["ready", "ready:100", "preempted"], ["creating", "ready", "ready:400!0"])
    assert world() == watch.DONE
    said = capsys.readouterr().err
    assert "step 400" in said and world.now["life"] == 1 and world.count("run") == 2


@pytest.mark.over_a_second
def test_a_command_that_always_fails_is_given_up(world, capsys):
    world.install(["ready", "ready", "ready!1"])
    assert world() == watch.GAVE_UP
    assert "3 attempts without a newer checkpoint; the last: the command ended with status 1" in (
        capsys.readouterr().err
    )


@ALL
@pytest.mark.over_a_second
def test_a_command_with_wrong_arguments_is_not_tried_again(world, capsys):
    world.install(["ready", "ready", "ready!2"])
    assert world() == watch.BAD
    assert "arguments are wrong" in capsys.readouterr().err and world.count("run") == 1


@pytest.mark.over_a_second
def test_machines_that_are_taken_before_the_first_checkpoint_are_given_up(world, capsys):
    world.install(["ready", "ready", "preempted"])
    assert world() == watch.GAVE_UP
    assert "3 attempts" in capsys.readouterr().err and world.count("create") == 3


@pytest.mark.over_a_second
def test_a_newer_checkpoint_lets_attempts_count_from_none(world):
    lost = [["ready", "ready", f"ready:{step}", "preempted"] for step in (10, 20, 30)]
    world.install(*lost, ["ready", "ready:60!0"])
    assert world(tries=2) == watch.DONE and world.count("create") == 4


@pytest.mark.over_a_second
def test_it_waits_where_there_is_no_capacity(world, capsys):
    world.install(["full", "gone"], ["full", "gone"], ["full", "gone"], ["ready", "ready:9!0"])
    assert world(tries=2) == watch.DONE
    assert "no capacity: ERROR: RESOURCE_EXHAUSTED" in capsys.readouterr().err


@pytest.mark.over_a_second
def test_without_capacity_for_too_long_it_is_given_up(world, capsys):
    world.install(["full", "gone"])
    assert world(wait_hours=0.1) == watch.GAVE_UP
    assert "no machines for" in capsys.readouterr().err


def test_waiting_in_the_queue_is_not_paid_and_has_an_end(world, capsys):
    world.install(["waiting"])
    assert world(wait_hours=0.1, max_hours=0.05) == watch.GAVE_UP
    said = capsys.readouterr().err
    assert "no capacity within" in said and "max-hours" not in said


def test_machines_that_stay_half_made_are_deleted_and_made_again(world):
    world.install(["creating"], ["ready", "ready:9!0"])
    assert world(start_hours=0.05) == watch.DONE and world.count("create") == 2


def test_machines_of_a_create_that_failed_are_deleted_too(world):
    world.install(["late", "creating", "ready"], ["ready", "ready:9!0"])
    assert world() == watch.DONE and world.count("create") == 2


def test_machines_that_vanish_are_made_again(world, capsys):
    world.install(["ready", "ready:5", "gone"], ["ready", "ready:9!0"])
    assert world() == watch.DONE
    assert "the machines were lost (nothing; step 5)" in capsys.readouterr().err


def test_a_service_that_gives_no_answer_changes_nothing(world):
    world.install(["ready", "ready:5", "silent", "silent", "silent", "ready:9!0"])
    assert world() == watch.DONE and world.count("create") == world.count("run") == 1


def test_a_command_that_lost_a_process_starts_again_on_the_same_machines(world):
    world.install(["ready", "ready:5!75", "ready:5", "ready:5", "ready:9!0"])
    assert world() == watch.DONE
    assert (world.count("create"), world.count("run")) == (1, 2)


@pytest.mark.over_a_second
def test_hours_that_are_paid_end_it(world, capsys):
    world.install(["ready", "ready:5"])
    assert world(max_hours=0.1) == watch.GAVE_UP
    assert "--max-hours=0.1 are paid; ACTIVE READY; step 5" in capsys.readouterr().err
    assert world(max_hours=0.1) == watch.GAVE_UP  # also those of the watcher before
    assert world.count("run") == 1


def test_a_run_that_saves_nothing_any_more_gets_other_machines(world, capsys):
    world.install(["ready", "ready:5"], ["ready", "ready:9!0"])
    assert world(stall_hours=0.05) == watch.DONE
    assert "no newer checkpoint within" in capsys.readouterr().err


@pytest.mark.parametrize("world", ["slurm"], indirect=True)
def test_a_job_that_waits_for_its_turn_is_not_taken_for_one_that_saves_nothing(world):
    world.install(["waiting"] * 8 + ["ready", "ready:9!0"])  # a minute each
    assert world(stall_hours=0.05) == watch.DONE and world.count("run") == 1


def test_machines_that_are_seen_again_are_deleted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "time", Clock())
    phases, deleted = [cluster.Phase.GONE, cluster.Phase.READY, *[cluster.Phase.GONE] * 2], []
    service = types.SimpleNamespace(
        phase=lambda: (phases.pop(0), ""), call=lambda verb: (deleted.append(verb) or 0, "", "")
    )
    options = types.SimpleNamespace(workdir=str(tmp_path), poll_seconds=1.0)
    ledger = types.SimpleNamespace(add=lambda seconds: None)
    watch.Watcher(options, service, ledger).delete()
    assert phases == [] and deleted == ["delete"] * 2


def test_what_cannot_be_deleted_at_once_is_deleted_later(world):
    world.install(["ready", "ready:9!0"], delete_fails=5)
    assert world() == watch.DONE


def test_what_cannot_be_deleted_is_said_loudly(world, capsys, monkeypatch):
    monkeypatch.setattr(watch, "DELETES", 3)
    world.install(["ready", "ready:9!0"], delete_fails=99)
    world.left = True
    assert world() == watch.LEFT
    assert "could not be deleted and may cost money (ACTIVE READY" in capsys.readouterr().err


def test_a_host_that_does_not_answer_yet_is_set_up_later(world):
    world.install(["ready", "ready", "ready", "ready:9!0"], setup_fails=2)
    assert world() == watch.DONE
    assert (world.count("create"), world.count("setup")) == (1, 3)


@pytest.mark.parametrize("number", watch.ENDING)
def test_a_signal_ends_it_and_nothing_is_left(world, number):
    world.install(["ready", "ready:5"])
    process = world.start("exits")
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number, said
    assert f"stopped by {number.name}" in said and world.count("delete")


def test_under_nohup_a_watch_goes_on_when_its_terminal_closes(world):
    world.install(["ready", "ready:5"])
    process = world.start("exits", "nohup")
    process.send_signal(signal.SIGHUP)
    looks = world.count("exits")
    while world.count("exits") < looks + 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in said


def test_a_signal_while_machines_are_made_leaves_none(world):
    world.install(["slow", "creating", "ready"])
    process = world.start("create")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # from a hand that does not wait
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said


@pytest.mark.over_a_second
def test_a_watcher_that_is_started_again_finds_the_run_and_starts_nothing(world):
    world.install(["ready", "ready:5"])
    process = world.start("exits")
    process.kill()
    process.communicate()
    # A call that the killed one had begun may still move on by a beat, so there are many.
    beats = [*(f"ready:{step}" for step in range(6, 16)), "ready:16!0"]
    fake_cloud.change(world.state, lambda state: state.update(beats=beats, age=0))
    assert world() == watch.DONE
    assert (world.count("create"), world.count("run")) == (1, 1)


def test_a_second_watcher_is_refused_and_deletes_nothing(world, capsys):
    world.install(["ready", "ready:5"])
    process = world.start("exits")
    assert world() == watch.BAD
    assert "another process watches this run" in capsys.readouterr().err
    assert world.now["there"]
    process.terminate()
    process.communicate(timeout=20)


@ALL
def test_a_program_that_is_missing_is_named_before_anything_is_done(world, capsys, monkeypatch):
    (world.folder / "empty").mkdir()
    monkeypatch.setenv("PATH", str(world.folder / "empty"))
    assert world() == watch.BAD
    name = "sbatch" if world.kind == "slurm" else "gcloud"
    said = capsys.readouterr().err
    assert f"error: {name} must be installed here and on PATH: --on={world.kind} or" in said
    assert not (world.folder / "ledger.json").exists()


@pytest.mark.parametrize(
    "words, together",
    [
        (["--config.mesh.distributed=True"], True),
        (["--config.mesh.distributed=1"], True),
        (["--config.mesh.distributed", "--workdir=runs/miro"], True),
        ([], False),
        (["--config.mesh.distributed=False"], False),
        (["--config.mesh.distributed=True", "--noconfig.mesh.distributed"], False),
        (["--noconfig.mesh.distributed", "--config.mesh.distributed=true"], True),
    ],
)
def test_hosts_that_would_train_each_for_itself_are_refused(words, together):
    command = ["miro-jax", "train", "--config=miro", *words]
    watch.check_processes(command, 1)
    if together:
        return watch.check_processes(command, 4)
    with pytest.raises(ValueError, match="4 hosts train together with --config.mesh.distributed"):
        watch.check_processes(command, 4)


def test_the_folder_of_the_run_is_read_as_the_command_reads_it(world):
    *words, _ = world.words()
    for last in (["--workdir=gs://bucket/a"], ["--workdir", "gs://bucket/a"]):
        assert watch.read([*words, "--workdir=gs://bucket/b", *last]).workdir == "gs://bucket/a"


def test_machines_are_deleted_without_the_command_that_ran_there():
    words = ["delete", "--on=queued", "--name=miro", "--zone=us-east5-b", "--type=v6e-16"]
    assert watch.read(words).command == [] and watch.read([*words, "--"]).workdir == ""
