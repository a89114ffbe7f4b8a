"""Files for people and machines at the root: each says what the code says."""

import pathlib
import re

import yaml

import miro_jax

ROOT = pathlib.Path(__file__).parent.parent


def test_the_citation_has_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == miro_jax.__version__
    paper = citation["preferred-citation"]
    assert paper["url"].endswith("2510.25897") and "ICML" in paper["conference"]["name"]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"ICML {paper['year']}; arXiv 2510.25897 of 2025" in readme


def test_the_changelog_has_the_version():
    assert f"\n## {miro_jax.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_calls_targets_of_the_makefile_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        word
        for job in jobs.values()
        for step in job["steps"]
        for word in re.findall(r"^make ([a-z]+)", step.get("run", ""))
    }
    assert called == {"lint", "test"} and called <= targets
    assert jobs["tests"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12", "3.13"]


def test_every_package_of_setup_is_pinned_and_has_a_role_in_the_readme():
    setup = (ROOT / "setup.py").read_text()
    lists = setup[setup.index("RUNTIME = [") : setup.index("\nsetup(")]
    lists = re.sub(r"#.*|\"\w+\": ", "", lists)  # comments and names of extras
    named = re.findall(r'"([A-Za-z][\w-]*)[^"\n]*"', lists)
    files = ROOT / "constraints.txt", ROOT / "constraints-3.12.txt"
    pinned, newer = (re.findall(r"^([\w.-]+)==", file.read_text(), re.MULTILINE) for file in files)
    readme = (ROOT / "README.md").read_text()

    def plain(name):
        return name.lower().replace("_", "-")

    assert len(named) > 30
    assert {plain(n) for n in named} - {plain(n) for n in pinned} == {"torch"}
    assert {plain(n) for n in pinned} <= {plain(n) for n in newer}
    absent = [n for n in named if not re.search(rf"\b{n}\b", readme, re.IGNORECASE)]
    assert not absent, f"README's table of dependencies lacks {absent}"
