"""The files in launch/: parsed, variables resolved; the program accepts what they end in."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from configs import miro
from miro_jax import annotate
from miro_jax.annotate import stage
from miro_jax.annotate.plan import plan
from miro_jax.annotate.settings import Settings, make_parser
from miro_jax.cli.flags import make_settings
from miro_jax.data.shapes import world

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("it's a source")  # a blank and a quote
    world.write_shards(folder, 12, 24, 2)
    return f"tar:{folder}/*.tar"


@pytest.fixture
def machine(tmp_path):
    """A home with a clone and its environment, and stand-ins for programs; returns variables.

    The interpreter of the clone is ours with --plan after all arguments. gcloud writes down what
    it is told and runs --command at home; curl answers as the metadata of a slice do.
    """
    clone, bin = tmp_path / "home" / "miro_jax", tmp_path / "bin"
    (clone / ".venv" / "bin").mkdir(parents=True)
    bin.mkdir()
    told = 'case $word in --command=*) cd $HOME; bash -c "${word#*=}";; esac'
    stubs = {
        clone / ".venv/bin/python": f'exec {sys.executable} "$@" --plan',
        bin / "srun": 'exec "$@"',
        bin / "gcloud": f'printf "%s\\n" "$@" >> $LOG\nfor word in "$@"; do {told}; done',
        bin / "curl": 'case "$*" in *agent-worker-number) echo -n 2;; *) echo -n a:1,b:2,c:3,d:4;; '
        "esac",
    }
    for path, text in stubs.items():
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return os.environ | {
        "HOME": str(clone.parent),
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": str(clone / ".venv/bin/python"),
        "LOG": str(tmp_path / "log"),
        "OUT": str(tmp_path / "out"),
    }


def run(script, variables, *arguments):
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_there_is_a_launcher_for_each_kind_of_cluster():
    there = {path.name for path in LAUNCH.iterdir() if path.name != "__pycache__"}
    annotates = {"annotate-gke.yaml", "annotate-slurm.sh", "tpu-annotate.sh"}
    trains = {"gke.sh", "mig.sh", "queued.sh", "slurm.sh", "train-gke.yaml", "train-slurm.sh"}
    watches = {"watch.py", "cluster.py", "ledger.py", "machines.py", "stopping.py"}
    hosts = {"Dockerfile", "host.sh", "together.py"}
    assert there == annotates | trains | watches | hosts


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_parsed_executable_and_strict(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK) and "\nset -euo pipefail\n" in script.read_text()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("annotate-slurm.sh", "SOURCE: a source, as tar:/data"),
        ("tpu-annotate.sh", "SOURCE: a source, as tar:gs://"),
    ],
)
def test_a_missing_variable_is_named(machine, script, text):
    done = run(script, {k: v for k, v in machine.items() if k not in ("SOURCE", "NAME")})
    assert done.returncode != 0 and text in done.stderr


def test_the_indexed_job_ends_in_a_command_that_is_accepted(source, tmp_path, monkeypatch, capsys):
    (job,) = yaml.safe_load_all((LAUNCH / "annotate-gke.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(variables["NUM_WORKERS"])
    assert container["command"] == ["python", "-m", "miro_jax.annotate"]
    variables |= {"SOURCE": source, "OUT": str(tmp_path / "out")}
    used = re.findall(r"\$\((\w+)\)", " ".join(container["args"]))
    assert used == ["SOURCE", "OUT", "REWARDS"]
    arguments = [re.sub(r"\$\((\w+)\)", lambda m: variables[m[1]], a) for a in container["args"]]
    monkeypatch.setenv("NUM_WORKERS", variables["NUM_WORKERS"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert annotate.main([*arguments, "--plan"]) == 0
    said = capsys.readouterr()
    assert "worker 3 of 64 (JOB_COMPLETION_INDEX)" in said.err
    assert "pieces: 6, of which this worker does 1" in said.out
    assert "vqa: vqa" in said.out and "encode: flan_t5" in said.out


def flags_of(name):
    """What a launcher tells the program of rewards and encoders."""
    text = (LAUNCH / name).read_text()
    (rewards,) = re.findall(r"REWARDS(?:, value: \"|:-)([\w,]+)", text)
    found = re.findall(r"--(?:image-encoder|caption-encoder|dtype)=[^\s\\]+|--one-by-one", text)
    return [f"--rewards={rewards}", *sorted(set(found))]


@pytest.mark.parametrize("name", ["annotate-gke.yaml", "annotate-slurm.sh", "tpu-annotate.sh"])
def test_launchers_make_the_records_that_the_paper_s_configuration_trains_on(
    name, source, tmp_path
):
    arguments = [f"--source={source}", f"--out={tmp_path}/out", *flags_of(name)]
    job = plan(make_settings(Settings, make_parser().read(arguments)))
    config = miro.get_config("")
    config.source.spec = source
    wanted = plan(stage.settings_of(config, tmp_path / "run"))
    assert job.request == wanted.request
    assert job.toolbox.dtype == wanted.toolbox.dtype == "bfloat16"
    usual = {"weights": None}
    assert usual | job.toolbox.caption_encoder == wanted.toolbox.caption_encoder
    usual |= {"dtype": "float32"}
    assert usual | job.toolbox.image_encoder == wanted.toolbox.image_encoder
    ours, theirs = job.settings, wanted.settings
    assert ours.one_by_one and theirs.one_by_one and ours.batch_size == theirs.batch_size


@pytest.mark.slow
def test_the_slurm_array_ends_in_a_command_that_is_accepted(machine, source):
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}
    done = run("annotate-slurm.sh", machine | slurm | {"SOURCE": source})
    assert done.returncode == 0, done.stderr
    assert "worker 1 of 4 (SLURM_ARRAY_TASK_ID)" in done.stderr
    assert "pieces: 6, of which this worker does 2" in done.stdout
    again = machine | slurm | {"SOURCE": source, "WORKERS": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    done = run("annotate-slurm.sh", again)
    assert "worker 1 of 3 (as requested)" in done.stderr and "does 2" in done.stdout
    merged = run(
        "annotate-slurm.sh", machine | {"SOURCE": source, "SLURM_ARRAY_TASK_ID": ""}, "--merge"
    )
    assert merged.returncode == 0 and "does 6" in merged.stdout


def test_the_slurm_script_asks_for_what_it_tells_the_program():
    text = (LAUNCH / "annotate-slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert asked["array"] == "0-63" and asked["ntasks"] == "1" and "#SBATCH --requeue" in text


@pytest.mark.slow
def test_each_host_of_a_slice_takes_its_own_pieces(machine, source):
    variables = machine | {"SOURCE": source, "NAME": "miro", "ZONE": "z"}
    done = run("tpu-annotate.sh", variables, "--max-failure-rate=0.02")
    assert done.returncode == 0, done.stderr
    assert "worker 2 of 4 (as requested)" in done.stderr
    assert "pieces: 6, of which this worker does 1" in done.stdout
    log = pathlib.Path(machine["LOG"]).read_text()
    assert log.startswith("compute\ntpus\ntpu-vm\nssh\nmiro\n--zone=z\n--worker=all\n")
