"""Notebooks run from top to bottom, at tiny size with weights made here."""

import pathlib

import nbformat
import pytest

from tests import notebooks
from tests.oracles import releases

pytestmark = pytest.mark.slow

FOLDER = pathlib.Path(__file__).parent.parent.parent / "notebooks"


def run(name):
    """Execute a notebook of the repository; return its cells."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    notebooks.execute(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells):
    return [output for cell in cells for output in cell.outputs]


def test_the_sampling_notebook_shows_pictures_and_memory(tmp_path, monkeypatch):
    files = releases.make(tmp_path, num_rewards=2)
    monkeypatch.setenv("MIRO_JAX_MODEL", str(files.miro))
    monkeypatch.setenv("MIRO_JAX_TEXT_ENCODER", str(files.text_encoder))
    monkeypatch.setenv("MIRO_JAX_VAE", str(files.vae))
    monkeypatch.setenv("MIRO_JAX_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    found = outputs(run("sample.ipynb"))
    pictures = [o for o in found if o.output_type == "display_data" and "image/png" in o.data]
    printed = "".join(o.text for o in found if o.output_type == "stream" and o.name == "stdout")
    assert len(pictures) == 7
    assert "rewards of this model: clip, aesthetic" in printed
    assert printed.count("peak memory") == 4
