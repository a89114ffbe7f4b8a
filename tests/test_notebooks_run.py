"""The notebooks that need no published weights run from top to bottom, from the wheel alone."""

import pathlib

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests import compiling, notebooks, wheels

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what the wheel installs, ahead of the checkout on the path."""
    return wheels.unpack(tmp_path_factory.mktemp("wheel"))


def run(name, site, monkeypatch):
    """Execute a notebook; return what it printed, and the widgets and images that it showed."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    where = "import miro_jax; print('package:', miro_jax.__file__)"
    notebook.cells.append(nbformat.v4.new_code_cell(where))
    monkeypatch.chdir(site.parent)  # and not the checkout
    notebooks.execute(notebook)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert f"package: {site}/miro_jax/__init__.py" in printed
    kinds = [kind for o in outputs if "data" in o for kind in o.data]
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    drawn = [one for s in state.values() for one in s["state"].get("outputs", ())]
    return printed, kinds, [kind for one in drawn for kind in one.get("data", ())]


def test_the_scoring_notebook_shows_a_table_and_the_best_images(site, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.full((32, 32, 3), 80 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.setenv("MIRO_JAX_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("MIRO_JAX_REWARDS", "beauty,sharpness")
    monkeypatch.setenv("MIRO_JAX_OUT", str(tmp_path / "scores.parquet"))
    printed, kinds, drawn = run("score.ipynb", site, monkeypatch)
    assert "3 images in" in printed and printed.count("peak memory") == 3
    assert "text/html" in kinds and drawn.count("image/png") == 2


def test_the_training_notebook_ends_with_dials_and_sliders(site, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", compiling.xla_flags(1))  # as readers have
    monkeypatch.setenv("MIRO_JAX_CONFIG", "base:tiny")
    monkeypatch.setenv("MIRO_JAX_WORKDIR", str(tmp_path / "shapes"))
    printed, kinds, drawn = run("train_on_shapes.ipynb", site, monkeypatch)
    assert "requested    " in printed and printed.count("peak memory") == 3
    assert kinds.count("image/png") == 2 and drawn.count("image/png") == 1
