"""Notebooks are valid and carry no outputs; test_notebooks_run.py and one of oracles/ run them."""

import fnmatch
import glob
import os
import pathlib
import shutil
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("there", "extra"),
    [("/dev/nvidia0", "[cuda]"), ("/dev/accel0", "[tpu]"), ("/dev/vfio/0", "[tpu]"), ("", "")],
)
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.name)
def test_what_is_installed_is_for_the_accelerator_that_is_there(path, there, extra, monkeypatch):
    begin, _, install = (
        nbformat.read(path, as_version=4).cells[1].source.partition("\nif importlib")
    )
    monkeypatch.setattr(os.path, "exists", lambda path: path == there)
    monkeypatch.setattr(glob, "glob", lambda pattern: fnmatch.filter([there], pattern))
    names = {}
    exec(begin, names)
    assert names["EXTRA"] == extra and "{EXTRA}" in install


def test_other_targets_of_the_sampling_notebook_have_the_noise_of_the_first_images():
    """The noise of an image depends on the number of its prompt, too."""
    cells = nbformat.read(FOLDER / "sample.ipynb", as_version=4).cells
    (number,) = [i for i, cell in enumerate(cells) if cell.source.startswith("## Other targets")]
    assert "The same noise" in cells[number].source
    calls = []

    def pipe(prompts, num_images=1, *, seed, **_):
        calls.append((prompts, num_images, seed))

    pipe.reward_names = ("clip",)
    names = {"pipe": pipe, "PROMPT": "a fox", "STEPS": 2, "display": print, "row": id}
    exec(cells[number + 1].source, names)
    assert calls == [("a fox", 4, 0)] * 2


def test_the_address_of_the_repository_is_written_into_badge_and_first_cell(tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(FOLDER, folder)

    def call(*words):
        command = [sys.executable, folder / "address.py", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for branch in ("main", "v1.2"):  # a second call changes the same places again
        done = call("some-one/miro.jax", f"--branch={branch}")
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done.stderr
        for path in folder.glob("*.ipynb"):
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
            title, install, *others = notebook.cells
            page = f"github/some-one/miro.jax/blob/{branch}/notebooks/{path.name}"
            assert f"](https://colab.research.google.com/{page})" in title.source
            root = f'"MIRO_JAX_ROOT", "git+https://github.com/some-one/miro.jax@{branch}"'
            assert root in install.source
            before = nbformat.read(FOLDER / path.name, as_version=4).cells[2:]
            assert [c.source for c in others] == [c.source for c in before]
    refused = call("somewhere")
    assert refused.returncode == 2 and "must be OWNER/NAME; got 'somewhere'" in refused.stderr
