"""`miro-jax doctor`: what it finds on a machine, its exit statuses, its rates."""

import json
import types

import jax
import pytest

from miro_jax.cli import machine
from miro_jax.evaluate import doctor, speed


@pytest.fixture
def one_cpu(monkeypatch):
    """The machine looks like one without an accelerator."""
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: [])


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_a_sound_machine_has_nothing_in_the_way(one_cpu, tmp_path, capsys):
    assert doctor.main([f"--workdir={tmp_path}/runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[1].rstrip(":") for line in lines]
    assert {"Python", "packages", "devices", "attention", "processor", "hub"} <= set(names)
    assert not any(line.startswith("FAIL") for line in lines)
    assert not (tmp_path / "runs").exists()  # looked at, not made


def test_an_accelerator_that_jax_does_not_use_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(
        machine.glob, "glob", lambda pattern: ["/dev/nvidia0"] if "nvidia" in pattern else []
    )
    (found,) = [f for f in machine.examine(tmp_path) if f.name == "NVIDIA GPU"]
    assert found.state == machine.WARNING
    assert "pip install 'miro_jax[cuda12]'" in found.text


@pytest.mark.parametrize("path", ["/dev/accel0", "/dev/vfio/0"])
def test_a_tpu_that_jax_does_not_use_is_named_by_either_driver(path, monkeypatch, tmp_path):
    monkeypatch.setattr(
        machine.glob, "glob", lambda pattern: [path] if pattern[:9] == path[:9] else []
    )
    (found,) = [f for f in machine._devices() if f.name == "TPU"]
    assert found.state == machine.WARNING and "miro_jax[tpu]" in found.text


def test_without_a_device_it_fails_and_times_nothing(one_cpu, monkeypatch, tmp_path, capsys):
    def broken():
        raise RuntimeError("Unable to initialize\nbackend 'cuda'")

    monkeypatch.setattr(machine.jax, "devices", broken)
    monkeypatch.setattr(speed, "measure", lambda settings: pytest.fail("timed"))
    assert doctor.main([f"--workdir={tmp_path}", "--benchmark"]) == 1
    out = capsys.readouterr().out
    assert "FAIL devices: JAX finds no device: Unable to initialize backend 'cuda'\n" in out


def test_a_package_that_is_missing_fails(one_cpu, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PACKAGES", ("jax", "no-such-package"))
    assert states(machine.examine(tmp_path))["packages"] == machine.FAILED


def test_a_folder_that_takes_no_file_is_a_warning(one_cpu, monkeypatch, tmp_path):
    def refuse(**kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    (found,) = [f for f in machine.examine(tmp_path) if f.name == "folder of runs"]
    assert found.state == machine.WARNING
    assert found.text == f"{tmp_path} cannot be written: Read-only file system. Take another folder"


def test_a_folder_that_cannot_be_made_is_a_failure(one_cpu, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for workdir in (file, file / "run"):
        assert doctor.main([f"--workdir={workdir}"]) == 1
        (line,) = [x for x in capsys.readouterr().out.splitlines() if str(workdir) in x]
        said = f"{workdir} cannot be written: Not a directory. Take another --workdir"
        assert line == f"FAIL store: {said}"


def test_the_usual_folder_need_not_be_writable(one_cpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / machine.RUNS).write_text("")  # no folder
    assert states(machine.examine())["store"] == machine.WARNING
    assert states(machine.examine(machine.RUNS))["store"] == machine.FAILED


def test_little_room_is_a_warning(one_cpu, monkeypatch, tmp_path):
    usage = types.SimpleNamespace(free=1 << 30)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(machine, "memory_limit", lambda: 2 << 30)
    found = states(machine.examine(tmp_path))
    assert found["folder of runs"] == found["processor"] == machine.WARNING


def test_memory_is_that_of_the_control_group(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: "max")
    whole = machine.memory_limit()
    monkeypatch.setattr(machine, "_read", lambda path: "1048576")
    assert machine.memory_limit() == 1 << 20 < whole


def test_a_config_that_is_not_there_is_a_bad_argument(capsys):
    assert doctor.main(["--benchmark", "--config=nope"]) == 2
    assert (
        "--config must be base, miro, study or an existing Python file" in capsys.readouterr().err
    )


@pytest.mark.parametrize("workdir", ["", "s3:/bucket/runs"])
def test_a_folder_that_training_refuses_is_a_bad_argument(workdir, capsys):
    assert doctor.main([f"--workdir={workdir}"]) == 2
    assert "--workdir must be a folder, or a URL with two slashes; got" in capsys.readouterr().err


def test_image_latents_of_the_configs():
    assert doctor.latent_shape(doctor.read_config("base")) == (16, 16, 3)
    assert doctor.latent_shape(doctor.read_config("miro")) == (32, 32, 4)
    assert doctor.latent_shape(doctor.read_config("miro:512")) == (64, 64, 4)


@pytest.mark.slow
def test_rates_are_those_of_the_timed_work(one_cpu, tmp_path, capsys):
    words = ["--benchmark", "--config=base:tiny", "--seconds=0.1", "--json"]
    assert doctor.main([f"--workdir={tmp_path}", *words]) == 0
    rates = json.loads(capsys.readouterr().out)["rates"]
    assert [rate["unit"] for rate in rates] == ["products", "images", "images"]
    product = rates[0]
    assert product["tflops"] == pytest.approx(2 * 2048**3 * product["per_second"] / 1e12)
    assert all(rate["per_second"] > 0 and rate["compile_seconds"] > 0 for rate in rates)
    assert jax.devices()[0].platform == "cpu"


def test_each_line_begins_with_its_state(one_cpu, tmp_path, capsys):
    doctor.main([f"--workdir={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and all(line[:5] in ("OK   ", "WARN ", "FAIL ") for line in lines)
