"""Guides and README: every file and anchor they point at is there."""

import itertools
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text("utf-8")
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, part = target.partition("#")
        if "://" in target or (path and (page.parent / path).exists() and not part):
            continue
        goal = (page.parent / path).resolve() if path else page
        titles = re.findall(r"^#+ (.*)$", goal.read_text("utf-8"), re.M) if goal.is_file() else []
        if part not in map(anchor, titles):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_bash_can_read_every_command(page):
    text = page.read_text("utf-8")
    commands = re.findall(r"^```bash\n(.*?)^```$", text, re.S | re.M)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    commands += re.findall(r"(?:^    (?! ).*\n)(?:^    .*\n)*", prose, re.M)
    commands += re.findall(r"`((?:make|miro-jax|python|pip|\.venv/bin/\S+) [^`\n]+)`", prose)
    for command in commands:
        read = subprocess.run(["bash", "-n"], input=command, text=True, stderr=subprocess.PIPE)
        assert not read.returncode, read.stderr


def files_of_the_way():
    """The README's full list, braces written out."""
    text = (ROOT / "README.md").read_text("utf-8")
    listed = re.search(r"from tar shard to report.*?:(.*?)\n\n", text, re.S)[1]
    for word in re.findall(r"`([^`]+\.py)`", listed):
        parts = [p.split(",") for p in re.split(r"[{}]", word)]
        yield from map("".join, itertools.product(*parts))


def test_one_image_passes_at_most_25_files():
    files = list(files_of_the_way())
    assert 10 < len(files) == len(set(files)) <= 25
    missing = [name for name in files if not (ROOT / "miro_jax" / name).is_file()]
    assert not missing


def test_the_short_way_has_at_most_ten_files():
    text = (ROOT / "README.md").read_text("utf-8")
    numbers = re.findall(r"^(\d+)\. \[[\w/.]+\]\(miro_jax/", text, re.M)
    assert numbers == [str(n) for n in range(1, len(numbers) + 1)] and 0 < len(numbers) <= 10


def test_the_prose_of_the_benchmarks_is_wrapped():
    text = re.sub(
        r"```.*?```", "", (ROOT / "docs" / "benchmarks.md").read_text("utf-8"), flags=re.S
    )
    prose = [line for line in text.splitlines() if not line.startswith("|")]  # tables stay
    assert max(map(len, prose)) <= 120
