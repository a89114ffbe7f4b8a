"""What launch/host.sh does on a host, and the files that become images and jobs."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import pytest
import yaml

from tests import compiling

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
sys.path.insert(0, str(LAUNCH))

import cluster  # noqa: E402
import machines  # noqa: E402
import together  # noqa: E402
import watch  # noqa: E402


@pytest.fixture
def host(tmp_path):
    """Variables of a host with a clone; `sudo` and others write down how they are called."""
    bin = tmp_path / "bin"
    (tmp_path / "home/miro_jax/.venv/bin").mkdir(parents=True)
    bin.mkdir()
    for name in ("sudo", "git", "uv"):
        (bin / name).write_text(f'#!/bin/bash\necho {name} "$@" >> "$LOG"\n')
        (bin / name).chmod(0o755)
    uv = tmp_path / "home/.uv/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.symlink_to(bin / "uv")
    for name in ("python", "miro-jax"):
        path = tmp_path / "home/miro_jax/.venv/bin" / name
        path.write_text(f'#!/bin/bash\necho {name} "$@" >> "$LOG"\n')
        path.chmod(0o755)
    usual = {"REPOSITORY": "https://x/y", "REVISION": "abc", "EXTRA": "tpu", "COMMAND": "true"}
    places = {"HOME": str(tmp_path / "home"), "LOG": str(tmp_path / "log")}
    return os.environ | usual | places | {"PATH": f"{bin}:{os.environ['PATH']}"}


def run(verb, variables):
    """Send host.sh and a verb as the scripts do."""
    text = (LAUNCH / "host.sh").read_text() + verb
    done = subprocess.run(
        ["bash", "-c", text], env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(path):
    while not path.exists():
        time.sleep(0.02)
    return path.read_text()


def test_setup_installs_the_pinned_package_on_python_3_12_and_looks_at_the_host(host):
    run("setup", host | {"WORKDIR": "gs://b/run", "DEVICES": "16", "HOSTS": "4"})
    log = pathlib.Path(host["LOG"]).read_text()
    assert "git checkout --quiet --detach abc" in log
    assert "sudo sh -c echo always > /sys/kernel/mm/transparent_hugepage/enabled" in log
    assert "--constraint=constraints-3.12.txt --editable=.[tpu,gcs]" in log
    assert log.splitlines()[-2:] == [
        "miro-jax doctor --workdir=gs://b/run",
        "python launch/together.py 16 4",
    ]
    assert '.uv/bin/uv" venv --quiet --python=3.12' in (LAUNCH / "host.sh").read_text()


def test_devices_are_counted_and_must_add_up(capsys):
    assert together.main(["8", "1"]) == together.main(["0", "1"]) == 0
    assert together.main(["16", "1"]) == 1
    assert "must be 16 devices on 1 hosts; got 8 on 1" in capsys.readouterr().err


@pytest.mark.slow
def test_hosts_add_up_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, str(LAUNCH / "together.py"), "4", "2"],
            env=os.environ
            | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
            | {"JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT)}
            | {"XLA_FLAGS": compiling.xla_flags(2)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert "4 devices on 2 hosts add up" in said[0]


def test_a_command_runs_detached_and_its_exit_status_is_kept(host):
    home = pathlib.Path(host["HOME"])
    assert run("exits", host) == ""  # nothing was started
    run("run", host | {"COMMAND": "echo 'it runs'; exit 75"})
    assert wait_for(home / "run.exit") == "75\n"
    assert run("exits", host) == "75\n" and run("logs", host) == "it runs\n"


@pytest.mark.over_a_second
def test_a_run_is_stopped_before_the_next_one_begins(host):
    home = pathlib.Path(host["HOME"])
    run("run", host | {"COMMAND": "trap 'touch ~/saved; exit 143' TERM; sleep 60 & wait"})
    assert run("exits", host) == "running\n"
    time.sleep(0.2)
    run("run", host)
    assert (home / "saved").exists()  # it was told, and had the time to save
    assert wait_for(home / "run.exit") == "0\n"


@pytest.mark.over_a_second
def test_a_process_that_was_killed_counts_as_failed(host):
    run("run", host | {"COMMAND": "sleep 60"})
    pid = int(pathlib.Path(host["HOME"], "run.pid").read_text())
    while os.getpgid(pid) != pid:
        time.sleep(0.02)
    os.killpg(pid, 9)
    while run("exits", host) == "running\n":
        time.sleep(0.02)
    assert run("exits", host) == "137\n"


def test_chips_that_a_dead_process_holds_are_freed_before_a_run(host):
    run("run", host)
    log = pathlib.Path(host["LOG"]).read_text()
    assert re.search(r"sudo fuser --silent --kill /dev/vfio/\S+ /dev/accel", log)
    assert "sudo rm -f /tmp/libtpu_lockfile" in log


def test_variables_of_an_earlier_run_over_several_slices_are_dropped(host):
    stale = {"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.9", "MEGASCALE_NUM_SLICES": "4"}
    run("run", host | stale | {"COMMAND": "env"})
    wait_for(pathlib.Path(host["HOME"], "run.exit"))
    assert "MEGASCALE" not in run("logs", host)


@pytest.mark.parametrize("name", ["queued.sh", "mig.sh"])
def test_hosts_are_given_the_port_of_the_coordinator(name):
    text = (LAUNCH / name).read_text()
    assert "JAX_COORDINATOR_PORT=$PORT" in text or "JAX_COORDINATOR_ADDRESS=$FIRST:$PORT" in text
    assert watch.make_parser().get_default("port") == 8482


@pytest.mark.parametrize(
    "kind, name, wanted",
    [
        ("queued", "v4-32", "v4-32 tpu-ubuntu2204-base 4 4 2x2x4"),
        ("queued", "v5e-16", "v5litepod-16 v2-alpha-tpuv5-lite 4 4 4x4"),
        ("queued", "v5litepod-8", "v5litepod-8 v2-alpha-tpuv5-lite 1 8 2x4"),
        ("queued", "v5p-16", "v5p-16 v2-alpha-tpuv5 2 4 2x2x2"),
        ("gke", "v6e-256", "v6e-256 v2-alpha-tpuv6e 64 4 16x16"),
        ("mig", "tpu7x-128", "tpu7x-128  16 4 4x4x4"),
        ("mig", "h100-16", "h100-16  2 8 "),
        ("mig", "h100-1", "h100-1  1 1 "),
    ],
)
def test_each_type_has_its_image_its_hosts_and_its_topology(kind, name, wanted):
    found = machines.machine(kind, name)
    assert " ".join(found[k] for k in ("TYPE", "RUNTIME", "HOSTS", "CHIPS", "TOPOLOGY")) == wanted


@pytest.mark.parametrize(
    "kind, name, text",
    [
        ("queued", "tpu7x-16", "--on=queued serves v4, v5e, v5p, v6e; got tpu7x-16"),
        ("queued", "h100-8", "Take --on=gke or --on=mig"),
        ("mig", "v4-32", "--on=mig does not serve v4"),
        ("gke", "v5e-12", "slices have 4, 8, 16, 32, ... chips, such as v5e-16"),
        ("gke", "v5p-15", "2 of its number are a chip"),
        ("mig", "h100-12", "machines have 1, 2, 4, 8 of them"),
        ("mig", "v9-4", "must be one of v4, v5e,"),
    ],
)
def test_a_type_that_cannot_be_had_is_refused_with_what_can(kind, name, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        machines.machine(kind, name)


def job_of_gke(name):
    """The JobSet of a type of machines, with the variables that filled it."""
    words = ["run", "--on=gke", "--cluster=c", "--image=i:1", "--name=m", "--zone=z-1-a"]
    command = ["bash", "-c", 'echo "$HOME: it\'s"']
    options = watch.read([*words, f"--type={name}", "--", *command])
    variables = os.environ | cluster.variables_of(options) | {"POOL": "m", "RESTARTS": "10"}
    text = re.search(r"python3 -c '(.*)'", (LAUNCH / "gke.sh").read_text())[1]
    done = subprocess.run(
        [sys.executable, "-c", text],
        input=(LAUNCH / "train-gke.yaml").read_text(),
        env=variables,
        capture_output=True,
        text=True,
    )
    (job,) = yaml.safe_load_all(done.stdout)
    return job, variables


def test_the_job_of_gke_is_filled_with_the_variables_of_a_type():
    job, variables = job_of_gke("v5e-16")
    (part,) = job["spec"]["replicatedJobs"]
    spec = part["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 4 and job["metadata"]["name"] == "m"
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == [json.loads(variables["COMMAND_JSON"])]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["JAX_COORDINATOR_ADDRESS"] == "m-hosts-0-0.m:8482"
    assert int(values["NUM_WORKERS"]) == spec["completions"]
    assert {"containerPort": 8482} in container["ports"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [watch.BAD]


@pytest.mark.parametrize(("name", "is_tpu"), [("v6e-16", True), ("h100-16", False)])
def test_pods_on_tpus_name_their_slice_and_may_lock_memory(name, is_tpu):
    job, _ = job_of_gke(name)
    pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    labels = {"cloud.google.com/gke-nodepool": "m"}
    if is_tpu:
        labels["cloud.google.com/gke-tpu-accelerator"] = "tpu-v6e-slice"
        labels["cloud.google.com/gke-tpu-topology"] = "4x4"
    assert pod["nodeSelector"] == labels
    (container,) = pod["containers"]
    raised = ["prlimit", "--memlock=68719476736"] if is_tpu else []
    assert container["command"] == [*raised, "bash", "-c"]
    root = {"runAsUser": 0, "capabilities": {"add": ["SYS_RESOURCE"]}}
    assert container["securityContext"] == (root if is_tpu else {})


def test_programs_of_a_job_are_kept_with_the_run_and_not_in_a_pod_that_goes():
    job, _ = job_of_gke("v6e-16")
    pod = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    names = {entry["name"] for entry in pod["containers"][0]["env"]}
    assert not names & {"JAX_COMPILATION_CACHE_DIR", "MIRO_JAX_CACHE"}


def test_the_job_of_slurm_saves_before_its_time_is_over_and_is_queued_again():
    text = (LAUNCH / "train-slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert asked["signal"].startswith("TERM@") and asked["ntasks-per-node"] == "1"
    assert "#SBATCH --requeue" in text and "--kill-on-bad-exit=1" in text


def instructions():
    """The Dockerfile as (instruction, arguments)."""
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def test_the_image_is_pinned_and_its_user_is_not_root():
    found = instructions()
    assert {name for name, _ in found} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER"}
    ((_, base),) = [one for one in found if one[0] == "FROM"]
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", base)
    (user,) = [text for name, text in found if name == "USER"]
    assert user not in ("root", "0") and any(
        f"useradd --uid 1000 --create-home {user}" in text for _, text in found
    )
    after = found[[name for name, _ in found].index("USER") :]
    assert {name for name, _ in after} <= {"USER", "WORKDIR"}
    (pip,) = [text for _, text in found if text.startswith("pip install")]
    assert "--constraint constraints-3.12.txt" in pip and '".[${EXTRAS}]"' in pip


def test_the_image_gets_what_it_copies_and_extras_that_there_are():
    setup = (ROOT / "setup.py").read_text()
    text = (LAUNCH / "Dockerfile").read_text()
    named = re.findall(r"EXTRAS=([\w,]+)", text)
    assert len(named) == 3
    for extra in {word for words in named for word in words.split(",")}:
        assert f'"{extra}": [' in setup
    for name, words in instructions():
        if name == "COPY":
            assert all((ROOT / word).exists() for word in words.split()[:-1])
