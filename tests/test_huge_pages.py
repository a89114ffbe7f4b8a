"""A command starts once more in the same process, to request huge pages where Linux has them."""

import os
import pathlib
import subprocess
import sys

import pytest

from miro_jax.cli import huge_pages, machine

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = pathlib.Path(sys.executable).parent / "miro-jax"
MADVISE = "always [madvise] never"
# Imported by each Python that starts: writes down what it was told, and says what Linux does.
WATCH = f"""
import os, pathlib, sys
folder = pathlib.Path(__file__).parent
with open(folder / "starts", "a") as lines:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES", "nothing"), sys.orig_argv[1:], file=lines)
read = pathlib.Path.read_text
def read_text(path, *given, **more):
    asked = str(path) == {str(huge_pages.MODES)!r}
    return read(folder / "enabled" if asked else path, *given, **more)
pathlib.Path.read_text = read_text
"""
PROGRAM = "import runpy, sys; sys.argv = ['x', '--version']; runpy.run_module('miro_jax', None, "
PROGRAM += "'__main__')\n"

pytestmark = pytest.mark.skipif(huge_pages._libc() < huge_pages.OLDEST, reason="another libc")


@pytest.fixture
def starts(tmp_path):
    """Run Python where Linux is set to a mode; returns its output and [(pid, told, argv)]."""

    def run(words, mode=MADVISE, told=None, stdin=None):
        (tmp_path / "sitecustomize.py").write_text(WATCH)
        if mode is not None:
            (tmp_path / "enabled").write_text(mode + "\n")
        env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        env.pop(huge_pages.VARIABLE, None)
        if told is not None:
            env[huge_pages.VARIABLE] = told
        done = subprocess.run(
            [sys.executable, *words], env=env, text=True, input=stdin, capture_output=True
        )
        lines = (tmp_path / "starts").read_text().splitlines()
        return done, [tuple(line.split(" ", 2)) for line in lines]

    return run


def test_the_same_process_starts_again_with_the_same_arguments(starts):
    words = ["-X", "utf8", "-u", "-m", "miro_jax.main", "two words", "ü\n", ""]
    done, ((pid, told, argv), (again, asked, same)) = starts(words)
    assert done.returncode != 0
    assert pid == again and argv == same == repr(words)
    assert (told, asked) == ("nothing", "glibc.malloc.hugetlb=1")


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("[always] madvise never", None),
        ("always madvise [never]", None),
        (None, None),
        (MADVISE, "glibc.malloc.hugetlb=0"),
        (MADVISE, "glibc.malloc.check=0:glibc.malloc.hugetlb=0x1"),
    ],
)
def test_it_does_not_where_that_changes_nothing_or_the_user_has_said(starts, mode, told):
    done, begun = starts(["-m", "miro_jax", "train", "--help"], mode, told)
    assert len(begun) == 1 and "usage" in done.stdout


@pytest.mark.parametrize(
    "told", ["glibc.malloc.check=0", "my.glibc.malloc.hugetlb=0", "a=b=c", ":"]
)
def test_other_words_of_the_variable_are_kept(starts, told):
    (_, second) = starts(["-m", "miro_jax", "train", "--help"], told=told)[1]
    assert second[1] == f"{told}:glibc.malloc.hugetlb=1"


@pytest.mark.over_a_second
def test_a_program_of_somebody_else_is_left_alone(starts, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    for words in (
        ["-c", PROGRAM],
        [str(script)],
        [str(script), "-m", "miro_jax"],
        ["-m", "program"],
    ):
        (tmp_path / "starts").unlink(missing_ok=True)
        done, begun = starts(words)
        assert len(begun) == 1 and done.stdout.startswith("miro-jax "), words
    for words in (["-", "--version"], [], ["-i", "-c", PROGRAM], ["-i", "-m", "miro_jax", "-h"]):
        (tmp_path / "starts").unlink()
        done, begun = starts(words, stdin=PROGRAM)
        assert len(begun) == 1 and "miro-jax " in done.stdout, words


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "miro_jax.main"],
        ["-m", "miro_jax", "train"],
        [str(SCRIPT), "train"],
    ],
)
def test_training_requests_them(starts, words):
    if words[0] == str(SCRIPT) and not SCRIPT.exists():
        pytest.skip("no console script beside this Python")
    done, (first, second) = starts([*words, "--help"])
    assert "usage" in done.stdout and first[0] == second[0]
    assert second[1] == "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    "words", [["-m", "miro_jax.sample"], ["-m", "miro_jax", "score"], ["-m", "miro_jax"]]
)
def test_other_commands_do_not(starts, words):
    done, begun = starts([*words, "--help"])
    assert len(begun) == 1 and "usage" in done.stdout


def test_the_doctor_says_what_linux_does(monkeypatch, tmp_path):
    monkeypatch.setattr(huge_pages, "MODES", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages, "_libc", lambda: (2, 34))  # training cannot request them
    assert machine._huge_pages() == []
    bad = set()
    for told in ("", "glibc.malloc.hugetlb=1", "glibc.malloc.hugetlb=1:glibc.malloc.hugetlb=0"):
        monkeypatch.setenv(huge_pages.VARIABLE, told)
        for mode in ("[always] madvise never", MADVISE, "always madvise [never]"):
            (tmp_path / "enabled").write_text(mode)
            (one,) = machine._huge_pages()
            if one.state != "OK":
                bad.add((told[-2:], huge_pages.mode()))
                assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in one.text or "always |" in one.text
    assert bad == {("", "madvise"), ("", "never"), ("=1", "never")}


def test_the_doctor_does_not_mind_that_training_alone_requests_them(monkeypatch, tmp_path):
    monkeypatch.setattr(huge_pages, "MODES", tmp_path / "enabled")
    monkeypatch.setenv(huge_pages.VARIABLE, "")
    (tmp_path / "enabled").write_text(MADVISE)
    (one,) = machine._huge_pages()
    assert one.state == "OK" and "training" in one.text
