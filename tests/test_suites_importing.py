"""import: result files of the original tools, and what in them cannot be one set of images."""

import json
import re

import pytest

from miro_jax import __main__ as entry
from miro_jax.evaluate.suites import comparison, manifest
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.geneval import suite as geneval


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """Result files of the original tools, for eight prompts of GenEval."""
    prompts = geneval.make_suite().prompts[:8]
    small = Suite("geneval@1", prompts, 4, "correct", "mean of tags")
    monkeypatch.setattr("miro_jax.evaluate.suites.table.SUITES", {"geneval": lambda: small})
    lines, rewards = [], []
    for number, prompt in enumerate(prompts):
        for sample in range(4):
            name = f"/data/out/{number:05d}/samples/{sample:05d}.png"
            line = {"filename": name, "prompt": prompt.text, "tag": prompt.tag}
            correct = sample < 3
            lines.append(line | {"correct": correct, "reason": "" if correct else "b\na"})
            rewards.append({"filename": name, "prompt": prompt.text, "clip_openai": 0.25})
    for file, content in (("results", lines), ("rewards", rewards)):
        text = "".join(json.dumps(line) + "\n" for line in reversed(content))
        (tmp_path / f"{file}.jsonl").write_text(text)
    return tmp_path


def test_results_of_the_original_tools_become_an_evaluation(theirs, capsys):
    files = [str(theirs / "results.jsonl"), str(theirs / "rewards.jsonl")]
    words = ["import", *files, "--suite=geneval", f"--out={theirs / 'out'}"]
    assert entry.main([*words, "--judge=name=geneval-mmdet2"]) == 0, capsys.readouterr().err
    read = manifest.read(theirs / "out")
    assert read.metrics["overall"]["value"] == 0.75
    assert read.metrics["openai_clip@1"]["value"] == 0.25
    assert read.manifest["rewards"] == {"openai_clip@1": manifest.UNKNOWN}
    assert read.manifest["judge"] == {"name": "geneval-mmdet2"}
    assert read.rows[3]["reasons"] == [{"rule": "a"}, {"rule": "b"}]
    assert str(read.path_of(read.rows[3])) == "00000/samples/00003.png"  # not beside the files
    assert entry.main(words) == 2 and "must hold no evaluation yet" in capsys.readouterr().err


def test_import_replaces_no_file_that_no_evaluation_wrote(theirs, capsys):
    (out := theirs / "out").mkdir()
    (out / "table.csv").write_text("mine")
    words = ["import", str(theirs / "results.jsonl"), "--suite=geneval", f"--out={out}"]
    assert entry.main(words) == 2
    assert f"{out / 'table.csv'} would be replaced, and this" in capsys.readouterr().err
    assert (out / "table.csv").read_text() == "mine"


def test_import_refuses_what_is_no_such_file(theirs, capsys):
    bad = theirs / "bad.jsonl"
    words = ["import", str(bad), "--suite=geneval", f"--out={theirs / 'x'}"]
    bad.write_text('{"filename": "a.png", "prompt": "p"}\n')
    assert entry.main(words) == 2
    assert "filename must end in NUMBER/samples/FILE; got 'a.png'" in capsys.readouterr().err
    short = (theirs / "results.jsonl").read_text().splitlines()[:-1]
    bad.write_text("\n".join(short))
    assert entry.main(words) == 2 and "lacks 1 of 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--images-per-prompt=0", "must be at least 1; got '0'"),
        ("--images-per-prompt=x", "must be an integer; got 'x'"),
        ("--judge=foo", "must be KEY=VALUE; got 'foo'"),
    ],
)
def test_import_refuses_a_flag_by_what_it_must_be(theirs, capsys, flag, said):
    words = ["import", str(theirs / "results.jsonl"), "--suite=geneval", f"--out={theirs / 'x'}"]
    assert entry.main([*words, flag]) == 2 and not (theirs / "x").exists()
    assert said in capsys.readouterr().err


def test_import_of_verdicts_alone_for_prompts_that_have_none_names_what_counts(theirs, capsys):
    lines = map(json.loads, (theirs / "results.jsonl").read_text().splitlines())
    (theirs / "p.txt").write_text("\n".join(dict.fromkeys(line["prompt"] for line in lines)))
    words = ["import", str(theirs / "results.jsonl"), f"--suite={theirs / 'p.txt'}"]
    assert entry.main([*words, f"--out={theirs / 'x'}"]) == 2
    said = capsys.readouterr().err
    assert "must hold numbers of aesthetic, pick_score" in said and "none that count for p@" in said


def change(theirs, file, **values):
    """Change the first line of a result file; a value of None takes the key away."""
    path = theirs / f"{file}.jsonl"
    first, *rest = path.read_text().splitlines()
    line = {key: value for key, value in (json.loads(first) | values).items() if value is not None}
    path.write_text("\n".join([json.dumps(line), *rest]))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("rewards", {"prompt": "a photo of a bench"}, "same images; 00007/samples/00003.png is of"),
        ("rewards", {"filename": "9/samples/9.png"}, "same images; 2 are in one alone, such as"),
        ("results", {"correct": None}, "a verdict of every image, or of none; 00007/samples/0000"),
        ("rewards", {"clip_openai": None}, "every score of every image; 1 image lacks one"),
        ("rewards", {"clip_openai": "0.25"}, "line 1 of .*clip_openai must be a number"),
        ("rewards", {"clip_openai": True}, "line 1 of .*clip_openai must be a number"),
    ],
)
def test_files_of_other_images_or_with_holes_are_refused(file, values, said, theirs, capsys):
    change(theirs, file, **values)
    files = [str(theirs / "results.jsonl"), str(theirs / "rewards.jsonl")]
    assert entry.main(["import", *files, "--suite=geneval", f"--out={theirs / 'out'}"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (theirs / "out").exists()


def test_an_image_without_a_score_marks_a_partial_set(theirs, capsys):
    change(theirs, "rewards", clip_openai=None)
    files = [str(theirs / "results.jsonl"), str(theirs / "rewards.jsonl")]
    words = ["import", *files, "--suite=geneval", f"--out={theirs / 'out'}", "--partial"]
    assert entry.main(words) == 0
    assert "PARTIAL: 1 image without a reward\n" in capsys.readouterr().out
    read = manifest.read(theirs / "out")
    assert read.manifest["result"]["partial"] and read.manifest["result"]["unscored"] == 1
    assert "PARTIAL" in comparison.compare([read, read], ["correct_images"], True)["notes"][0]


def test_samples_are_in_the_order_of_their_numbers(theirs):
    prompt = geneval.make_suite().prompts[0]
    lines = [
        {"filename": f"0/samples/{n}.png", "prompt": prompt.text, "correct": n % 2 == 0}
        for n in (10, 2, 0, 1, *range(3, 10))
    ]
    path = theirs / "many.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["import", str(path), "--suite=geneval", f"--out={theirs / 'out'}", "--partial"]
    assert entry.main([*words, "--images-per-prompt=11"]) == 0
    rows = manifest.read(theirs / "out").rows
    assert [row["file"] for row in rows] == [f"00000/samples/{n}.png" for n in range(11)]
