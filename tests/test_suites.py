"""Suites: the texts that come with the package, and the two files of an evaluation."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from miro_jax.data.shapes import world
from miro_jax.data.storage import Damaged, LocalFolder
from miro_jax.evaluate.suites import base, manifest, measure, parti, rows, shapes, table
from miro_jax.evaluate.suites.tables import Cell, format_cell
from miro_jax.report import clustered
from tests.painting import paint

ROW = {"key": "00000", "sample": 0, "file": "a.png", "sha256": "0" * 64, "prompt": "p", "tag": ""}


def test_partiprompts_are_the_published_ones():
    suite = table.make_suite("parti")
    assert (
        hashlib.sha256(parti.PATH.read_bytes()).hexdigest()
        == "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"
    )
    assert len(suite.prompts) == len({p.text for p in suite.prompts}) == 1632
    assert len(suite.tags) == 12 and len({p.metadata["challenge"] for p in suite.prompts}) == 11
    assert sum(p.text.startswith('"G I G G L E"') for p in suite.prompts) == 1
    assert suite.score == "" and suite.open_judge is None


def test_geneval_has_its_prompts_in_order():
    suite = table.make_suite("geneval")
    assert (len(suite.prompts), suite.samples_per_prompt, suite.score) == (553, 4, "correct")
    assert list(suite.tags.values()) == [80, 99, 80, 94, 100, 100]
    (clause,) = suite.prompts[0].metadata["include"]
    assert suite.prompts[0].text == "a photo of a bench" and clause == {"name": "bench", "count": 1}


def test_shapes_have_the_prompts_and_verdicts_of_the_evaluator():
    suite = shapes.make_suite(("colors", "counting"), 3, seed=5)
    expected = [t for name in ("colors", "counting") for t, _ in world.prompts(name, 3, 5)]
    assert [p.text for p in suite.prompts] == expected
    judge = suite.open_judge({})
    images = [paint(text) for text in expected[:4]] + [paint("a red circle")] * 2
    judged = judge.judge(images, suite.prompts)
    assert any(row["correct"] for row in judged) and judged[0]["seen"]
    assert [row["correct"] for row in judged] == world.check_all(np.stack(images), expected)
    with pytest.raises(ValueError, match="has no options; got detector"):
        suite.open_judge({"detector": "x"})


def test_a_file_of_prompts_is_a_suite_and_an_unknown_name_lists_the_known(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a red circle\na fox\n")
    suite = table.make_suite(str(file))
    assert [p.text for p in suite.prompts] == ["a red circle", "a fox"]
    assert suite.name.startswith("mine@")
    with pytest.raises(ValueError, match="must be one of.*parti.*shapes.*or a file.*'gneval'"):
        table.make_suite("gneval")
    special = tmp_path / "special.jsonl"
    special.write_text('{"prompt": "a fox", "seed": 3}\n')
    with pytest.raises(ValueError, match="must hold prompts alone.*'a fox'"):
        table.make_suite(str(special))


def test_keys_differ_and_prompts_identify_a_suite():
    prompts = (base.SuitePrompt("0", "a", "x"), base.SuitePrompt("1", "b", "x"))
    suite = base.Suite("s@1", prompts, 1)
    assert suite.tags == {"x": 2}
    changed = (prompts[0], dataclasses.replace(prompts[1], metadata={"count": 2}))
    other = dataclasses.replace(suite, prompts=changed)
    assert suite.describe()["prompts_sha256"] != other.describe()["prompts_sha256"]
    with pytest.raises(ValueError, match="must differ in their keys; '0' stands there twice"):
        base.Suite("s@1", (prompts[0], prompts[0]), 1)


def test_prompts_of_one_text_are_one_prompt_in_every_interval():
    texts = [*["a"] * 8, *"bcdefgh"]
    prompts = tuple(base.SuitePrompt(f"{n:02d}", text, "x") for n, text in enumerate(texts))
    suite = base.Suite("s@1", prompts, 2, "correct")
    table = [
        {
            "key": p.key,
            "sample": n,
            "prompt": p.text,
            "tag": "x",
            "correct": n == 1 and p.text < "e",
        }
        for p in prompts
        for n in (0, 1)
    ]
    found = measure.measure(suite, table)
    for name, value in (("overall", 0.25), ("correct_prompts", 0.5)):
        assert (found[name]["value"], found[name]["prompts"]) == (value, 8), name
        assert found[name]["images"] == 30
    of_texts = clustered.cluster([1.0] * 4 + [0.0] * 4, "abcdefgh", "x" * 8)
    low, high = (clustered.bootstrap(of_texts, clustered.PROMPTS)[end] for end in ("low", "high"))
    assert (found["correct_prompts"]["low"], found["correct_prompts"]["high"]) == (low, high)


def test_rows_are_ordered_and_a_changed_file_is_refused(tmp_path):
    folder = LocalFolder(tmp_path)
    second = ROW | {"sample": 1, "correct": True, "rewards": {"clip@1": None}}
    data = rows.dump_rows([second, ROW])
    assert data == rows.dump_rows([ROW, second])
    folder.write(rows.ROWS_NAME, data)
    digest = hashlib.sha256(data).hexdigest()
    assert rows.read_rows(folder, digest) == [ROW, second]
    folder.write(rows.ROWS_NAME, data.replace(b"true", b"null"))
    with pytest.raises(Damaged, match="must have the digest"):
        rows.read_rows(folder, digest)
    (tmp_path / rows.ROWS_NAME).unlink()
    with pytest.raises(Damaged, match="images.jsonl must be there, .* Copy the whole folder"):
        rows.read_rows(folder, digest)


def test_an_evaluation_is_read_back_and_one_that_was_changed_is_refused(tmp_path):
    groups = dict.fromkeys(manifest.GROUPS, {})
    suite = parti.make_suite()
    groups |= {"benchmark": suite.describe()}
    groups |= {"result": {"metrics": {"clip@1": {"value": 0.5, "tags": {}}}, "images": 3}}
    path = tmp_path / manifest.NAME
    path.write_bytes(manifest.dump(groups))
    read = manifest.read(tmp_path)
    assert read.metrics["clip@1"]["value"] == 0.5 and read.rows == []
    assert manifest.is_evaluation(path) and not manifest.is_evaluation(tmp_path / "no")
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(Damaged, match="was changed after it was written"):
        manifest.read(tmp_path)
    path.write_text(json.dumps([{"step": 3, "settings": {}}]))  # of a run
    with pytest.raises(Damaged, match="must be an object"):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "cell, text",
    [
        (Cell(0.21809, 1.116e-23, 0.54531), "0.2181 (0 to 0.5453)"),
        (Cell(0.37861, -3.67e-06, 0.71778), "0.3786 (0 to 0.7178)"),
        (Cell(-0.0012, -0.21, 0.2), "-0.0012 (-0.21 to 0.2)"),
        (Cell(27.3456, 5.0, 130.25), "27.35 (5 to 130.2)"),
        (Cell(0.9375, 0.85714, 1.0), "0.9375 (0.8571 to 1)"),
        (Cell(2.5e-07, note="*"), "2.5e-07*"),
        (Cell(123456.0), "1.235e+05"),
        (Cell(0.0, 0.0, 0.0), "0 (0 to 0)"),
        (Cell(None), "-"),
    ],
)
def test_the_ends_of_an_interval_that_are_0_but_for_rounding_are_0(cell, text):
    assert format_cell(cell) == text
