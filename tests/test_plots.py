"""The plots of the paper: on its own numbers they say what is known of them; on ours, likewise."""

import dataclasses
import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from miro_jax.evaluate.plots import bars, curves, facts, radars
from miro_jax.evaluate.plots.command import main
from miro_jax.evaluate.plots.facts import read_source
from miro_jax.evaluate.plots.figure import Figure
from miro_jax.report.speedup import first_reach, first_step
from tests.plotting import write_evaluation

PAPER = [read_source("published")]


def test_the_papers_curves_have_the_speedups_that_are_known_of_them():
    found = curves.convergence(PAPER).numbers["speedup"]
    both = {
        name: (round(one["MIRO"]["interpolated"], 2), round(one["MIRO"]["checkpoint"], 2))
        for name, one in found.items()
    }
    assert both == {
        "aesthetic": (19.11, 10.0),
        "hpsv2": (6.3, 5.0),
        "pick_score": (3.54, 3.33),
        "image_reward": (3.46, 3.33),
    }
    assert found["image_reward"]["MIRO"]["step"] == pytest.approx(144_480, abs=1)


def test_after_a_dip_the_line_starts_where_the_curve_stands():
    steps, curve = np.array([0.0, 1, 2, 3]), np.array([[0.0, 4, 0, 8]])
    assert first_reach(steps, curve, np.array([[6.0]])) == 2.75
    assert first_step(steps, curve[0], 6) == 3 and first_step(steps, curve[0], 9) == np.inf


def test_a_value_that_is_never_reached_is_said_so_and_one_at_the_start_is_a_bound(tmp_path):
    base, steps = np.array([[0.0, 1.0]]), np.array([1.0, 2.0])
    never = curves.speedup(base, 2.0, steps, np.array([[0.0, 0.5]]))
    assert curves.write_speedup(never) == "not within 2 steps" and never["checkpoint"] is None
    start = curves.speedup(base, 2.0, steps, np.array([[3.0, 4.0]]))
    assert curves.write_speedup(start).startswith("at least 2x interpolated")


def test_a_curve_that_is_there_at_step_0_has_no_ratio():
    there = curves.speedup(
        np.array([[0.1, 0.2]]), 1000, np.array([0, 1000]), np.array([[0.3, 0.4]])
    )
    assert there["step"] == 0 and there["interpolated"] is there["checkpoint"] is None
    assert curves.write_speedup(there) == "at or above it from step 0 on"
    base = np.full((41, 2), 0.5)
    drawn = np.repeat([[0.0, 1.0]], 41, axis=0)
    drawn[1:5, 0] = 0.6  # these resamplings are there at step 0
    some = curves.speedup(base, 1000, np.array([0, 1000]), drawn)
    assert (some["interpolated"], some["low"], some["high"]) == (2, 2, None)
    said = "2x (2 to no bound) interpolated, 1x by checkpoint"
    assert curves.write_speedup(some) == said and json.dumps(some, allow_nan=False)


def test_of_the_papers_radars_one_value_lies_outside_and_is_drawn_there():
    models = list(read_source("published").section("radar")["models"])
    warnings = [
        warning
        for first, second in itertools.pairwise(models)
        for kind in (radars.rewards, radars.geneval)
        for warning in kind(PAPER, (first, second)).warnings
    ]
    assert warnings == []
    figure = radars.synthetic(PAPER)
    assert len(figure.warnings) == 1
    assert "ImageReward of MIRO, synthetic captions, 1.1137" in figure.warnings[0]
    assert "r = 5.06" in figure.warnings[0] and figure.warnings[0] in figure.svg()
    assert figure.svg().count('<g class="point a">') == 1 + 2  # in the legend and in both radars
    rewards = [row["r"] for row in figure.rows if row["x"] == "image_reward"]
    assert max(rewards) == pytest.approx(5 * 1.11368 / 1.1)
    corner = re.findall(r'<polygon class="series d" points="([^"]+)"', figure.svg())[0].split()
    x, y = map(float, corner[5].split(","))  # the sixth axis, unclipped
    assert np.hypot(x - 230, y - 140) == pytest.approx(110 * 1.11368 / 1.1, abs=0.1)


def test_ends_of_the_shown_models_hold_all_values():
    figure = radars.synthetic(PAPER, (), radars.DATA)
    assert not figure.warnings
    assert max(row["r"] for row in figure.rows) == pytest.approx(5)
    assert min(row["r"] for row in figure.rows) == pytest.approx(1.25)
    assert "the worst model is on the inner ring" in figure.reading
    ring = re.search(r'<polygon class="grid" points="([\d.]+),([\d.]+)', figure.panels[0].drawing)
    x, y = map(float, ring.groups())
    assert np.hypot(x - 230, y - 140) == pytest.approx(110 / 4, abs=0.1)


def test_ends_of_an_axis_are_told_apart(tmp_path):
    names = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")
    for model, value in (("a", 0.27024), ("b", 0.27025)):
        write_evaluation(tmp_path / model, dict.fromkeys(names, np.full((2, 1), value)))
    sources = [read_source(str(tmp_path / model)) for model in ("a", "b")]
    (panel,) = radars.rewards(sources, ends=radars.DATA).panels
    assert "(0.27024 to 0.27025)" in panel.drawing


def test_test_time_scaling_counts_strictly():
    matches = curves.test_time(PAPER).numbers["matches"]
    needs = {name: one["MIRO"]["needs"] for name, one in matches.items()}
    assert needs == {"aesthetic": 1, "hpsv2": 1, "image_reward": 16, "pick_score": 8}
    lines = {line for panel in curves.test_time(PAPER).panels for line in panel.lines}
    assert "8 samples of MIRO reach the best of 128 of baseline" in lines
    assert "1 sample of MIRO reaches the best of 128 of baseline" in lines


def test_bars_print_how_operations_are_counted():
    figure = bars.bars(PAPER)
    assert bars.OWN_TFLOP == pytest.approx(16.76)
    assert "two operations a multiply-add, in both branches" in figure.warnings[0]
    assert "with a dagger: aesthetic target 0.625" in figure.reading
    ratio = figure.numbers["ratios"]["tflop of FLUX-dev over MIRO's, as printed"]
    assert ratio == pytest.approx(370.2, abs=0.05)


def test_bars_hold_zeros_missing_numbers_and_values_beyond_the_papers(tmp_path):
    models = [
        {"model": "none", "geneval": 0, "image_reward": -1, "parameters_billion": 0, "tflop": 0},
        {"model": "MIRO", "tflop": 4},
        {"model": "large", "geneval": 95, "image_reward": 3, "parameters_billion": 80, "tflop": 8},
    ]
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({"format": 1, "name": "m", "source": "me", "bars": {"models": models}})
    )
    figure = bars.bars([read_source(str(path))])
    assert figure.numbers["ratios"] == {"tflop of large over MIRO's, as printed": 2}
    widths = [
        [
            float(w)
            for w in re.findall(r'<rect class="bar[^"]*" x="118" [^>]*width="([^"]+)"', p.drawing)
        ]
        for p in figure.panels
    ]
    room = figure.width - 118 - 60
    assert [row[-1] for row in widths[:3]] == [room] * 3
    assert [row[0] for row in widths] == [0] * 4
    models[0]["tflop"] = "4"
    path.write_text(
        json.dumps({"format": 1, "name": "m", "source": "me", "bars": {"models": models}})
    )
    with pytest.raises(ValueError, match="bars.models.*tflop must be a number"):
        read_source(str(path))


@pytest.mark.parametrize("known", [360e6, "3.6e8"])  # counted, or declared
def test_bars_of_an_evaluation_show_the_parameters_that_its_manifest_has(known, tmp_path):
    source = read_source(
        str(write_evaluation(tmp_path / "a", {"image_reward@1.0": np.ones((4, 1))}))
    )
    (one,) = source.evaluations
    assert bars.bars([source]).numbers["models"][0]["parameters_billion"] is None
    published = read_source("published")  # it has a model of that name, too
    assert bars.bars([published, dataclasses.replace(source, label="MIRO")]).numbers["ratios"]
    counted = dataclasses.replace(one, manifest={**one.manifest, "model": {"parameters": known}})
    figure = bars.bars([dataclasses.replace(source, evaluations=(counted,))])
    assert figure.numbers["models"][0]["parameters_billion"] == pytest.approx(0.36)
    for wrong in ("2.6B", "0", "-1", "nan", "inf"):
        described = {**one.manifest, "model": {"parameters": wrong}}
        last = dataclasses.replace(one, manifest=described)
        figure = bars.bars([dataclasses.replace(source, evaluations=(last,))])
        assert figure.numbers["models"][0]["parameters_billion"] is None


def test_the_papers_sweep_has_its_maxima_marked_and_no_certainty():
    figure = curves.sweep_grid(PAPER)
    best = {name: one["best_target"] for name, one in figure.numbers["maxima"].items()}
    assert best == {
        "aesthetic": 1,
        "openai_clip": 0.375,
        "clip": 0.625,
        "image_reward": 0.625,
        "pick_score": 0.75,
        "hpsv2": 1,
    }
    assert curves.sweep(PAPER).numbers["maxima"]["geneval"]["best"] == pytest.approx(74.87373)
    assert "numbers without images" in figure.warnings[0]


def test_every_figure_of_the_paper_is_one_command_and_all_are_one_page(tmp_path, capsys):
    assert main(["paper", "published", f"--out={tmp_path}"]) == 0, capsys.readouterr().err
    names = "convergence test-time radar geneval synthetic sweep sweep-grid bars".split()
    for name in names:
        root = ET.fromstring((tmp_path / f"{name}.svg").read_text())
        assert root.get("viewBox") and root.get("aria-label")
        numbers = json.loads((tmp_path / f"{name}.json").read_text())
        assert numbers["figure"] == name and "nicolas-dufour" in next(
            iter(numbers["sources"].values())
        )
        table = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert len(table) == 1 + len(numbers["points"]) > 5
    text = (tmp_path / "index.html").read_text()
    assert all(f'id="{name}"' in text for name in names)
    assert "`miro-jax sample`" in text and "http" not in re.sub(
        "http://www.w3.org/2000/svg", "", text
    )


def test_curves_of_evaluations_have_intervals_over_prompts(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (20, 2))
    for model, levels in {"base": (0, 1, 2), "mine": (1, 2, 3)}.items():
        for step, level in zip((10, 20, 40), levels, strict=True):
            scores = {"pick_score@1": 20 + level + noise, "other@1": level + noise}
            write_evaluation(tmp_path / model / str(step), scores, step)
    sources = [read_source(f"{name}={tmp_path / name}") for name in ("base", "mine")]
    figure = curves.convergence(sources)
    found = figure.numbers["speedup"]["pick_score"]["mine"]
    assert found["interpolated"] == pytest.approx(2) and found["checkpoint"] == 2
    assert found["low"] == found["high"] == pytest.approx(2)  # prompts are resampled jointly
    rows = [row for row in figure.rows if row["panel"] == "pick_score" and row["x"] == 10]
    assert rows[0]["value"] == pytest.approx((20 + noise.mean()) / 100)
    assert rows[0]["low"] < rows[0]["value"] < rows[0]["high"]
    assert set(figure.legend.values()) == {"base", "mine"}


def test_partial_evaluations_are_resampled_by_the_same_prompts(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (20, 2))
    for step, lacks in ((10, 0), (20, 7)):
        scores = {"pick_score@1": step + noise}
        write_evaluation(tmp_path / str(step), scores, step, lacks=lacks)
    both = read_source(str(tmp_path)).evaluations
    drawn = facts.by_measure(both, facts.prompts_of(both))["pick_score"] * 100
    kept = [np.delete(noise, lost, axis=0).mean() for lost in (0, 7)]
    np.testing.assert_allclose(drawn[0], [10 + kept[0], 20 + kept[1]])
    shift = drawn[1:] - [10, 20]
    assert np.corrcoef(shift.T)[0, 1] > 0.8  # by position it is near 0


def test_a_run_whose_checkpoints_were_evaluated_by_two_suites_is_a_source(tmp_path):
    rng = np.random.default_rng(3)
    for run, shift in {"base": 0.0, "mine": 0.2}.items():
        for step in (10, 20):
            home = tmp_path / run / "evals" / f"step-{step:06d}"
            right = rng.random((40, 2)) < step / 50 + shift
            names = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")
            scores = {name: step / 20 + shift + rng.normal(0, 0.1, (9, 2)) for name in names}
            write_evaluation(home / "geneval@1", {}, step, None, right, "geneval@1")
            write_evaluation(home / "parti@1", scores, step, None, None, "parti@1")
        (tmp_path / run / "checkpoints").mkdir()
        (tmp_path / run / "evaluation.json").write_text("[]")  # of the run itself
    sources = [read_source(str(tmp_path / run)) for run in ("base", "mine")]
    found = curves.convergence(sources).numbers["speedup"]
    assert {"geneval", "one", "two", "hpsv2"} <= set(found)
    assert found["image_reward"]["mine"]["interpolated"] > 1
    table = radars.rewards(sources).numbers["rewards"]["models"]
    assert list(table) == ["base", "mine"] and set(table["mine"]) == {
        *("aesthetic", "image_reward", "hpsv2")
    }
    with pytest.raises(ValueError, match="three measures that all models have; base, mine share"):
        radars.geneval(sources)
    shutil.rmtree(tmp_path / "base" / "evals")
    with pytest.raises(FileNotFoundError, match="base must be .* and no evaluation by a"):
        read_source(str(tmp_path / "base"))


def test_intervals_stay_inside_their_axes(tmp_path):
    rng = np.random.default_rng(3)
    for model, step in itertools.product(("base", "mine"), (10, 20)):
        right, scores = rng.random((4, 3)) < 0.5, rng.normal(0, 1, (4, 3))
        targets = {"aesthetic": step / 20}
        folder = tmp_path / model / f"{step}"
        write_evaluation(folder, {"aesthetic@1": scores}, step, targets, right, "geneval@1")
    sources = [read_source(f"{name}={tmp_path / name}") for name in ("base", "mine")]
    drawn = [curves.convergence(sources), curves.test_time(sources), curves.sweep(sources[:1])]
    for figure in drawn:
        bars = [
            float(y)
            for panel in figure.panels
            for pair in re.findall(r'</title><line x1="[^"]+" y1="([^"]+)" x2="[^"]+" y2="([^"]+)"',
                                   panel.drawing)
            for y in pair
        ]  # fmt: skip
        assert len(bars) > 4 and min(bars) >= 26 and max(bars) <= 250 - 36, figure.name


def test_the_best_of_n_of_an_evaluation_is_exact(tmp_path):
    scores = np.random.default_rng(1).normal(size=(9, 8))
    write_evaluation(tmp_path / "a", {"aesthetic@1": scores})
    figure = curves.test_time([read_source(str(tmp_path / "a"))])
    two = np.mean(
        [scores[:, list(pair)].max(axis=1) for pair in itertools.combinations(range(8), 2)]
    )
    values = {row["x"]: row["value"] for row in figure.rows}
    assert set(values) == {1, 2, 4, 8} and values[2] == pytest.approx(two, abs=1e-12)


def test_the_best_of_n_takes_prompts_of_one_text_as_one(tmp_path):
    scores = np.array([[0.0, 0], [0, 0], [0, 0], [1, 3], [2, 2]])
    write_evaluation(tmp_path / "a", {"aesthetic@1": scores})
    source = read_source(str(tmp_path / "a"))
    (one,) = source.evaluations
    vars(one)["rows"] = [row | {"prompt": "aaabc"[int(row["key"])]} for row in one.rows]
    rows = curves.test_time([source]).rows
    assert [row["value"] for row in rows] == [pytest.approx(4 / 3), pytest.approx(5 / 3)]
    widest = [(row["low"], row["high"]) for row in rows]
    assert widest == [(0, 2), (0, 3)]  # of three texts, resampled


def test_a_sweep_of_evaluations_says_how_sure_its_maximum_is(tmp_path):
    rng = np.random.default_rng(2)
    for target in (0.0, 0.5, 1.0):
        right = rng.random((40, 2)) < 0.4 + 0.4 * (target == 0.5)
        rewards = {"aesthetic@1": 4 + target + rng.normal(0, 0.1, (40, 2))}
        folder = tmp_path / f"{target}"
        write_evaluation(folder, rewards, None, {"aesthetic": target}, right, "geneval@1")
    figure = curves.sweep([read_source(str(tmp_path))])
    best = figure.numbers["maxima"]["geneval"]
    assert best["best_target"] == 0.5 and best["best_in"]["0.5"] > 0.9
    assert sum(best["best_in"].values()) == pytest.approx(1)
    assert list(figure.numbers["maxima"]) == ["geneval", "aesthetic"] and not figure.warnings
    assert 50 < best["best"] < 100


def test_a_path_may_hold_an_equals_sign_and_so_may_a_label(tmp_path):
    folder = write_evaluation(tmp_path / "lr=0.1", {"aesthetic@1": np.ones((4, 1))})
    words = {"": "lr=0.1", "MIRO=": "MIRO", "omega=3=": "omega=3"}
    for label, known in words.items():
        source = read_source(f"{label}{folder}")
        assert (source.label, source.path) == (known, str(folder))
    assert read_source("a=b=published").label == "a=b"
    with pytest.raises(FileNotFoundError, match="^runs/lr=0.1 must be an evaluation"):
        read_source("MIRO=runs/lr=0.1")


def test_numbers_that_are_not_measured_alike_share_no_axis(tmp_path):
    right = np.ones((4, 1), bool)
    for name, digest in (("a", "1"), ("b", "2")):
        write_evaluation(tmp_path / name, {}, None, None, right, "geneval@1", {"detector": digest})
    sources = [read_source(str(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(ValueError, match="judge.detector is '1' in .*a and '2' in .*b"):
        radars.geneval(sources)
    write_evaluation(tmp_path / "c", {"hpsv2@2.1": np.ones((4, 1))})
    values = facts.values(read_source(str(tmp_path / "c")).evaluations[0])
    assert list(values) == ["hpsv2@2.1"]  # no axis of the paper, which reports 2.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pie", "published", "--out=a.svg"], "KIND must be one of convergence, test-time"),
        (["radr", "published", "--out=a.svg"], "got 'radr'; did you mean radar?"),
        (["radar", "published", "--out=a.png"], "--out must end in .svg; got a.png"),
        (["paper", "published", "--out=a.svg"], "--out of paper must be a folder"),
        (["radar", "nowhere", "--out=a.svg"], "nowhere must be .* evaluations; it is missing"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"convergence": {"steps": [2, 1], "curves": {}}}, "convergence.steps must ascend"),
        (
            {"sweep": {"reward": "a", "targets": [0, 1], "columns": {"b": [1]}}},
            "sweep must have 2 values of b of b, one for each of targets; it has 1",
        ),
        ({"radar": {"axes": ["a"], "models": {"m": {"a": None}}}}, "radar.models.m.a must be a n"),
        ({"source": 3}, "source must be a string; got 3"),
    ],
)
def test_a_file_of_numbers_that_does_not_fit_is_refused_by_name(change, said, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"format": 1, "name": "mine", "source": "me"} | change))
    with pytest.raises(ValueError, match=f"mine.json: {re.escape(said)}"):
        read_source(str(path))


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="models must be of MIRO, baseline, .*; got SDXL, SD3"):
        radars.rewards(PAPER, ("SDXL", "MIRO", "SD3"))
    with pytest.raises(ValueError, match="at most 4 series"):
        radars.rewards(PAPER, tuple(read_source("published").section("radar")["models"])[:5])


def test_a_figure_is_as_wide_as_the_longest_label_of_its_legend():
    label = "the model of our company, trained at length on all images that it has, " * 2
    drawn = Figure("radar", "Rewards", "How to read it.", [], {"a": label}, [], {})
    root = ET.fromstring(drawn.svg())
    (text,) = [one for one in root.iter("{http://www.w3.org/2000/svg}text") if one.text == label]
    assert float(text.get("x", "")) + 6 * len(label) < float(root.get("width", ""))
