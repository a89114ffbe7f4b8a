"""Benchmarks are run by hand: what they import from the project must be there."""

import ast
import importlib
import importlib.util
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent.parent.parent / "benchmarks"
OURS = ("benchmarks", "configs", "miro_jax", "tests")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_from_the_project_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                below = f"{node.module}.{name}"
                is_module = hasattr(module, "__path__") and importlib.util.find_spec(below)
                assert hasattr(module, name) or is_module, below
