"""The notebooks that need no published weights run from top to bottom, at tiny size."""

import pathlib

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
PATIENCE = 1800  # seconds until a cell counts as hanging: one trains, on the busiest machine


def run(name, monkeypatch):
    """Execute a notebook; return what it printed, and the widgets and images that it showed."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    settings = Config({"KernelManager": {"transport": "ipc"}})  # no port
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", config=settings).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    kinds = [kind for o in outputs if "data" in o for kind in o.data]
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    drawn = [one for s in state.values() for one in s["state"].get("outputs", ())]
    return printed, kinds, [kind for one in drawn for kind in one.get("data", ())]


def test_the_scoring_notebook_shows_a_table_and_the_best_images(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.full((32, 32, 3), 80 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.setenv("MIRO_JAX_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("MIRO_JAX_REWARDS", "beauty,sharpness")
    monkeypatch.setenv("MIRO_JAX_OUT", str(tmp_path / "scores.parquet"))
    printed, kinds, drawn = run("score.ipynb", monkeypatch)
    assert "3 images in" in printed and printed.count("peak memory") == 3
    assert "text/html" in kinds and drawn.count("image/png") == 2


def test_the_training_notebook_ends_with_dials_and_sliders(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as readers have
    monkeypatch.setenv("MIRO_JAX_CONFIG", "base:tiny")
    monkeypatch.setenv("MIRO_JAX_WORKDIR", str(tmp_path / "shapes"))
    printed, kinds, drawn = run("train_on_shapes.ipynb", monkeypatch)
    assert "requested    " in printed and printed.count("peak memory") == 3
    assert kinds.count("image/png") == 2 and drawn.count("image/png") == 1
