"""compare, diff and check: what may stand in one table, and what differs."""

import base64
import csv
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from miro_jax import __main__ as entry
from miro_jax.data.json_file import read_json
from miro_jax.evaluate.plots import facts
from miro_jax.evaluate.suites import (
    comparison,
    difference,
    expected,
    identity,
    manifest,
    pages,
    run,
    tables,
)
from tests.scoring import file_bytes
from tests.suites import Bright, evaluate, small_suite, write_geneval


class Lenient(Bright):
    """Finds every image of the first tag correct, with a reason for what it does not."""

    def judge(self, images, prompts):
        rows = super().judge(images, prompts)
        for row, prompt in zip(rows, prompts, strict=True):
            row["correct"] |= prompt.tag == "red"
            row["reasons"] = [] if row["correct"] else [{"rule": "dark"}]
        return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two evaluations of one judge, one of which finds more; and one of another judge."""
    home = tmp_path_factory.mktemp("made")
    folder = write_geneval(home / "images", small_suite(40))
    first = evaluate(folder, small_suite(40), home / "first")
    second = evaluate(folder, small_suite(40, Lenient()), home / "second")
    other = evaluate(folder, small_suite(40, Bright(90)), home / "other")
    return first, second, other


def test_a_comparison_has_paired_differences_adjusted_over_the_table(made):
    first, second, _ = made
    result = comparison.compare([first, second])
    rows = {(row["metric"], row["tag"]): row for row in result["rows"]}
    red = rows["overall", "red"]
    assert red["values"][0]["value"] == 0.5 and red["values"][1]["value"] == 1.0
    change = red["differences"][1]
    assert change["value"] == 0.5 and change["wins"] == 20 and change["p_holm"] < 0.05
    assert change["p_holm"] > change["p"]
    assert rows["overall", "blue"]["differences"][1]["ties"] == 20
    assert rows["overall", ""]["differences"][1]["value"] == 0.25
    table = comparison.table_of(result)
    (line,) = [row for row in table.rows if row[0] == "  red"]
    assert line[2].bold and not line[1].bold and line[3].note == " *"
    latex = tables.render(table, "latex")
    assert r"\textbf{1 (1 to 1)}" in latex and r"\quad red" in latex
    rows = list(csv.reader(tables.render(table, "csv").splitlines()))
    assert rows[0][1:4] == [str(first.name), f"{first.name} low", f"{first.name} high"]
    assert json.loads(tables.render(table, "json"))["columns"] == list(table.columns)
    assert b"won/tied/lost" in pages.render_comparison([first, second], result)


def evaluate_lacking(folder, count, *lacking):
    """Evaluations of as many prompts, each without the images of one of them."""
    suite, made = small_suite(count, images=1), []
    for name in lacking:
        images = write_geneval(folder / name, suite, 1)
        shutil.rmtree(images / name)
        made.append(evaluate(images, suite, folder / f"{name}-out", partial=True))
    return made


def test_sets_that_lack_different_prompts_are_paired_by_their_prompts(tmp_path):
    sides = evaluate_lacking(tmp_path, 46, "00046", "00002")  # the last and the first red prompt
    result = comparison.compare(sides)
    for row in result["rows"]:
        change = row["differences"][1]
        assert (change["value"], change["low"], change["high"], change["p"]) == (0, 0, 0, 1)
        red_or_both = {"red": 21, "blue": 23, "": 44}
        assert change["ties"] == red_or_both[row["tag"]] and not change["wins"]
    (note,) = [note for note in result["notes"] if "difference" in note]
    assert note == f"the difference to {sides[1].name} is over the 44 prompts that both have"


def test_what_a_forced_comparison_does_not_show_is_not_said_of_it(made, tmp_path):
    both = made[0], evaluate_lacking(tmp_path, 40, "00040")[0]
    forced = comparison.compare(both, force=True)
    assert all(row["differences"][1] is None for row in forced["rows"])
    assert not [note for note in forced["notes"] if "the difference to" in note or "p:" in note]
    assert b"keeps these numbers apart" not in pages.render_comparison(both, forced)
    whole = comparison.compare(made[:2])
    assert b"none of them keeps these numbers apart" in pages.render_comparison(made[:2], whole)


def test_sets_that_share_no_prompt_of_a_tag_have_no_difference_of_all_tags(tmp_path):
    sides = evaluate_lacking(tmp_path, 4, "00004", "00002")  # one of the two red prompts each
    result = comparison.compare(sides, ["overall"])
    rows = {(r["metric"], r["tag"]): r["differences"][1] for r in result["rows"]}
    assert result["notes"][-1].endswith("Holm over the 1 test of this table")
    assert rows["overall", ""] is None and rows["overall", "red"] is None
    assert rows["overall", "blue"]["ties"] == 2


def test_another_judge_shares_no_column_and_diff_names_the_field(made):
    first, _, other = made
    with pytest.raises(Exception, match="judge.threshold: 128 and 90"):
        comparison.compare([first, other])
    forced = comparison.compare([first, other], force=True)
    assert all(row["values"][1]["forced"] for row in forced["rows"])
    assert all(row["differences"][1] is None for row in forced["rows"])
    assert " !" in tables.render(comparison.table_of(forced), "text")
    made = csv.DictReader(io.StringIO(tables.render(comparison.table_of(forced), "csv")))
    assert {row[f"{other.name} mark"] for row in made} == {"!"}
    assert f"{first.name} mark" not in (made.fieldnames or ())
    result = difference.diff(first, other)
    assert result["fields"][0] == ["judge.threshold", 128, 90] and result["same_images"]


JUDGE = {
    "name": "geneval@mask2former",
    "weights": {"detector": "sha256:3f", "clip": "sha256:9a"},
    "activation": "quickgelu",
    "rules": {"score": 0.3, "counting": 0.9, "most": 16, "overlap": 1.0},
    "input": "800/1333",
    "precision": "highest",
}


def leaves(value, path=()):
    if not isinstance(value, dict):
        return [path]
    return [leaf for key in value for leaf in leaves(value[key], (*path, key))]


@pytest.mark.parametrize("path", leaves(JUDGE), ids=".".join)
def test_any_field_of_a_judge_keeps_numbers_apart(path, made):
    changed = json.loads(json.dumps(JUDGE))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "another"
    first, second = (
        manifest.Evaluation(name, made[0].folder, {**made[0].manifest, "judge": judge})
        for name, judge in (("a", JUDGE), ("b", changed))
    )
    ((found, *_),) = identity.why_no_column(first, second, "overall")
    assert found == ".".join(("judge", *path))
    with pytest.raises(Exception, match="may not share a column"):
        comparison.compare([first, second])
    assert difference.diff(first, second)["fields"][0][0] == found
    assert not identity.why_no_column(first, first, "overall")


def test_an_unknown_judge_shares_no_column(made):
    unknown = {**made[0].manifest, "judge": {"name": manifest.UNKNOWN}}
    one = manifest.Evaluation("a", made[0].folder, unknown)
    ((field, *_),) = identity.why_no_column(one, one, "overall")
    assert field == "judge.name"


def test_nothing_to_compare_is_said_once_with_the_remedy(made, tmp_path, capsys):
    groups = json.loads(json.dumps(made[0].manifest))
    for field, other in (("benchmark", {"name": "large@1"}), ("result", {"metrics": {}})):
        changed = groups | {field: groups[field] | other}
        (tmp_path / field).mkdir()
        (tmp_path / field / manifest.NAME).write_bytes(manifest.dump(changed))
        assert entry.main(["compare", str(made[0].folder), str(tmp_path / field)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        "may not share a column: " in first
        and "benchmark.name: small@1 and large@1. --force" in first
    )
    assert first.count("benchmark.name") == 1
    assert f"must have a metric in common; {made[0].folder} has overall, correct_images" in second
    assert second.endswith(f"; {tmp_path / 'result'} has none.")


def test_other_prompts_may_share_a_column_and_no_difference(made, tmp_path):
    first, *_ = made
    shorter = small_suite(38)
    other = evaluate(write_geneval(tmp_path / "images", shorter), shorter, tmp_path / "out")
    result = comparison.compare([first, other])
    assert result["rows"][0]["differences"] == [None, None]
    assert "no difference to" in result["notes"][0] and "prompts" in result["notes"][0]
    assert b"The same prompts" not in pages.render_comparison([first, other], result)


def test_diff_shows_the_prompts_that_changed_with_images_and_reasons(made):
    first, second, _ = made
    result = difference.diff(first, second)
    assert result["flips"] == {"red": {"won": 20, "lost": 0}} and result["rules"]["dark"] == 20
    one = result["changed"][0]
    assert one["tag"] == "red" and one["scores"] == [0.5, 1.0] and one["files"][0].endswith(".png")
    text = "\n".join(difference.lines(result))
    assert "red: 20 images won, 0 lost" in text and "the images are the same" in text


def test_diff_of_rewards_alone_shows_the_images_whose_score_changed_most(tmp_path, capsys):
    suite, made = small_suite(8), []
    for number, name in enumerate(("first", "second")):
        folder = write_geneval(tmp_path / name, suite)
        if number:  # one image of prompt 5 becomes noise, one of prompt 2 is less even
            rng = np.random.default_rng(0)
            for prompt, spread in ((5, 250), (2, 60)):
                pixels = rng.integers(0, spread, (16, 16, 3), dtype=np.uint8)
                path = folder / f"{8 - prompt:05d}" / "samples" / "0001.png"
                path.write_bytes(file_bytes(pixels))
        out, rewards = tmp_path / f"{name}-out", ("sharpness", "cleanliness")
        made.append(evaluate(folder, suite, out, rewards=rewards, no_judge=True))
    result = difference.diff(*made)
    assert "flips" not in result and "changed" not in result
    listed = {name: [one["prompt"] for one in own] for name, own in result["rewards"].items()}
    assert ["prompt 5", "prompt 2"] in listed.values(), listed
    for changed in result["rewards"].values():
        before, after = changed[0]["scores"]
        assert before != after and changed[0]["files"][1].endswith("second/00003/samples/0001.png")
    assert entry.main(["diff", *(str(one.folder) for one in made)]) == 0
    out = capsys.readouterr().out
    assert f"  {next(iter(result['rewards']))}: what changed most\n  00005 'prompt 5': " in out
    again = difference.diff(made[0], made[0])
    assert set(map(tuple, again["rewards"].values())) == {()}
    assert "no image changed" in "\n".join(difference.lines(again))


def test_diff_of_imported_results_does_not_know_whether_the_images_are_the_same(made):
    images = made[0].manifest["images"]
    for digests, known in ((("1", "1"), True), (("1", "2"), False), (("unknown",) * 2, None)):
        pair = [
            manifest.Evaluation(
                "a", made[0].folder, made[0].manifest | {"images": images | {"sha256": digest}}
            )
            for digest in digests
        ]
        result = difference.diff(*pair)
        assert result["same_images"] is known
    assert "whether the images are the same is unknown" in difference.lines(result)


def test_diff_tells_prompts_of_one_text_apart(made):
    first, second = (
        manifest.Evaluation(name, made[0].folder, made[0].manifest) for name in ("a", "b")
    )
    score = made[0].manifest["benchmark"]["score"]
    for one, right in ((first, (True, False)), (second, (False, False))):
        rows = [{**made[0].rows[0], "key": key, "sample": 0} for key in ("00000", "00001")]
        vars(one)["rows"] = [{**row, score: now} for row, now in zip(rows, right, strict=True)]
    result = difference.diff(first, second)
    assert list(result["flips"].values()) == [{"won": 0, "lost": 1}]
    assert result["changed"][0]["key"] == "00000" and result["changed"][0]["scores"] == [0.5, 0]


def published(evaluation, **changes):
    values = {"overall": {"value": 0.5, "tolerance": 0.01, "tags": {}}} | changes
    models = {"one": {"small@1": {"samples_per_prompt": 2, "metrics": values}}}
    return {"models": models}


def test_check_says_pass_fail_or_what_prevents_it(made, tmp_path, capsys):
    first, *_ = made
    path = tmp_path / "expected.json"

    def status(**changes):
        path.write_text(json.dumps(published(first, **changes)))
        return entry.main(["check", str(path), str(first.folder), "--model=one"])

    assert status() == 0
    assert status(overall={"value": 0.6, "tolerance": 0.01}) == 1
    assert status(overall={"value": 0.5, "tolerance": 0.1, "tags": {"red": {
        "value": 0.9, "tolerance": 0.1}}}) == 1  # fmt: skip
    values = {"overall": {"value": 0.5, "tolerance": 0.01}, "clip@1": {"value": 1, "tolerance": 1}}
    assert status(**values) == 0
    assert "result.metrics has no clip@1" in capsys.readouterr().out
    several = published(first)
    several["models"]["one"]["small@1"]["samples_per_prompt"] = 4
    path.write_text(json.dumps(several))
    assert entry.main(["check", str(path), str(first.folder), "--model=one"]) == 3
    assert "benchmark.samples_per_prompt is 2, not 4" in capsys.readouterr().out
    assert entry.main(["check", str(path), str(first.folder), "--model=two"]) == 2
    assert "--model must be one of one; got 'two'" in capsys.readouterr().err


def test_the_papers_values_are_those_of_its_tables():
    values = expected.read("miro_2510.25897")
    overall = values["models"]["miro_synthetic"]["geneval@1"]["metrics"]["overall"]
    tags = [one["value"] for one in overall["tags"].values()]
    assert sum(tags) / 6 == pytest.approx(overall["value"], abs=1e-4)
    assert overall["value"] == pytest.approx(0.6767) and len(values["models"]) == 11
    # Written out, with means of tags of 4 digits, they were a file of this digest.
    for one in values["models"].values():
        one["geneval@1"]["metrics"]["overall"]["value"] = 0
    digest = hashlib.sha256(json.dumps(values["models"], sort_keys=True).encode()).hexdigest()
    assert digest == "530a6a3c9bc5013c2b4f61067494885055e4fce1771776293337fd28c0d77a9e"
    assert values["models"]["miro_real"]["parti@1"]["metrics"]["hpsv2@2.0"]["value"] == 0.29346
    assert read_json(facts.PAPER, facts.SCHEMA)["convergence"]["steps"][-1] == 500000
    with pytest.raises(FileNotFoundError, match="or one of miro_2510.25897; got 'miro'"):
        expected.read("miro")


def test_compare_of_evaluations_needs_no_run_and_writes_its_files(made, tmp_path, capsys):
    first, second, other = (str(one.folder) for one in made)
    assert entry.main(["compare", first, second, f"--out={tmp_path / 'c'}"]) == 0
    assert "won/tied/lost" in capsys.readouterr().out
    names = ["compare.csv", "compare.html", "compare.json", "compare.tex", "compare.txt"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == names
    assert entry.main(["compare", first, other]) == 2
    assert "may not share a column" in capsys.readouterr().err
    assert entry.main(["diff", first, other]) == 0
    assert "judge.threshold: 128 -> 90" in capsys.readouterr().out


def test_compare_says_of_the_path_that_is_neither_run_nor_evaluation(made, tmp_path, capsys):
    first, missing = str(made[0].folder), str(tmp_path / "missing")

    def said(*words):
        assert entry.main(list(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert f"{missing} must be the folder of an evaluation" in said("compare", first, missing)
    (tmp_path / "file").touch()
    given = ("compare", first, first, f"--out={tmp_path / 'file'}")
    assert "file must be a folder; it is a file." in said(*given)
    neither = said("compare", missing, missing)
    assert neither.startswith("miro-jax compare: error: AFTER must be the folder of a run, ")
    assert f"or all paths folders of evaluations, with evaluation.json; got {missing}" in neither
    assert "besides flags it takes BEFORE AFTER and no more" in said("compare", "a", "b", "c")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    is_a_run = said("diff", first, str(tmp_path / "run"))
    assert "it is that of a run. `miro-jax evaluate" in is_a_run and "run --suite=" in is_a_run
    flags = ["--suite=geneval", f"--out={tmp_path / 'out'}"]
    assert f"there is no file {missing}" in said("import", missing, *flags)
    assert f"there is no file {missing}" in said("agreement", missing, missing)
    required = said("import", missing)
    assert "--suite (geneval, parti or a file of prompts), --out (folder of the" in required


def test_compare_takes_the_folder_for_its_files_as_a_word_too(made, tmp_path, capsys):
    first, second, _ = (str(one.folder) for one in made)
    assert entry.main(["compare", first, second, "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "compare.html").exists()


@pytest.mark.parametrize("name", ["compare.csv", "compare.html", "compare.json"])
def test_compare_replaces_no_file_that_no_comparison_wrote(made, tmp_path, capsys, name):
    first, second, _ = (str(one.folder) for one in made)
    words = ["compare", first, second, f"--out={tmp_path}"]
    (tmp_path / name).write_text('{"names": 1}')
    assert entry.main(words) == 2
    said = f"{tmp_path / name} would be replaced, and this command did not write it. Give"
    assert said in capsys.readouterr().err
    assert [one.read_text() for one in tmp_path.iterdir()] == ['{"names": 1}']
    (tmp_path / name).unlink()
    assert entry.main(words) == entry.main(words) == 0


def test_the_number_of_fields_that_differ_has_its_noun():
    result = {"names": ("a", "b"), "fields": [("x", 1, 2)], "same_images": True}
    assert difference.lines(result)[0] == "a and b: 1 field differs"
    assert difference.lines(result | {"fields": []})[0] == "a and b: 0 fields differ"


def test_the_page_of_an_evaluation_shows_numbers_images_and_manifest(made):
    page = pages.render_evaluation(made[1]).decode()
    assert page.count('<img src="data:image/png') == 24
    data = base64.b64decode(page.split("data:image/png;base64,")[1].partition('"')[0])
    assert Image.open(io.BytesIO(data)).size == (160, 160)  # of 16 pixels a side
    assert "prompt 3" in page and "dark" in page and "bright@1" in page
    assert run.SEED_RULE not in page
