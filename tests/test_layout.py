"""The shape of the repository: the thirteen rooms, imports, sizes and names of files.

Verbs are stages, nouns are libraries. A module imports its own room or one of a lower layer; a verb
also uses the verbs before it. The tree and its reasons are those of the README's map.
"""

import ast
import graphlib
import importlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
VERBS = "annotate score train sample evaluate demo".split()
LAYERS = (
    "data models",
    "pretrained",
    "rewards report cli",
    *VERBS,
    "main __main__ __init__",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
MAX_NAMES = 13  # below miro_jax/, __init__ and __main__ not counted

PACKAGE = sorted((ROOT / "miro_jax").rglob("*.py"))
# The one import inside a function: takes seconds and serves published models alone.
IMPORTED_LATE = ("miro_jax/pretrained/weights/hf.py", "transformers")
FOLDERS = ("miro_jax", "configs", "tests", "benchmarks", "launch")
EVERYTHING = [ROOT / "setup.py", *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.py")))]
TREES = {path: ast.parse(path.read_text("utf-8"), str(path)) for path in EVERYTHING}


def place(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    """miro_jax/models/rin.py -> miro_jax.models.rin, and its __init__.py -> miro_jax.models."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree):
    """Each import of a tree as (full name, line); `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((f"{prefix}.{alias.name}", node.lineno) for alias in node.names)


def unit(module):
    """The name that has a layer: miro_jax.models.rin -> models, miro_jax -> __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def own_imports(path):
    """What a file imports of miro_jax, as modules, with lines."""
    modules = {module_of(p) for p in PACKAGE}
    for name, line in imports(TREES[path]):
        if name.split(".")[0] == "miro_jax" and name != "miro_jax.__version__":
            while name not in modules and "." in name:  # a function or class of a module
                name = name.rpartition(".")[0]
            yield name, line


def test_every_room_has_a_layer_and_there_are_at_most_thirteen():
    unknown = [place(p) for p in PACKAGE if unit(module_of(p)) not in LAYER]
    assert not unknown, f"these belong into a room of LAYERS in tests/test_layout.py: {unknown}"
    rooms = {unit(module_of(p)) for p in PACKAGE} - {"__init__", "__main__"}
    assert len(rooms) <= MAX_NAMES, sorted(rooms)


def test_no_module_imports_a_higher_layer():
    wrong = [
        f"{place(path)}:{line} in layer {lower} imports {name} of layer {higher}"
        for path in PACKAGE
        for name, line in own_imports(path)
        for lower, higher in [(LAYER.get(unit(module_of(path))), LAYER.get(unit(name)))]
        if lower is not None and higher is not None and lower < higher
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_cycles():
    graph = {module_of(p): {n for n, _ in own_imports(p)} - {module_of(p)} for p in PACKAGE}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the cycle


def test_package_imports_stand_at_the_top_and_are_absolute():
    wrong = [
        f"{place(path)}:{line} imports {name} relatively"
        for path in PACKAGE
        for name, line in imports(TREES[path])
        if name.startswith(".")
    ]
    for path in PACKAGE:
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                wrong += [
                    f"{place(path)}:{line} imports {name} inside {node.name}"
                    for name, line in imports(node)
                    if (place(path), name.split(".")[0]) != IMPORTED_LATE
                ]
    assert not wrong, "\n".join(wrong)


# How a module is imported by a name or path that is a value -> the one file that may.
DYNAMIC = {
    "import_module": "miro_jax/__main__.py",  # the verb table
    "__import__": None,
    "spec_from_file_location": "miro_jax/rewards/own.py",  # a reward of the user's own
}


def test_modules_are_not_imported_by_string_but_by_the_verb_table_and_a_users_reward():
    wrong = [
        f"{place(path)}:{node.lineno}"
        for path in PACKAGE
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Name | ast.Attribute)
        for name in [node.id if isinstance(node, ast.Name) else node.attr]
        if name in DYNAMIC and place(path) != DYNAMIC[name]
    ]
    assert not wrong, wrong


def test_torch_is_imported_by_oracles_and_benchmarks_only_and_tensorflow_nowhere():
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in EVERYTHING
        for name, line in imports(TREES[path])
        for top in [name.split(".")[0]]
        if top == "tensorflow"
        or (
            (top in ("torch", "diffusers", "open_clip", "miro") or name.startswith("tests.oracles"))
            and not place(path).startswith(("tests/oracles/", "benchmarks/"))
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_helpers_of_tests_import_no_test_module():
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in EVERYTHING
        if place(path).startswith("tests/") and not path.stem.startswith("test_")
        for name, line in imports(TREES[path])
        if name.startswith("tests.") and ".test_" in name
    ]
    assert not wrong, "\n".join(wrong)


def test_configs_import_ml_collections_only():
    wrong = [
        f"{place(path)}:{line} imports {name}"
        for path in EVERYTHING
        for name, line in imports(TREES[path])
        if place(path).startswith("configs/")
        and name.split(".")[0] not in ("ml_collections", "configs")
    ]
    assert not wrong, "\n".join(wrong)


IMPORT_ALL = """
import importlib, sys, warnings
from tests import absent

absent.hide("torch", "tensorflow")
warnings.filterwarnings("error", module="miro_jax")
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_imports_without_device_torch_or_tensorflow_and_writes_nothing(tmp_path):
    """In a fresh interpreter where neither is installed and jax has no platform to start."""
    environment = os.environ | {
        "JAX_PLATFORMS": "none",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *(module_of(p) for p in PACKAGE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_files_are_short():
    lengths = {place(p): len(p.read_text("utf-8").splitlines()) for p in EVERYTHING}
    ceilings = {"miro_jax/main.py": 80}
    wrong = {p: n for p, n in lengths.items() if n > ceilings.get(p, 400)}
    assert not wrong, f"split by concept: {wrong}"


def test_files_are_named_after_what_they_hold():
    vague = ("utils", "util", "helpers", "misc", "common")
    assert [place(p) for p in EVERYTHING if p.stem in vague] == []


def test_what_is_taken_from_a_package_with_lazy_names_is_among_them():
    """A name that is not stays unnoticed while another import has loaded its module."""
    lazy = {
        module_of(path): importlib.import_module(module_of(path)).__dir__()
        for path in PACKAGE
        if path.name == "__init__.py" and "lazy_loader.attach" in path.read_text("utf-8")
    }
    assert "miro_jax.sample" in lazy
    missing = []
    for path in PACKAGE:
        named = {}  # here -> package
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ImportFrom):
                full = {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
                named |= {name: one for name, one in full.items() if one in lazy}
        for node in ast.walk(TREES[path]):
            if not isinstance(node, ast.Attribute):
                continue
            outer, package = node.value, None
            if isinstance(outer, ast.Name):
                package = named.get(outer.id)
            elif isinstance(outer, ast.Attribute) and isinstance(outer.value, ast.Name):
                package = f"{named.get(outer.value.id)}.{outer.attr}"
            if package in lazy and node.attr not in lazy[package]:
                missing.append(f"{place(path)}:{node.lineno}: {package}.{node.attr}")
    assert missing == []
