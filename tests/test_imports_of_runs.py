"""No stage imports PyTorch in a real run, here where it is installed."""

import os
import subprocess
import sys

import pytest

from tests import training

pytestmark = pytest.mark.slow

# Each stage as its command runs it, one after the other: what one imports stays in sys.modules.
PROGRAM = """
import sys
from miro_jax import __main__ as entry

workdir, *command = sys.argv[1:]
images = workdir + "/images"
for call in (
    ["train", *command, f"--workdir={workdir}"],  # annotates before, evaluates after
    ["train", *command, f"--workdir={workdir}", "--stage=sample"],
    ["sample", f"--checkpoint={workdir}", "--prompt=a red circle", f"--out={workdir}/drawn"],
    ["score", images, "--rewards=beauty,count", f"--out={workdir}/scores.parquet"],
    ["export", f"--workdir={workdir}", f"--out={workdir}/released"],  # too small for the layout
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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "run", *command],
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(training.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
