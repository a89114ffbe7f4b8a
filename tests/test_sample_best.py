"""Best-of-N: exact expectations, all scores kept, the best picture saved, going on after a kill."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from miro_jax import sample
from miro_jax.data.storage import LocalFolder
from miro_jax.sample import best, curve, draw, folder, sheets
from miro_jax.sample.verbs import Best
from tests.painting import Gauge
from tests.sampling import NAMES, Dial, contents

# Row of a Dial's picture that shows the noise: the only thing candidates differ in.
REWARD = Gauge("luck", 2 * len(NAMES) + 1)
PROMPTS = ("a red circle", "b", "c")


# The curve.


def test_the_expected_best_is_the_mean_over_all_choices():
    values = np.random.default_rng(0).normal(size=(2, 8))
    found = sample.expected_best(values)
    for n in range(1, 9):
        choices = [max(c) for c in itertools.combinations(values[1], n)]
        assert found[1, n - 1] == pytest.approx(np.mean(choices), abs=1e-12)


def test_the_expected_best_begins_at_the_mean_ends_at_the_maximum_and_never_falls():
    values = np.random.default_rng(1).normal(size=(5, 128))
    found = sample.expected_best(values)
    np.testing.assert_allclose(found[:, 0], values.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(found[:, -1], values.max(axis=1), atol=1e-12)
    assert (np.diff(found, axis=1) > 0).all()
    assert found.shape == (5, 128) and np.isfinite(found).all()


def test_the_expected_best_does_not_depend_on_the_order_and_bears_ties():
    values = np.array([0.3, 0.1, 0.3, 0.2])
    np.testing.assert_array_equal(
        sample.expected_best(values), sample.expected_best(values[::-1].copy())
    )
    np.testing.assert_allclose(sample.expected_best(np.full(9, 0.7)), 0.7)


@pytest.mark.parametrize("values", [np.zeros((2, 0)), np.array([1.0, np.nan]), np.float64(1.0)])
def test_scores_that_have_no_best_are_refused(values):
    with pytest.raises(ValueError, match="scores must be .*finite"):
        sample.expected_best(values)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 64), (50, 100)])
def test_the_curve_is_an_svg_file_of_its_own(shape):
    text = curve.draw_curve(np.random.default_rng(0).normal(size=shape), "luck@<1>")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox")
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "expected best score, luck@<1>" in texts and "1" in texts and str(shape[1]) in texts
    assert "var(" not in text  # colours of a page are not here


# In memory.


def test_best_of_returns_the_best_picture_of_each_prompt_and_all_scores():
    found = sample.best_of(Dial(), list(PROMPTS), REWARD, 9, seed=3)
    assert found.images.shape[0] == 3 and found.scores.shape == found.expected.shape == (3, 9)
    assert len(np.unique(found.scores)) > 20
    np.testing.assert_array_equal(found.chosen, found.scores.argmax(axis=1))
    np.testing.assert_allclose(
        REWARD.score(found.images, PROMPTS), found.scores.max(axis=1), atol=1e-6
    )
    one = sample.best_of(Dial(), PROMPTS[0], REWARD, 5, seed=3)
    np.testing.assert_array_equal(one.scores[0], found.scores[0, :5])


# In a folder.


def fill(path, pipe=None, count=9, keep=False, reward=REWARD):
    pipe = pipe or Dial()
    asked = sample.ask(NAMES, list(PROMPTS), count, 3)
    images = Best("luck").sheet(asked).images
    request = asked.describe("best", images) | {"reward": reward.identity, "keep": keep}
    with folder.open_folder(path, request, [image.file for image in images]) as opened:
        best.fill(opened, pipe, asked, reward, keep)
    return pipe


def test_the_folder_holds_the_best_all_scores_curve_and_grid(tmp_path):
    fill(tmp_path)
    found = sample.best_of(Dial(), list(PROMPTS), REWARD, 9, seed=3)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [(line["prompt_index"], line["sample_index"]) for line in lines] == [
        (p, i) for p in range(3) for i in range(9)
    ]
    np.testing.assert_array_equal([line["score"] for line in lines], found.scores.ravel())
    assert {line["reward"] for line in lines} == {"luck@1"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for entry, image, score in zip(
        manifest["images"], found.images, found.scores.max(axis=1), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / entry["file"])), image)
        np.testing.assert_array_equal(sample.remake(Dial(), entry), image)
        assert entry["score"] == score and entry["reward"] == "luck@1"
    numbers = json.loads((tmp_path / "curve.json").read_text())
    np.testing.assert_allclose(numbers["expected_best_by_prompt"], found.expected)
    np.testing.assert_allclose(numbers["expected_best"], found.expected.mean(axis=0))
    names = {"best", "scores.jsonl", "curve.svg", "curve.json", "grid.png", "manifest.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_scores_stand_behind_a_long_prompt_on_the_grid(tmp_path, monkeypatch):
    class Tiny(Gauge):
        def score(self, images, captions):
            return super().score(images, captions) * 1e-30

    monkeypatch.setattr(f"{__name__}.PROMPTS", ("a hen " * 40, "b"))
    drawn, draw_grid = [], draw.draw_grid
    monkeypatch.setattr(draw, "draw_grid", lambda *a: drawn.append(a[0]) or draw_grid(*a))
    fill(tmp_path, reward=Tiny("luck", 2 * len(NAMES) + 1))
    (long, short), _ = drawn[0].labels()
    assert long.startswith("a hen a hen") and long.endswith("... (first 0, best 0)")
    assert short == "b (first 0, best 0)" and len(long) == sheets.LONGEST_LABEL


def test_all_candidates_are_kept_where_asked_for(tmp_path):
    fill(tmp_path, keep=True)
    assert len(list((tmp_path / "candidates").iterdir())) == 27
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert len(manifest["images"]) == 3 + 27
    for entry in manifest["images"]:
        image = np.asarray(Image.open(tmp_path / entry["file"]))
        assert REWARD.score(image[None], [""])[0] == pytest.approx(entry["score"])


def test_pictures_that_are_out_of_the_race_are_removed_on_the_way(tmp_path, monkeypatch):
    most = []
    append = best.Scores.append

    def watch(self, lines):
        append(self, lines)
        most.append(len(list((tmp_path / "candidates").iterdir())))

    monkeypatch.setattr(best.Scores, "append", watch)
    fill(tmp_path, count=64)
    assert max(most) <= 3 * (len(best.milestones(64)) + 1) + Dial.batch_size


def test_milestones_double_and_end_with_all():
    assert best.milestones(1) == [1]
    assert best.milestones(8) == [1, 2, 4, 8]
    assert best.milestones(9) == [1, 2, 4, 8, 9]


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.slow
def test_work_that_is_killed_at_any_point_goes_on_to_the_same_bytes(tmp_path, monkeypatch, keep):
    """At each write, and in the middle of a line of scores."""
    fill(tmp_path / "whole", count=3, keep=keep)
    expected = contents(tmp_path / "whole")
    real_write, append = LocalFolder.write, best.Scores.append
    for stop in range(1, 40):
        path = tmp_path / f"{stop}"
        done = []

        def write(*arguments, done=done, stop=stop):
            done.append(0)
            if len(done) >= stop:
                raise Killed
            real_write(*arguments)

        def tear(self, lines, done=done, stop=stop):
            done.append(0)
            append(self, lines)
            if len(done) >= stop:
                data = self.path.read_bytes()
                self.path.write_bytes(data[: len(data) - 170])  # one line and a half are lost
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "write", write)
            patch.setattr(best.Scores, "append", tear)
            try:
                fill(path, count=3, keep=keep)
            except Killed:
                finished = False
            else:
                finished = True
        fill(path, count=3, keep=keep)
        assert contents(path) == expected
        if finished:
            break
    assert finished and stop > 15


def test_scores_that_grew_after_a_stop_have_their_digest(tmp_path, monkeypatch):
    fill(tmp_path / "whole", count=3)
    append = best.Scores.append

    def stop(self, lines):
        append(self, lines)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(best.Scores, "append", stop)
        fill(tmp_path / "stopped", count=3)
    fill(tmp_path / "stopped", count=3)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert fill(tmp_path / "stopped", count=3).calls == []


def test_a_complete_folder_draws_nothing_and_clears_up_after_a_late_kill(tmp_path):
    fill(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "0000-a-red-circle-0.png").write_bytes(b"left over")
    assert fill(tmp_path).calls == []
    assert contents(tmp_path) == before


def test_a_lost_picture_is_drawn_again_without_new_scores(tmp_path):
    fill(tmp_path)
    before = contents(tmp_path)
    entry = json.loads(before["manifest.json"])["images"][1]
    (tmp_path / entry["file"]).unlink()
    fill(tmp_path, reward=Gauge("luck", 0))  # another row: it must not be asked
    assert contents(tmp_path) == before


def test_scores_that_changed_are_made_anew(tmp_path):
    fill(tmp_path)
    before = contents(tmp_path)
    lines = before["scores.jsonl"].replace(b'"score": 0.4', b'"score": 0.9', 1)
    assert lines != before["scores.jsonl"]
    (tmp_path / "scores.jsonl").write_bytes(lines)
    fill(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt_index": 0}',
        "5",
        "null",
        "[" * 100_000,
        '{"prompt_index": 0, "sample_index": 0, "score": NaN}',
        '{"prompt_index": "0", "sample_index": 0, "score": 1}',
        '{"prompt_index": 0, "sample_index": [], "score": 1}',
    ],
)
def test_a_damaged_line_of_scores_is_named(tmp_path, line):
    (tmp_path / "scores.jsonl").write_text(line + '\n{"x": 1}\n')
    with pytest.raises(ValueError, match="line 1 of .*scores.jsonl is damaged"):
        best.Scores(tmp_path / "scores.jsonl")


def test_a_score_that_is_not_finite_stops_the_work_and_names_the_candidate(tmp_path):
    class Broken(Gauge):
        def judge(self, features, captions):
            return np.full(len(features), np.nan, np.float32)

    with pytest.raises(FloatingPointError, match=r"luck .*nan.* images\[0\] is .*0000-a-red-circ"):
        fill(tmp_path, reward=Broken("luck", 0))
    Broken.may_be_missing = True
    with pytest.raises(FloatingPointError, match="luck@1 gave nan to sample 0 of 'a red circle'"):
        fill(tmp_path, reward=Broken("luck", 0))
