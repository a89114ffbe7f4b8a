"""The wheel holds all that a run needs, configs included, and works in an empty folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import wheels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what the wheel installs; everything else comes from this environment."""
    return wheels.unpack(tmp_path_factory.mktemp("wheel"))


def run(site, folder, *words):
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_no_top_level_name_but_the_package(site):
    assert {p.name for p in site.iterdir() if p.suffix != ".dist-info"} == {"miro_jax"}
    for name in ("configs/base.py", "configs/miro.py", "py.typed", "report/style.css"):
        assert (site / "miro_jax" / name).is_file()


def test_a_run_begins_in_an_empty_folder(site, tmp_path):
    """Every stage is imported, one runs; the whole tiny run takes a minute and is left to CI."""
    words = ["-m", "miro_jax", "train", "--config=base:tiny", "--workdir=w", "--stage=annotate"]
    done = run(site, tmp_path, *words, "--config.source.shapes.num_images=64")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "w" / "config.json").read_text())["train"]["num_steps"] == 20
    assert (tmp_path / "w" / "records" / "report.html").is_file()


def test_a_copied_config_of_the_wheel_is_a_config_of_ones_own(site, tmp_path):
    shutil.copy(site / "miro_jax" / "configs" / "miro.py", tmp_path / "mine.py")
    program = "from miro_jax.cli.config import parse\n"
    program += "c = parse(['--config=mine.py:synth', '--workdir=w'], ['train'])\n"
    program += "import miro_jax; print(c.config.data.synthetic_caption_prob, miro_jax.__file__)"
    done = run(site, tmp_path, "-c", program)
    assert done.stdout == f"0.5 {site / 'miro_jax' / '__init__.py'}\n", done.stderr
