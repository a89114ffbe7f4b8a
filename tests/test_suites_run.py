"""Evaluating folders of images: layouts, what is refused, resuming, and the files that result."""

import csv
import dataclasses
import json
import shutil

import pytest

from miro_jax import __main__ as entry
from miro_jax.data.storage.files import to_sealed_json
from miro_jax.evaluate.suites import comparison, find, manifest, run, table
from tests.scoring import file_bytes, grey
from tests.suites import Bright, contents, evaluate, shade, small_suite, write_geneval


@pytest.fixture
def folder(tmp_path):
    return write_geneval(tmp_path / "images", small_suite())


def test_a_set_of_which_no_image_can_be_read_is_refused_also_if_partial(folder, tmp_path):
    for image in folder.glob("*/samples/*.png"):
        image.write_bytes(image.read_bytes()[:40])
    said = "none of 12 is, the first is 00006/samples/0000.png .not an image.*, and delete .*parts"
    with pytest.raises(ValueError, match=said):
        evaluate(folder, small_suite(), tmp_path / "out", partial=True, rewards=("beauty",))


def test_one_image_is_one_image_in_what_is_lacking(folder, tmp_path):
    with pytest.raises(ValueError, match="must hold 1 image of each prompt of .*; it holds 2 of"):
        evaluate(folder, small_suite(), tmp_path / "out", images_per_prompt=1)


def test_images_find_their_prompts_whatever_the_order_of_folders(folder, tmp_path):
    suite = small_suite()
    made = evaluate(folder, suite, tmp_path / "out")
    assert [row["key"] for row in made.rows] == [p.key for p in suite.prompts for _ in range(2)]
    expected = [shade(n, s) > 128 for n in range(6) for s in range(2)]
    assert [row["correct"] for row in made.rows] == expected
    assert made.rows[0]["file"] == "00006/samples/0000.png" and made.rows[0]["tag"] == "red"
    overall = made.metrics["overall"]
    assert overall["value"] == 0.5 and overall["low"] <= 0.5 <= overall["high"]
    assert made.metrics["correct_prompts"]["value"] == 1.0
    assert set(overall["tags"]) == {"red", "blue"}


def test_the_same_images_in_any_layout_give_the_same_verdicts(folder, tmp_path):
    suite, rows = small_suite(), []
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, prompt in enumerate(suite.prompts):
        for sample in range(2):
            name = f"{number}-{sample}.png"
            source = folder / f"{6 - number:05d}" / "samples" / f"{sample:04d}.png"
            shutil.copy(source, plain / name)
            rows.append({"path": name, "caption": prompt.text})
    with open(tmp_path / "captions.csv", "w") as file:
        writer = csv.DictWriter(file, ("path", "caption"))
        writer.writeheader()
        writer.writerows(rows)
    entries = [{"file": row["path"], "prompt": row["caption"]} for row in rows]
    ours = shutil.copytree(plain, tmp_path / "ours")
    (ours / "manifest.json").write_text(json.dumps({"request": {}, "images": entries}))
    verdicts = []
    for number, (what, given, layout) in enumerate(
        [
            (folder, None, find.GENEVAL),
            (plain, tmp_path / "captions.csv", find.FOLDER),
            (ours, None, find.OURS),
        ]
    ):
        captions = None if given is None else str(given)
        made = evaluate(what, suite, tmp_path / f"out{number}", captions=captions)
        verdicts.append([(row["key"], row["sample"], row["correct"]) for row in made.rows])
        assert made.manifest["images"]["layout"] == layout
    assert verdicts[0] == verdicts[1] == verdicts[2]


def test_an_incomplete_set_is_refused_unless_partial_which_is_marked(folder, tmp_path):
    suite = small_suite()
    (folder / "00006" / "samples" / "0001.png").unlink()
    lacks = "2 images of each of the 6 prompts of .* lacks 1 of 12: 00000/1. Sample them.*--partial"
    with pytest.raises(ValueError, match=lacks):
        evaluate(folder, suite, tmp_path / "out")
    made = evaluate(folder, suite, tmp_path / "out", partial=True)
    assert made.manifest["result"]["missing"] == [["00000", 1]]
    assert made.manifest["result"]["partial"] is True
    assert "PARTIAL: 1 image missing or damaged" in (tmp_path / "out" / "table.txt").read_text()
    notes = comparison.compare([made, made])["notes"]
    assert notes.count(f"{made.name} is PARTIAL: it lacks images or scores of its suite") == 2


def test_a_set_without_a_tag_has_no_overall_score(folder, tmp_path):
    for number in (1, 3, 5):  # the blue prompts
        shutil.rmtree(folder / f"{number:05d}")
    made = evaluate(folder, small_suite(), tmp_path / "out", partial=True)
    assert made.metrics["overall"]["value"] is None
    assert list(made.metrics["overall"]["tags"]) == ["red"]


def test_foreign_prompts_surplus_images_and_damage_are_refused_by_name(folder, tmp_path):
    suite = small_suite()
    line = folder / "00001" / "metadata.jsonl"
    kept = line.read_text()
    line.write_text(json.dumps({"prompt": "a rewritten prompt", "tag": "blue"}))
    with pytest.raises(ValueError, match="2 have other.*'a rewritten prompt'.*--suite=FILE"):
        evaluate(folder, suite, tmp_path / "out")
    line.write_text(kept.replace("blue", "red"))
    with pytest.raises(ValueError, match="must have the tag 'blue'.*metadata was changed"):
        evaluate(folder, suite, tmp_path / "out")
    line.write_text(kept)
    extra = folder / "00001" / "samples" / "0002.png"
    extra.write_bytes(file_bytes(grey(3)))
    with pytest.raises(ValueError, match="it holds 3 of 'prompt 5'. Set --images-per-prompt"):
        evaluate(folder, suite, tmp_path / "out")
    extra.unlink()
    grid = folder / "00001" / "samples" / "grid.png"
    grid.write_bytes(file_bytes(grey(3)))  # beside those that are numbered
    assert len(find.find_images(folder, suite).images) == 12
    named = [(f := folder / "00001" / "samples" / f"000{n}.png", f.read_bytes()) for n in (0, 1)]
    for path, _ in named:
        path.unlink()
    with pytest.raises(ValueError, match="named by their numbers.*it holds grid.png. Rename"):
        evaluate(folder, suite, tmp_path / "out")
    for path, data in named:
        path.write_bytes(data)
    (folder / "00001" / "samples" / "0001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="1 is not, the first is 00001/samples/0001.png"):
        evaluate(folder, suite, tmp_path / "out")
    made = evaluate(folder, suite, tmp_path / "out", partial=True)
    (failed,) = made.manifest["result"]["failed"]
    assert failed["cause"].startswith("not an image") and len(made.rows) == 11
    with pytest.raises(ValueError, match="1 is not, the first is 00001/samples/0001.png"):
        evaluate(folder, suite, tmp_path / "out")


OWN = """
import numpy as np

from miro_jax.rewards import base


class Half(base.Judge):
    name, version = "half", "1"
    tower = preprocessing = "half"
    needs_caption, synthetic_form = False, "long"
    may_be_missing = True

    def prepare(self, image):
        base.check_image(image)
        return image.mean((0, 1), dtype=np.float32)

    def encode(self, prepared):
        return prepared.mean(-1)

    def judge(self, features, captions):
        return np.where(features > 128, features, np.nan).astype(np.float32)
"""


def test_a_score_that_may_be_missing_is_null_and_marks_a_partial_set(folder, tmp_path):
    (tmp_path / "half.py").write_text(OWN)
    options = {"rewards": (f"{tmp_path / 'half.py'}:Half",), "no_judge": True}
    with pytest.raises(ValueError, match="Every image must get its rewards; 6 did not, .* --part"):
        evaluate(folder, small_suite(), tmp_path / "out", **options)
    made = evaluate(folder, small_suite(), tmp_path / "out", partial=True, **options)
    assert made.manifest["result"]["unscored"] == 6
    (name,) = made.metrics
    bright = [shade(n, s) > 128 for n in range(6) for s in range(2)]
    assert [row["rewards"][name] is not None for row in made.rows] == bright


def test_an_image_without_a_reward_is_refused_unless_partial(folder, tmp_path, monkeypatch):
    options = {"rewards": ("sharpness",), "no_judge": True}
    score_suite = run.scoring.score_suite

    def score_some(*given):
        rewards, towers = score_suite(*given)
        return rewards | {next(iter(rewards)): dict.fromkeys(towers)}, towers

    monkeypatch.setattr(run.scoring, "score_suite", score_some)
    made = evaluate(folder, small_suite(), tmp_path / "out", partial=True, **options)
    assert made.manifest["result"]["unscored"] == 1
    for out, said in (("out", "Delete .*out to score them again"), ("new", "See .*failures.jsonl")):
        with pytest.raises(ValueError, match=f"1 did not, the first is 00.*{said}, or give --part"):
            evaluate(folder, small_suite(), tmp_path / out, **options)


def test_an_evaluation_of_a_newer_format_is_refused_by_name(folder, tmp_path):
    evaluate(folder, small_suite(), tmp_path / "out")
    path = tmp_path / "out" / manifest.NAME
    made = json.loads(path.read_bytes())
    path.write_bytes(to_sealed_json({"format": 2, "request": made["request"]}))
    with pytest.raises(ValueError, match="must be of format 1 or older; it is of format 2, which"):
        manifest.read(tmp_path / "out")


def test_features_and_reference_are_looked_for_before_images_are_judged(folder, tmp_path):
    suite, out = small_suite(judge=Stops()), tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="'nope' is no existing folder, and no hub id"):
        evaluate(folder, suite, out, features="nope")
    with pytest.raises(FileNotFoundError, match="--reference must be a folder.*there is no coco"):
        evaluate(folder, suite, out, features="owner/name", reference="coco")
    assert not out.exists()


def test_a_folder_without_prompts_asks_for_captions(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(file_bytes(grey(3)))
    with pytest.raises(ValueError, match="1 has none, the first is a.png. Give.*--captions"):
        evaluate(tmp_path / "in", small_suite(), tmp_path / "out")


def test_rows_of_captions_that_are_of_no_image_are_counted(tmp_path, capsys):
    suite, images = small_suite(1), tmp_path / "in"
    images.mkdir()
    for name in "ab":
        (images / f"{name}.png").write_bytes(file_bytes(grey(3)))
    table = tmp_path / "captions.csv"
    rows = "path,caption\na.png,prompt 0\nb.png,prompt 0\n"
    cases = {"": "", "c.png,prompt 0\n": "1 name of {} is of no image"}
    cases["c.png,prompt 0\nd.png,prompt 0\n"] = "2 names of {} are of no image"
    for more, said in cases.items():
        table.write_text(rows + more)
        found = find.find_images(images, suite, captions=str(table))
        err = capsys.readouterr().err
        assert len(found.images) == 2 and said.format(table) in err
        assert err.count("\n") == bool(more) and ("the first is 'c.png'" in err) == bool(more)


def test_options_of_a_judge_are_wrong_before_it_is_opened(folder, tmp_path, capsys, monkeypatch):
    def check(options):
        if options:
            raise ValueError(f"no option {next(iter(options))}")

    suite = dataclasses.replace(small_suite(), check_judge=check)
    monkeypatch.setattr(table, "SUITES", {"small": lambda: suite})
    words = ["evaluate", str(folder), "--suite=small", f"--out={tmp_path / 'out'}"]
    assert entry.main([*words, "--judge", "x=1"]) == 2
    assert "error: no option x" in capsys.readouterr().err
    assert entry.main([*words, "--judge", "x=1", "--no-judge", "--rewards=sharpness"]) == 2
    assert not (tmp_path / "out").exists()
    assert entry.main(words) == 0


class Stops(Bright):
    def judge(self, images, prompts):
        if self.judged >= 64:
            raise RuntimeError("stopped")
        return super().judge(images, prompts)


def test_work_that_stopped_resumes_where_it_was_to_the_same_bytes(tmp_path):
    folder = write_geneval(tmp_path / "images", small_suite(40), samples=2)
    whole = evaluate(folder, small_suite(40), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        evaluate(folder, small_suite(40, Stops()), tmp_path / "out")
    judge = Bright()
    again = evaluate(folder, small_suite(40, judge), tmp_path / "out")
    assert judge.judged == 16 and again.rows == whole.rows
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert ours == theirs and not (tmp_path / "out" / "parts").exists()
    unused = Bright()
    evaluate(folder, small_suite(40, unused), tmp_path / "out")
    assert unused.judged == 0


def test_another_judge_does_not_go_on_with_what_one_began(tmp_path):
    folder = write_geneval(tmp_path / "images", small_suite(40), samples=2)
    with pytest.raises(RuntimeError, match="stopped"):
        evaluate(folder, small_suite(40, Stops()), tmp_path / "out")
    with pytest.raises(ValueError, match="judge_identity.threshold is 128 there, 90 here"):
        evaluate(folder, small_suite(40, Bright(90)), tmp_path / "out")


def test_rewards_of_any_suite_come_from_the_score_engine(folder, tmp_path):
    made = evaluate(folder, small_suite(), tmp_path / "out", rewards=("sharpness", "beauty"))
    names = list(made.metrics)[3:]
    assert set(names) == set(made.manifest["rewards"])
    assert [name.partition("@")[0] for name in names] == ["sharpness", "beauty"]
    assert set(made.rows[0]["rewards"]) == set(names)
    assert made.metrics[names[0]]["images"] == 12 and made.metrics[names[0]]["tags"]
    alone = evaluate(
        folder, small_suite(), tmp_path / "alone", rewards=("sharpness",), no_judge=True
    )
    assert list(alone.metrics) == names[:1] and "correct" not in alone.rows[0]
    assert alone.manifest["judge"] == {}
    left = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".")
    assert left == ["evaluation.json", "images.jsonl", "table.csv", "table.tex", "table.txt"]


def test_what_a_process_left_that_was_killed_after_its_table_is_removed(folder, tmp_path):
    given = {"rewards": ("sharpness",), "no_judge": True}
    made = evaluate(folder, small_suite(), tmp_path / "out", **given)
    left = tmp_path / "out" / "rewards.parquet.parts" / "pieces"
    left.mkdir(parents=True)
    (left / "00000.rows").write_bytes(b"")
    again = evaluate(folder, small_suite(), tmp_path / "out", **given)
    assert again.rows == made.rows and not left.parent.exists()


def test_what_is_declared_stands_in_the_manifest_and_the_rest_is_unknown(folder, tmp_path):
    declared = (("model.name", "sdxl"), ("sampling.num_steps", "50"))
    made = evaluate(folder, small_suite(), tmp_path / "out", declare=declared)
    assert made.manifest["model"]["name"] == "sdxl"
    assert made.manifest["sampling"] == {"num_steps": "50"}
    assert made.manifest["post_selection"]["best_of"] == manifest.UNKNOWN
    with pytest.raises(ValueError, match="GROUP one of model, sampling.*'judge.name'"):
        evaluate(folder, small_suite(), tmp_path / "x", declare=(("judge.name", "x"),))


@pytest.mark.parametrize("name", ["report.html", "table.csv"])
def test_files_that_no_evaluation_wrote_are_not_replaced(folder, tmp_path, capsys, name):
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"{prompt.text}\n" for prompt in small_suite().prompts))
    (tmp_path / name).write_text("mine")
    words = ["evaluate", str(folder), f"--suite={prompts}", "--rewards=beauty", "--partial"]
    assert entry.main([*words, f"--out={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path / name} would be replaced, and this command did not write it" in err
    assert err.count("\n") == 1
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]"])
def test_json_that_no_evaluation_wrote_is_not_called_damaged(folder, tmp_path, capsys, content):
    (tmp_path / "evaluation.json").write_text(content)
    words = ["evaluate", str(folder), "--suite=shapes", "--no-judge", "--rewards=beauty"]
    assert entry.main([*words, f"--out={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert (
        f"{tmp_path / 'evaluation.json'} would be replaced, and this command did not write it"
        in err
    )
    assert (tmp_path / "evaluation.json").read_text() == content
