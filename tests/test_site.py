"""The site of docs/: every page is reached, every name of the API is there, and it builds."""

import ast
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import miro_jax

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_page_stands_in_the_table_of_contents_once():
    index = (DOCS / "index.md").read_text("utf-8")
    listed = [
        line
        for block in re.findall(r"```{toctree}\n(.*?)```", index, re.S)
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    pages = sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")
    assert sorted(listed) == pages


def test_every_name_of_the_api_is_there():
    text = (DOCS / "api.md").read_text("utf-8")
    names = re.findall(r"^\.\. auto\w+:: (\S+)", text, re.M)
    assert len(names) > 15
    for name in names:
        path = ROOT / (name.replace(".", "/") + ".py")
        parent = ROOT / (name.rpartition(".")[0].replace(".", "/") + ".py")
        assert path.is_file() or name.rpartition(".")[2] in documented(parent), name


def documented(path):
    """The functions and classes of a module that have a docstring; nothing is imported."""
    kinds = ast.FunctionDef | ast.ClassDef
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name for node in body if isinstance(node, kinds) and ast.get_docstring(node)}


def test_the_settings_name_the_version_of_the_package():
    assert runpy.run_path(str(DOCS / "conf.py"))["release"] == miro_jax.__version__


@pytest.mark.slow
def test_the_site_builds_offline_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for page in (tmp_path / "site").glob("*.html"):
        html = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"([^\"]+)\"", html)
        assert not [url for url in loaded if "//" in url], page.name
        assert 'data-theme="auto"' in html, page.name  # or the console complains
