"""The examples run, and show what they say."""

import pathlib
import re
import runpy

import jax
import pytest
from PIL import Image

TINY = pathlib.Path(__file__).parent.parent / "examples" / "tiny_miro.py"


@pytest.mark.slow
def test_tiny_miro_trains_and_obeys_its_targets(tmp_path, monkeypatch, capsys):
    plot = tmp_path / "dials.png"
    monkeypatch.setattr("sys.argv", [str(TINY), "--steps=400", f"--out={plot}"])
    with jax.numpy_rank_promotion("allow"):  # jax's own default, which a reader has
        runpy.run_path(str(TINY), run_name="__main__")
    printed = capsys.readouterr().out
    dials = re.findall(r"^(\w+) +requested 0 to 1: achieved (.+)$", printed, re.M)
    assert [name for name, _ in dials] == ["bright", "large", "faithful"]
    for name, row in dials[::2]:
        achieved = [float(word) for word in row.split()]
        assert len(achieved) == 8 and achieved[-1] > 1.15 * achieved[0], (name, achieved)
    percents = [int(p) for p in re.findall(r"^ *(\d+) % of captions", printed, re.M)]
    assert len(percents) == 4 and percents[2] > percents[1]
    with Image.open(plot) as image:
        assert image.size[0] > 500


def test_tiny_miro_is_short_and_needs_jax_optax_numpy_and_pillow_alone():
    lines = TINY.read_text("utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 150
    imports = {line.split()[1].split(".")[0] for line in lines if re.match("(import|from) ", line)}
    assert imports == {"argparse", "jax", "numpy", "optax", "PIL"}


def test_tiny_miro_explains_itself(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(TINY), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(TINY), run_name="__main__")
    assert "--steps" in capsys.readouterr().out
