"""A command starts once more in the same process, to ask for large pages where Linux has them."""

import os
import pathlib
import subprocess
import sys

import pytest

from miro_jax.cli import huge_pages

ROOT = pathlib.Path(__file__).parent.parent
# Imported by each Python that starts: writes down what it was told, and says what Linux does.
WATCH = """
import os, pathlib, sys
from miro_jax.cli import huge_pages
folder = pathlib.Path(__file__).parent
with open(folder / "starts", "a") as lines:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES", "nothing"), sys.orig_argv[1:], file=lines)
huge_pages.MODES = folder / "enabled"
"""
ASK = "from miro_jax.cli import huge_pages; huge_pages.ask(); import sys; print(sys.argv[1:])"

pytestmark = pytest.mark.skipif(huge_pages._libc() < huge_pages.OLDEST, reason="another libc")


@pytest.fixture
def starts(tmp_path):
    """Run Python where Linux is set to a mode; returns its output and [(pid, told, argv)]."""

    def run(words, mode="always [madvise] never", told=None):
        (tmp_path / "sitecustomize.py").write_text(WATCH)
        if mode is not None:
            (tmp_path / "enabled").write_text(mode + "\n")
        env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        env.pop(huge_pages.VARIABLE, None)
        if told is not None:
            env[huge_pages.VARIABLE] = told
        command = [sys.executable, *words]
        out = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE).stdout
        lines = (tmp_path / "starts").read_text().splitlines()
        return out, [tuple(line.split(" ", 2)) for line in lines]

    return run


def test_the_same_process_starts_again_with_the_same_arguments(starts):
    out, ((pid, told, argv), (again, asked, same)) = starts(["-c", ASK, "two words", "ü\n", ""])
    assert out == "['two words', 'ü\\n', '']\n"
    assert pid == again and argv == same and (told, asked) == ("nothing", "glibc.malloc.hugetlb=1")


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("[always] madvise never", None),
        ("always madvise [never]", None),
        (None, None),
        ("always [madvise] never", "glibc.malloc.hugetlb=0"),
        ("always [madvise] never", "glibc.malloc.hugetlb=1"),
    ],
)
def test_it_does_not_where_that_changes_nothing_or_the_user_has_said(starts, mode, told):
    assert len(starts(["-c", ASK], mode, told)[1]) == 1


def test_other_words_of_the_variable_are_kept(starts):
    told = starts(["-c", ASK], told="glibc.malloc.check=0")[1][1][1]
    assert told == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"


def test_who_has_imported_jax_is_left_alone(starts):
    assert len(starts(["-c", f"import sys; sys.modules['jax'] = None; {ASK}"])[1]) == 1


@pytest.mark.parametrize(
    "words", [("main",), ("__main__", "doctor"), ("annotate",), ("score",), ("sample",)]
)
def test_every_command_asks(starts, words):
    module, *verb = words
    out, (first, second) = starts(["-m", f"miro_jax.{module}", *verb, "--help"])
    assert "usage" in out and first[0] == second[0] and second[1] == "glibc.malloc.hugetlb=1"


def test_the_doctor_says_what_linux_does(monkeypatch, tmp_path):
    machine = pytest.importorskip("miro_jax.cli.machine")
    monkeypatch.setattr(huge_pages, "MODES", tmp_path / "enabled")
    assert machine._huge_pages() == []
    found = {}
    for told in ("", "glibc.malloc.hugetlb=1"):
        monkeypatch.setenv(huge_pages.VARIABLE, told)
        for mode in ("[always] madvise never", "always [madvise] never", "always madvise [never]"):
            (tmp_path / "enabled").write_text(mode)
            (one,) = machine._huge_pages()
            found[told, huge_pages.mode()] = one
    bad = {key for key, one in found.items() if one.state != "OK"}
    assert bad == {("", "madvise"), ("", "never"), ("glibc.malloc.hugetlb=1", "never")}
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in found["", "madvise"].text
