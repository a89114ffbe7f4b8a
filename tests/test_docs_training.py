"""Every command of the guides to training on TPUs and GPUs: run by bash with stand-ins of all
programs, which write down what they are told; then read by the parser of that program.
"""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest

from miro_jax import __main__
from miro_jax.annotate.settings import make_parser
from miro_jax.cli.config import parse
from miro_jax.evaluate import doctor, plan

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "launch"))

import cluster  # noqa: E402
import watch  # noqa: E402

PAGES = ("train_on_tpu.md", "train_on_gpus.md")
STAND_INS = "gcloud kubectl docker sbatch srun pip hf make miro-jax python3 nvidia-smi".split()
# What the guides use of programs of others: the words before the first flag.
OTHERS = {
    "gcloud": "auth login|projects create|config set project|config get project|services enable|"
    "storage (buckets create|cp|cat|rm)|compute (instances create|ssh|instances delete)|"
    "container clusters create|compute tpus (queued-resources list|tpu-vm ssh)",
    "kubectl": "apply|wait",
    "docker": "build|push",
    "sbatch": "",
    "pip": "install",
    "hf": "download pixparse/cc12m-wds",
    "make": "train",
}


def blocks(page):
    return re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.S | re.M)


@pytest.fixture
def told(tmp_path):
    """Runs a block; returns the calls that the stand-ins got, as lists of words."""
    bin, log = tmp_path / "bin", tmp_path / "log"
    bin.mkdir()
    for name in STAND_INS:
        (bin / name).write_text('#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" $\'\\n\' >> "$LOG"\n')
        (bin / name).chmod(0o755)

    def run(block):
        python = {"PYTHON": "python3"}  # of launch/annotate-slurm.sh, behind the stand-in of srun
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=ROOT,
            env=os.environ | python | {"PATH": f"{bin}:{os.environ['PATH']}", "LOG": str(log)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        calls = log.read_text().split("\0\n\0")[:-1]
        log.unlink()
        return [call.split("\0") for call in calls]

    return run


def check(program, words):
    """Read a call by the parser of its program; fails where it is not understood."""
    if program == "miro-jax":
        check_ours(*words)
    elif program == "python3" and words[0] == "launch/watch.py":
        options = watch.read(words[1:])
        variables = cluster.variables_of(options)
        watch.check_processes(options.command, int(variables["HOSTS"]))
        if options.command:
            check(options.command[0], options.command[1:])
    else:
        before = " ".join(words).partition(" -")[0]
        assert re.match(OTHERS[program], before), f"{program} {before}"


def check_ours(verb, *words):
    if verb == "train":
        assert parse(list(words), ["train"]).stage == "train"
    elif verb == "annotate":
        make_parser().read(list(words))
    elif verb in ("plan", "doctor"):
        {"plan": plan, "doctor": doctor}[verb]._plan(list(words))
    else:
        known = {"evaluate", "sample", "compare", "export"}
        with contextlib.redirect_stdout(io.StringIO()) as help:
            assert verb in known and __main__.main([verb, "--help"]) == 0
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert not [flag for flag in flags if flag not in help.getvalue()]


CASES = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


@pytest.mark.parametrize("page, number", CASES)
def test_every_command_is_understood(page, number, told):
    calls = told(blocks(page)[number])
    assert calls
    for program, *words in calls:
        if program != "srun":  # what the stand-in of a launcher would have run
            check(program, words)


def test_every_block_of_commands_was_found():
    assert len(CASES) >= 18
    for page in PAGES:
        text = (ROOT / "docs" / page).read_text()
        assert text.count("```") == 2 * len(blocks(page))


def test_the_guides_name_every_kind_of_cluster_and_stage():
    text = "".join((ROOT / "docs" / page).read_text() for page in PAGES)
    assert {f"--on={kind}" for kind in watch.KINDS} <= set(re.findall(r"--on=\w+", text))
    for option in re.findall(r"`(--[a-z-]+)(?:=[\w-]+)?`", text):
        known = watch.make_parser().format_help() + make_parser().format_help()
        known += " --config.train.microbatches"
        assert option in known, option
