"""The checks of `miro-jax doctor` beside those of the machine itself; each is made to fail once."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from miro_jax.cli import cluster, devices, fit, machine, pull, surroundings
from miro_jax.cli.exit import UsageError
from miro_jax.cli.finding import FAILED, OK, WARNING
from miro_jax.data import storage
from miro_jax.evaluate import doctor


@pytest.fixture
def installed(monkeypatch):
    """Say which versions are installed, and what packages want of others."""

    def install(wants=(), **versions):
        monkeypatch.setattr(fit, "version", lambda name: versions.get(name.replace("-", "_"), ""))
        monkeypatch.setattr(fit, "_bounds", lambda name: dict(wants).get(name, ()))

    return install


def test_the_packages_of_this_environment_fit_together():
    assert fit.check(machine.PACKAGES).state == OK


def test_a_bound_that_is_not_met_is_named_with_what_to_install(installed):
    wants = {"flax": ["jax>=0.10", "optax>=0.3", "treescope", "x; extra == 'y'"]}
    installed(wants, flax="0.12.8", jax="0.10.2", optax="0.2.8")
    its = fit.check(["flax"])
    assert its.state == FAILED
    assert "flax needs optax>=0.3, there is 0.2.8: pip install 'optax>=0.3'" in its.text
    assert "flax needs treescope: pip install treescope" in its.text
    assert "jax>=" not in its.text and "x" not in its.text.split()


@pytest.mark.parametrize(
    ("flax", "jax_version", "state"),
    [
        ("0.12.8", "0.10.2", OK),
        ("0.12.8", "0.11.1", FAILED),
        ("0.12.12", "0.10.2", FAILED),
        ("0.12.12", "0.11.2", OK),
    ],
)
def test_flax_and_jax_move_together(flax, jax_version, state, installed):
    installed(flax=flax, jax=jax_version)
    its = fit.check([])
    assert its.state == state and (state == OK or "pip install 'flax" in its.text)


def test_a_plugin_of_another_version_than_jax_is_a_warning(installed):
    installed(jaxlib="0.10.2", jax_cuda12_plugin="0.10.1")
    its = fit.check([])
    assert its.state == WARNING and "jax-cuda12-plugin 0.10.1 beside jaxlib 0.10.2" in its.text


@pytest.mark.parametrize(("libtpu", "state"), [("0.0.42.1", OK), ("0.0.17", WARNING), ("", OK)])
def test_a_libtpu_that_jax_was_not_released_with_is_a_warning(libtpu, state, installed):
    wants = {"jax": ["numpy>=1", 'libtpu==0.0.42.*; extra == "tpu"']}
    installed(wants, jax="0.10.2", jaxlib="0.10.2", libtpu=libtpu)
    its = fit.check([])
    assert its.state == state
    if state != OK:
        assert its.text == (
            "jax needs libtpu==0.0.42.*, there is 0.0.17: pip install 'libtpu==0.0.42.*'"
        )


def test_all_devices_compute_and_add_up():
    found = devices.compute()
    assert [(f.name, f.state) for f in found] == [("product", OK), ("collective", OK)]
    assert "on 8 devices" in found[1].text


def test_a_device_that_computes_wrong_is_named(monkeypatch):
    def broken(arrays):
        product, total = map(np.array, arrays)
        product[300, 5] += 1  # devices have 128 rows each
        return product, total

    monkeypatch.setattr(devices.jax, "device_get", broken)
    product, collective = devices.compute()
    assert product.state == FAILED and f"wrong on {jax.local_devices()[2]}" in product.text
    assert collective.state == OK


def test_devices_that_do_not_compute_fail(monkeypatch):
    def broken(arrays):
        raise RuntimeError("NCCL operation failed:\nunhandled system error")

    monkeypatch.setattr(devices.jax, "device_get", broken)
    (its,) = devices.compute()
    assert its.state == FAILED and "NCCL operation failed: unhandled system error" in its.text


def test_drivers_and_who_holds_a_tpu(monkeypatch, tmp_path):
    chip = tmp_path / "accel0"
    chip.write_bytes(b"")
    shown = {devices.NVIDIA: ["/dev/nvidia0"], cluster.TPUS[0]: [str(chip)]}
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: shown.get(pattern, []))
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(devices, "version", lambda name: "")
    code = "import sys; f = open(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(chip)], **pipes) as holder:
        holder.stdout.readline()
        found = devices.drivers()
        holder.stdin.close()
    assert [f.name for f in found] == ["driver", "libtpu", "TPU"]
    assert all(f.state == FAILED for f in found)
    assert f"kill {holder.pid}" in found[2].text
    assert devices.holders([str(chip)]) == []
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX  x86_64  575.1\nGCC")
    assert devices.drivers()[0].text == "NVIDIA UNIX x86_64 575.1"


def test_few_open_files_are_a_warning(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (256, 1024))
    (its,) = machine._open_files()
    assert its.state == WARNING and "at most 1024: ulimit -Hn 4096" in its.text


def test_a_folder_takes_files_and_shares_our_clock(tmp_path):
    found = surroundings.store(tmp_path / "not" / "yet")
    assert [(f.name, f.state) for f in found] == [("store", OK), ("clock", OK)]
    assert list(tmp_path.iterdir()) == []
    late = surroundings.store(tmp_path, clock=lambda: time.time() + 90)[1]
    assert late.state == WARNING and late.text.startswith("+90 s against the store's: set the")
    early = surroundings.store(tmp_path, clock=lambda: 1e9)[1]
    assert early.state == FAILED and "before the package was installed" in early.text


@pytest.mark.parametrize("make", ["make_bucket", "make_gs_bucket"])
def test_a_bucket_takes_files_and_tells_the_time(request, make):
    url = f"{request.getfixturevalue(make)()}/doctor"
    found = surroundings.store(url)
    assert [(f.name, f.state) for f in found] == [("store", OK), ("clock", OK)], found
    assert "within" in found[1].text and storage.open_folder(url).names() == []
    late = surroundings.store(url, clock=lambda: time.time() + 90)[1]
    assert late.state == WARNING and "s against the store's" in late.text


def test_a_store_that_gives_a_name_twice_or_nothing_fails(monkeypatch):
    def create(self, name, path):
        self.write(name, path.read_bytes())
        return True

    monkeypatch.setattr(storage.RemoteFolder, "create", create)
    (its,) = surroundings.store("memory://doctor")
    assert its.state == FAILED and "gives a name to two who create it" in its.text
    (its,) = surroundings.store("ftp://host/doctor")
    assert its.state == FAILED and "must be local or of gs" in its.text


def variables(monkeypatch, port, index):
    for name, value in (
        ("COORDINATOR_ADDRESS", f"127.0.0.1:{port}"),
        ("NUM_PROCESSES", "2"),
        ("PROCESS_ID", str(index)),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)


def test_process_0_is_reached_or_the_remedy_is_told(monkeypatch):
    assert surroundings.coordinator()[0].text == "one: no scheduler names more"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables(monkeypatch, port, 1)
        assert "it listens" in surroundings.coordinator()[0].text
        variables(monkeypatch, port, 0)
        (its,) = surroundings.coordinator()
        assert its.state == FAILED and f"port {port} is taken" in its.text
    assert f"port {port} is free" in surroundings.coordinator()[0].text
    variables(monkeypatch, port, 1)
    (its,) = surroundings.coordinator()
    assert its.state == OK and "does not listen yet" in its.text
    monkeypatch.setattr(surroundings.roll_call, "reach", lambda *_: "no answer: a firewall?")
    (its,) = surroundings.coordinator()
    assert its.state == FAILED and f"Let tcp:{port} pass" in its.text and "8476" in its.text
    variables(monkeypatch, port, 2)
    assert surroundings.coordinator()[0].state == FAILED


@pytest.fixture
def cache(tmp_path):
    """A cache of the hub with the autoencoder in it, its weights named by their digest."""
    (need,) = pull.needs()["sdxl_vae"]
    folder = tmp_path / f"models--{need.source.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for name, data in (("config.json", b"{}"), (f"{need.stem}.safetensors", b"weights")):
        digest = hashlib.sha256(data).hexdigest() if name != "config.json" else "1f"
        (folder / "blobs" / digest).write_bytes(data)
        os.symlink(f"../../blobs/{digest}", folder / "snapshots" / "abc" / name)
    return tmp_path


def test_weights_are_looked_for_and_their_digests_computed(cache):
    assert surroundings.weights([], cache)[0].text == "sdxl_vae"
    (its,) = surroundings.weights(["sdxl_vae"], cache)
    assert its.state == OK and its.text == "2 files, 1 of them by their digest"
    blob = next(p for p in cache.rglob("blobs/*") if len(p.name) == 64)
    blob.write_bytes(b"weighty")
    (its,) = surroundings.weights(["sdxl_vae"], cache)
    assert its.state == FAILED and f"delete {blob} and fetch it again" in its.text
    blob.unlink()
    (its,) = surroundings.weights(["sdxl_vae"], cache)
    assert its.state == FAILED and "miro-jax weights pull" in its.text
    assert "none in" in surroundings.weights([], cache)[0].text


def test_an_unknown_name_of_weights_is_a_bad_argument(capsys):
    assert doctor.main(["--weights=nope"]) == 2
    assert "NAME must be all, a hub id, or some of" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"got nope, neither\.$"):
        pull.choose(["all", "nope", "neither"])


def test_the_doctor_takes_a_url_and_answers_in_json(monkeypatch, capsys):
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: [])
    assert doctor.main(["--workdir=memory://doctor/runs", "--json"]) == 0
    found = {f["name"]: f["state"] for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["store"] == found["product"] == found["processes"] == OK
    assert "folder of runs" not in found
