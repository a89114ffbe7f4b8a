"""The wheel of this checkout, as a file or unpacked; its notebooks in an environment of their own.

    python -m tests.wheels --venv=FOLDER

makes an environment in FOLDER (it asks the package registry), installs the wheel by the ranges of
setup.py, and executes the notebooks that need no published weights with the wheel alone: nothing of
the checkout is on the path. Prints what each printed; leaves with status 1 where one fails.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).parent.parent
BUILT_FROM = ("setup.py", "pyproject.toml", "miro_jax", "configs")
# What a notebook needs besides; Colab has all of it.
JUPYTER = ("nbclient", "nbformat", "ipykernel", "ipywidgets", "pandas")
_EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

notebook = nbformat.read(sys.argv[1], as_version=4)
where = "import miro_jax; print('miro_jax is', miro_jax.__file__)"
notebook.cells.append(nbformat.v4.new_code_cell(where))
settings = Config({"KernelManager": {"transport": "ipc"}})  # by ports it may wait for ever
NotebookClient(notebook, timeout=3600, kernel_name="python3", config=settings).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", ()):
        if output.output_type == "stream" and output.name == "stdout":
            print(output.text, end="")
"""


def build(folder: pathlib.Path) -> pathlib.Path:
    """Build the wheel below a folder, from a copy, so that nothing is left in the checkout."""
    source, out = folder / "source", folder / "wheel"
    source.mkdir()
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*words, "--wheel-dir", out, source], check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """Return a folder with what the wheel installs; all else comes from this environment."""
    with zipfile.ZipFile(build(folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _make_environment(venv: pathlib.Path, wheel: pathlib.Path) -> pathlib.Path:
    """Return the interpreter of an environment with the wheel and Jupyter."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel, *JUPYTER], check=True)
    again = ["--quiet", "--no-deps", "--force-reinstall", wheel]
    subprocess.run([python, "-m", "pip", "install", *again], check=True)
    return python


def _make_images(folder: pathlib.Path, python: pathlib.Path) -> None:
    """Draw images of the shapes world with the installed package."""
    program = "import sys; from PIL import Image; from miro_jax.data.shapes import world\n"
    program += "for i in range(4): Image.fromarray(world.make_sample(0, i, 32).image).save("
    program += "f'{sys.argv[1]}/{i}.png')"
    folder.mkdir()
    subprocess.run([python, "-c", program, folder], check=True, cwd=folder.parent, env=_bare())


def _bare(**more: str) -> dict[str, str]:
    """Return an environment without ways to the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | more


def main() -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", required=True, type=pathlib.Path)
    flags, failed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        python = _make_environment(flags.venv.absolute(), build(folder))
        _make_images(folder / "images", python)
        given = {
            "MIRO_JAX_IMAGES": str(folder / "images"),
            "MIRO_JAX_REWARDS": "beauty,sharpness",
            "MIRO_JAX_OUT": str(folder / "scores.parquet"),
            "MIRO_JAX_CONFIG": "base:tiny",
            "MIRO_JAX_WORKDIR": str(folder / "run"),
        }
        for notebook in ("score.ipynb", "train_on_shapes.ipynb"):
            shutil.copy(ROOT / "notebooks" / notebook, folder / notebook)
            words = [python, "-c", _EXECUTE, folder / notebook]
            done = subprocess.run(words, cwd=folder, env=_bare(**given))
            print(f"{notebook}: {'executed' if done.returncode == 0 else 'FAILED'}", flush=True)
            failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
