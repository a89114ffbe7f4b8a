"""Notebooks are valid and carry no outputs; test_notebooks_run.py and one of oracles/ run them."""

import pathlib

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_valid_and_carry_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not [c for c in notebook.cells if c.cell_type == "code" and c.outputs]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_begin_with_a_badge_and_install_what_is_missing(path):
    title, install, *others = nbformat.read(path, as_version=4).cells
    assert "(https://colab.research.google.com/assets/colab-badge.svg)" in title.source
    assert "%pip install" in install.source and "find_spec" in install.source
    # What is pinned would replace the numpy of Colab; the ranges of setup.py do not.
    assert "constraints" not in install.source and "numpy==" not in install.source
    assert any("ipywidgets" in cell.source for cell in others)
    assert any("memory(" in cell.source for cell in others)
