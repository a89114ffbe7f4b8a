"""No stage imports PyTorch in a real run, here where it is installed."""

import os
import subprocess
import sys

import pytest

from tests import compiling, training

pytestmark = pytest.mark.slow
QUICK = {"XLA_FLAGS": compiling.xla_flags(1)}  # compiled sooner

# Each stage as its command runs it, one after the other: what one imports stays in sys.modules.
PROGRAM = """
import sys
from miro_jax import __main__ as entry

workdir, study, *command = sys.argv[1:]
images, records = workdir + "/images", f"--config.data.records={workdir}/records"
few = [*command, "--config.train.report=False", "--config.train.sample_every_steps=0"]
student = [*few, f"--workdir={workdir}-student", "--stage=distil"]
longer = [*few, f"--workdir={workdir}-longer", "--stage=extend", "--config.extend.num_steps=2"]
longer += ["--config.data.new_reward=sharpness"]
sizes = ["measure_steps=(2,)", "seeds=(0,)", "dial_levels=(1.0,)", "sweep_levels=(1.0,)"]
for call in (
    ["train", *command, f"--workdir={workdir}"],  # annotates before, evaluates after
    ["train", *command, f"--workdir={workdir}", "--stage=sample"],
    ["sample", f"--checkpoint={workdir}", "--prompt=a red circle", f"--out={workdir}/drawn"],
    ["score", images, "--rewards=beauty,count", f"--out={workdir}/scores.parquet"],
    ["export", f"--workdir={workdir}", f"--out={workdir}/released"],  # too small for the layout
    ["train", *student, f"--config.distil.checkpoint={workdir}"],
    ["train", *longer, f"--config.extend.checkpoint={workdir}"],
    ["compare", workdir, workdir + "-longer", f"--out={workdir}/compared"],
    ["train", f"--config={study}:tiny", f"--workdir={workdir}-study", "--stage=study", records,
     "--config.train.num_steps=2", "--config.optim.warmup_steps=0",
     *(f"--config.study.{size}" for size in sizes)],
):
    status = entry.main(call)
    loaded = sorted({"torch", "tensorflow", "diffusers"} & set(sys.modules))
    assert status == (2 if call[0] == "export" else 0) and not loaded, (call, status, loaded)
"""


def test_no_stage_imports_torch_or_tensorflow(tmp_path):
    command = [
        *training.COMMAND,
        "--config.source.shapes.num_images=64",
        "--config.train.num_steps=6",
        "--config.train.sample_every_steps=3",
    ]
    study = training.ROOT / "configs" / "study.py"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "run", study, *command],
        env=os.environ | QUICK | {"PYTHONPATH": str(training.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
