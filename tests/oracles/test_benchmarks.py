"""Benchmarks are run by hand: what they import from the project must be there."""

import ast
import importlib
import importlib.util
import pathlib

import pytest

from benchmarks import train_step

FOLDER = pathlib.Path(__file__).parent.parent.parent / "benchmarks"
OURS = ("benchmarks", "configs", "miro_jax", "tests")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_project_is_there(path):
    tree, modules = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.partition(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                is_module = hasattr(module, "__path__") and importlib.util.find_spec(below)
                assert hasattr(module, alias.name) or is_module, below
                if is_module:
                    modules[alias.asname or alias.name] = importlib.import_module(below)
    stored = {node.id for node in ast.walk(tree) if _is_stored(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id) if node.value.id not in stored else None
            if module is not None and not isinstance(node.ctx, ast.Store):
                assert hasattr(module, node.attr), f"{module.__name__}.{node.attr}"


def _is_stored(node: ast.AST) -> bool:
    """Whether a name is given another meaning in the file."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


@pytest.mark.slow
def test_forward_and_backward_are_measured_without_the_update(monkeypatch, capsys):
    words = ["--size=tiny", "--batch=2", "--tokens=8", "--dtype=float32", "--seconds=0.1"]
    sides, losses = [], {}
    for what in (train_step.STEP, train_step.GRADIENT):
        monkeypatch.setattr("sys.argv", ["train_step.py", *words, f"--what={what}"])
        args = train_step.parse()
        args.compile_theirs = False
        config = train_step.config_of(args.size)
        ours, theirs = train_step.Ours(config, args), train_step.Theirs(config, args)
        losses[what] = ours.measure()["first_losses"]
        before = [x.detach().clone() for x in theirs.network.parameters()]
        theirs.call()
        pairs = zip(before, theirs.network.parameters(), strict=True)
        sides.append(any((old != new).any() for old, new in pairs))
        assert any(x.grad is not None for x in theirs.network.parameters())
    assert sides == [True, False]
    assert len(set(losses["step"])) == 3 and set(losses["forward_backward"]) == {losses["step"][0]}
