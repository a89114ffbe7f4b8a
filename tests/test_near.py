"""Misspelt names and paths are answered with what was meant, prompts of suites are written."""

import json

import pytest

from miro_jax import __main__ as entry
from miro_jax.data.near import near_name, near_path, near_run
from miro_jax.evaluate.suites import table
from miro_jax.sample.request import read_prompts


def test_the_nearest_name_and_path_are_named_and_no_far_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/base/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/bases").mkdir()
    (tmp_path / "photos").mkdir()
    assert near_name("genval", ["geneval", "parti"]) == "; did you mean geneval?"
    assert near_name("xyz", ["geneval", "parti"]) == "."
    assert (
        near_name("xyz", ["geneval"], "; one.") == near_path("zzz", otherwise="; one.") == "; one."
    )
    assert near_path("fotos") == "; did you mean photos?" and near_path("zzz") == "."
    assert near_path(tmp_path / "fotos") == f"; did you mean {tmp_path / 'photos'}?"
    assert near_path(tmp_path / "nothing") == "."  # what the folder's name adds is no likeness
    assert near_path("runs/bse", "checkpoints") == "; did you mean runs/base?"
    assert near_path("run/base", "checkpoints") == "; did you mean runs/base?"
    assert near_run("runs/bse") == "; did you mean runs/base?"
    assert near_run("mine") == "; runs here: runs/base."
    (tmp_path / "runs/base/checkpoints").rmdir()
    assert near_run("mine") == "."


@pytest.mark.parametrize(
    "words, said",
    [
        (("evaluate", "runs/bse"), "which is missing. Did you mean runs/base?"),
        (("evaluate", "photos", "--suite=genval"), "got 'genval'; did you mean geneval?"),
        (("evaluate", "photos", "--suite=part"), "got 'part'; did you mean parti?"),
        (("evaluate", "photos", "--suite=prompt.txt"), "'prompt.txt'; did you mean prompts.txt?"),
        (("evaluate", "photos", "--suite=hpsv3:x"), "'hpsv3:x'; did you mean hpsv2:x?"),
        (("evaluate", "prompts", "--suite=partie"), "got 'partie'; did you mean parti?"),
        (("evaluate", "prompts", "--suit=parti"), "did you mean --suite?"),
        (("evaluate", "prompts", "--suite=parti", "--run=runs/base"), "only --suite=shapes has"),
        (
            ("evaluate", "prompts", "--suite=parti", "--out=x.csv"),
            "end in .jsonl, for key, tag and",
        ),
        (("evaluate", "prompts", "--suite=parti", "--out=x.json"), "or in .txt; got x.json."),
        (("plot", "paper", "published", "--out=prompts.txt"), "must be a folder; it is a file."),
        (("score", "photos", "--rewards=beuty", "--out=s.csv"), "'beuty'; did you mean beauty?"),
        (("export", "--workdir=runs/bse", "--out=out"), "runs/bse; did you mean runs/base?"),
        (("export", "--workdir=nothere", "--out=out"), "nothere; runs here: runs/base."),
        (
            ("train", "--config=base", "--workdir=nothere", "--stage=sample"),
            "there is no folder nothere; runs here: runs/base.",
        ),
        (("weights", "list", "prompt.txt"), "no file prompt.txt; did you mean prompts.txt?"),
        (("weights", "list", "photos"), "photos must be a file of weights; it is a folder\n"),
        (("score", "fotos", "--rewards=beauty", "--out=s.csv"), "missing; did you mean photos?"),
    ],
)
def test_a_misspelt_word_is_one_line_with_what_was_meant(
    monkeypatch, tmp_path, capsys, words, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/base/checkpoints").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "prompts.txt").write_text("a\n")
    assert entry.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err


@pytest.mark.parametrize("name, count", [("parti", 1632), ("geneval", 553), ("shapes", None)])
def test_the_prompts_of_a_suite_are_written_as_sampling_reads_them(tmp_path, capsys, name, count):
    suite, plain, lines = table.make_suite(name), tmp_path / "p.txt", tmp_path / "new/p.jsonl"
    for path in (plain, lines):
        assert entry.main(["evaluate", "prompts", f"--suite={name}", f"--out={path}"]) == 0
        out = capsys.readouterr().out
        assert f"{count or len(suite.prompts):,} prompts of {suite.name}" in out
        texts = [" ".join(prompt.text.split()) for prompt in suite.prompts]
        assert [" ".join(prompt.text.split()) for prompt in read_prompts(path)] == texts
    first = json.loads(lines.read_text().splitlines()[0])
    assert first["key"] == suite.prompts[0].key and first["tag"] == suite.prompts[0].tag
    assert entry.main(["evaluate", "prompts", f"--suite={name}"]) == 0
    assert capsys.readouterr().out == plain.read_text()
