"""Sources of plots: which numbers may share an axis, and what is said of those that do."""

import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from miro_jax.evaluate.plots import bars, curves, doubts, facts, radars
from miro_jax.evaluate.plots.command import main
from miro_jax.evaluate.plots.facts import read_source
from miro_jax.report import radar
from tests.plotting import write_evaluation

PAPER = [read_source("published")]


def test_models_of_one_name_are_refused_for_one_would_hide_the_other(tmp_path):
    names = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")
    for home, level in (("a", 1), ("b", 2)):
        write_evaluation(tmp_path / home / "x", dict.fromkeys(names, np.full((4, 2), level)), 1)
    alike = [read_source(str(tmp_path / home / "x")) for home in ("a", "b")]
    for draw in (radars.rewards, curves.test_time):
        with pytest.raises(ValueError, match="differ in their names; x stands there twice"):
            draw(alike)
        with pytest.raises(ValueError, match="differ in their names; MIRO stands there twice"):
            draw([*PAPER, read_source(f"MIRO={tmp_path / 'a' / 'x'}")])
    two = [read_source(f"{home}={tmp_path / home / 'x'}") for home in ("a", "b")]
    models = radars.rewards(two).numbers["rewards"]["models"]
    assert [model["aesthetic"] for model in models.values()] == [1, 2]


def test_an_axis_has_one_suites_prompts_those_for_rewards_before_others(tmp_path):
    names = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")
    scores = {suite: dict.fromkeys(names, np.full((4, 2), n)) for n, suite in enumerate("gpq")}
    right = np.ones((4, 2), bool)
    for model, suites in {"both": "gp", "only": "g", "rewards": "p", "two": "pq"}.items():
        for suite, step in itertools.product(suites, (1, 2)):
            folder = tmp_path / model / f"{step}" / suite
            judged = right if suite == "g" else None
            write_evaluation(folder, scores[suite], step, None, judged, f"{suite}@1")
    both, only, rewards, two = (
        read_source(str(tmp_path / model)) for model in ("both", "only", "rewards", "two")
    )

    def drawn(*sources):
        models = radars.rewards(sources).numbers["rewards"]["models"]
        rows = [*curves.convergence(sources).rows, *curves.test_time(sources).rows]
        values = {row["value"] for row in rows if row["panel"] == "aesthetic"}
        values |= {row["image_reward"] for row in bars.bars(sources).numbers["models"]}
        return values | {one["aesthetic"] for one in models.values()}

    again = dataclasses.replace(both, label="again")
    assert drawn(both, only) == {0} and drawn(both, rewards) == {1} == drawn(both, again)
    other = dataclasses.replace(two, label="other")
    for pair, listed in (((only, rewards), "g@1, p@1"), ((two, other), "p@1, q@1")):
        for draw in (radars.rewards, curves.convergence, curves.test_time, bars.bars):
            with pytest.raises(ValueError, match=f"one suite's prompts; .* have it of {listed}"):
                draw(pair)


def test_a_distance_of_images_is_no_score_and_stands_on_no_axis(tmp_path):
    folder = write_evaluation(tmp_path / "a", {"aesthetic@1": np.ones((4, 2))})
    (one,) = read_source(str(folder)).evaluations
    result = one.manifest["result"]
    metrics = result["metrics"] | {"cmmd@clip-1-n8-m8": {"value": 0.3}}
    described = {**one.manifest, "result": {**result, "metrics": metrics}}
    assert set(facts.values(dataclasses.replace(one, manifest=described))) == {"aesthetic"}


def test_what_is_unknown_or_partial_is_said_with_the_figure(tmp_path, capsys):
    right = np.ones((4, 2), bool)
    for name, judge in (("a", "unknown"), ("b", "unknown"), ("c", "mine"), ("d", "mine")):
        folder = tmp_path / name
        write_evaluation(folder, {}, 1, None, right, "geneval@1", {"name": judge})
    words = [f"{tmp_path / name}" for name in "abcd"]
    out = tmp_path / "drawn" / "f.svg"
    assert main(["bars", *words[:2], f"--out={out}"]) == 0
    said = "judge.name: unknown in several evaluations"
    assert said in capsys.readouterr().err
    assert said in json.loads(out.with_suffix(".json").read_text())["warnings"][-1]
    assert main(["bars", *words[2:], f"--out={out}"]) == 0
    assert "evaluations" not in capsys.readouterr().err
    (one,) = read_source(words[0]).evaluations
    result = {**one.manifest["result"], "partial": True}
    partial = dataclasses.replace(one, manifest={**one.manifest, "result": result})
    assert doubts.of_evaluations([partial]) == [
        f"{words[0]} is PARTIAL: it lacks images or scores of its suite."
    ]


def test_of_one_prompt_no_certainty_of_a_maximum_is_stated(tmp_path):
    for target in (0.0, 1.0):
        rewards = {"aesthetic@1": np.array([[target, target + 0.5]])}
        write_evaluation(tmp_path / f"{target}", rewards, None, {"aesthetic": target})
    figure = curves.sweep([read_source(str(tmp_path))])
    assert figure.numbers["maxima"]["aesthetic"] == {"best_target": 1.0, "best": 1.25}
    assert "cannot be estimated" in figure.warnings[0]


NAMES = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")


def test_several_evaluations_of_one_step_are_refused_with_the_choices(tmp_path):
    scores = dict.fromkeys(NAMES, np.ones((4, 2)))
    for number in range(3):
        target = {"aesthetic": number / 2}
        write_evaluation(tmp_path / "swept" / f"{number}", scores, targets=target)
    for step in (1, 2):
        write_evaluation(tmp_path / "run" / f"{step}", scores, step)
    swept, run = (read_source(str(tmp_path / name)) for name in ("swept", "run"))
    for draw in (radars.rewards, bars.bars, curves.test_time):
        assert draw([run])
        with pytest.raises(ValueError, match=r"it holds 3: \S+swept/0, \S+/1, \S+/2. Give one of"):
            draw([swept])
    assert curves.sweep([swept])


def test_rewards_of_the_paper_and_of_other_prompts_are_said_to_be_of_both(tmp_path, capsys):
    scores, out = dict.fromkeys(NAMES, np.ones((4, 2))), tmp_path / "f.svg"
    for name in ("bench@1", "parti@1"):
        write_evaluation(tmp_path / name, scores, 1, benchmark=name)
    said = "MIRO, arXiv 2510.25897 over the prompts of parti@1, of bench@1 over those of bench@1"
    own = f"mine={tmp_path / 'parti@1'}"
    for kind in ("radar", "bars"):
        words = [kind, f"--out={out}", "published"]
        assert main([*words, f"{tmp_path / 'bench@1'}"]) == 0
        assert said in capsys.readouterr().err
        warnings = json.loads(out.with_suffix(".json").read_text())["warnings"]
        assert sum("They differ by their prompts" in text for text in warnings) == 1
        assert main([*words, own]) == 0
        assert "prompts of" not in capsys.readouterr().err


def test_a_figure_counts_the_images_that_it_shows(tmp_path):
    scores, out = dict.fromkeys(NAMES, np.ones((4, 2))), tmp_path / "f.svg"
    for step in (1, 2, 3):
        for model in ("a", "b"):
            write_evaluation(tmp_path / model / f"{step}", scores, step)
    for kind, count in (("radar", "8 images"), ("convergence", "24 images of 3 evaluations")):
        assert main([kind, str(tmp_path / "a"), str(tmp_path / "b"), f"--out={out}"]) == 0
        sources = json.loads(out.with_suffix(".json").read_text())["sources"]
        assert sources == dict.fromkeys("ab", f"bench@1, {count}")


def test_a_suite_of_one_checkpoint_alone_is_no_curve_and_stops_no_other(tmp_path, capsys):
    scores, out = dict.fromkeys(NAMES, np.ones((4, 2))), tmp_path / "f.svg"
    for model in ("a", "b"):
        for step in (1, 2):
            write_evaluation(tmp_path / model / f"{step}", scores, step)
    words = ["convergence", str(tmp_path / "a"), str(tmp_path / "b"), f"--out={out}"]
    assert main(words) == 0
    drawn = json.loads(out.with_suffix(".json").read_text())
    write_evaluation(tmp_path / "b" / "other", scores, 2, None, None, "other@1")
    capsys.readouterr()
    assert main(words) == 0
    said = "other@1 of b is of one checkpoint alone: no curve."
    assert capsys.readouterr().err == f"warning: {said}\n"
    drawn["warnings"] = [said]
    assert json.loads(out.with_suffix(".json").read_text()) == drawn


def test_a_long_title_and_legend_stay_inside_the_figure(tmp_path):
    scores = dict.fromkeys(NAMES, np.ones((4, 2)))
    labels = [f"a network {letter} with a name that says how it was trained" for letter in "abc"]
    for label in labels[:2]:
        write_evaluation(tmp_path / label, scores, 1)
    figure = radars.rewards([read_source(str(tmp_path / label)) for label in labels[:2]])
    legend = figure.legend | {"c": labels[2]}
    root = ET.fromstring(dataclasses.replace(figure, legend=legend).svg())
    texts = [t for t in root.iter("{http://www.w3.org/2000/svg}text") if not t.get("text-anchor")]
    title = [t for t in texts if t.get("class") == "heading large"]
    assert len(title) == 2 and " ".join(t.text for t in title) == figure.title
    shown = [t for t in texts if t in title or t.text in labels]
    assert len(shown) == 5 and len({(t.get("x"), t.get("y")) for t in shown}) == 5
    assert all(float(t.get("x")) + 6 * len(t.text) < float(root.get("width")) for t in shown)
    panel = next(t for t in texts if t.text == "rewards")
    assert max(float(t.get("y")) for t in shown) < float(panel.get("y"))


def test_bars_tell_what_was_not_evaluated_from_what_is_not_stated(tmp_path):
    right = np.ones((4, 2), bool)
    write_evaluation(tmp_path / "judged", {}, verdicts=right, benchmark="geneval@1")
    write_evaluation(tmp_path / "scored", {"image_reward@1.0": np.ones((4, 2))})
    sources = [*PAPER, *(read_source(str(tmp_path / name)) for name in ("judged", "scored"))]
    figure = bars.bars(sources)
    said = [re.findall("(judged|scored) (not \\w+)", panel.drawing) for panel in figure.panels]
    stated = [("judged", "not stated"), ("scored", "not stated")]
    assert said[:2] == [[("scored", "not evaluated")], [("judged", "not evaluated")]]
    assert said[2:] == [stated, stated] and "SDXL not stated" in figure.panels[3].drawing
    blue = [panel.drawing.count('class="bar"') for panel in figure.panels]
    assert blue == [3] * 4  # MIRO of the paper, however it was chosen


def test_a_curve_that_the_baseline_lacks_says_whose_final_value_it_has(tmp_path):
    kinds = {"base": ("aesthetic@1",), "a": ("aesthetic@1", "clip@1"), "b": ("clip@1",)}
    for (model, names), step in itertools.product(kinds.items(), (1, 2)):
        scores = dict.fromkeys(names, np.full((4, 1), float(step)))
        write_evaluation(tmp_path / model / f"{step}", scores, step)
    sources = [read_source(str(tmp_path / model)) for model in kinds]
    figure = curves.convergence(sources)
    assert list(figure.numbers["speedup"]["clip@1"]) == ["b"]
    (warning,) = figure.warnings
    assert "base has no such curve; the final value is that of a" in warning
    assert curves.convergence(sources[:2]).warnings == ()


def test_the_least_n_that_is_as_good_is_searched_among_all_n(tmp_path):
    ours = np.tile(np.arange(1.0, 17), (3, 1))  # the best of n is n / (n + 1) of 17
    theirs = np.full((3, 2), 14.0)
    for name, scores in (("theirs", theirs), ("ours", ours)):
        write_evaluation(tmp_path / name, {"clip@1": scores})
    figure = curves.test_time([read_source(str(tmp_path / name)) for name in ("theirs", "ours")])
    assert figure.numbers["matches"]["clip@1"]["ours"]["needs"] == 5  # 17 * 5 / 6 is 14.2
    xs = [row["x"] for row in figure.rows if row["series"] == "ours"]
    assert xs == [1, 2, 4, 8, 16]


def test_a_value_below_its_axis_is_at_the_centre_and_not_on_the_opposite_axis(tmp_path):
    tags = ("single_object", "two_object", "counting", "position")
    axes = {tag: facts.measure(tag).ring for tag in tags}
    models = {"weak": dict.fromkeys(tags, 0.0), "MIRO": {tag: axes[tag][1] for tag in tags}}
    section = {"axes": list(tags), "models": models}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"format": 1, "name": "m", "source": "me", "geneval": section}))
    figure = radars.geneval([read_source(str(path))])
    assert len(figure.warnings) == len(tags)
    assert all("(r = -" in one and "drawn at the centre" in one for one in figure.warnings)
    assert all(row["r"] < 0 for row in figure.rows if row["series"] == "weak")
    (line,) = re.findall(r'<polygon class="series a" points="([^"]*)"', figure.panels[0].drawing)
    assert len(set(line.split())) == 1


def test_a_radar_of_the_paper_shows_the_evaluations_that_were_given_beside_it(tmp_path):
    names = ("aesthetic@1", "image_reward@1.0", "hpsv2@2.0")
    for label in "abc":
        write_evaluation(tmp_path / label, dict.fromkeys(names, np.ones((4, 2))))
    given = [*PAPER, *(read_source(str(tmp_path / label)) for label in "abc")]
    assert list(radars.rewards(PAPER).legend.values()) == ["baseline", "MIRO"]
    assert list(radars.rewards(given[:3]).legend.values()) == ["baseline", "MIRO", "a", "b"]
    with pytest.raises(ValueError, match="at most 4 series; got baseline, MIRO, a, b, c"):
        radars.rewards(given)
    assert list(radars.rewards(given, ("MIRO", "c")).legend.values()) == ["MIRO", "c"]


def test_equal_targets_of_a_sweep_share_its_maximum_and_a_reward_of_any_name_is_drawn(tmp_path):
    for target in (0.0, 0.5, 1.0):
        scores = dict.fromkeys(("aesthetic@1", "beauty@shapes1"), np.arange(40.0).reshape(20, 2))
        write_evaluation(tmp_path / f"{target}", scores, 1, {"beauty": target})
    figure = curves.sweep([read_source(str(tmp_path))], "beauty")
    assert list(figure.numbers["maxima"]) == ["aesthetic", "beauty@shapes1"]
    for found in figure.numbers["maxima"].values():
        assert found["best_in"] == pytest.approx(dict.fromkeys(("0.0", "0.5", "1.0"), 1 / 3))
    assert "best in 33% of the resamplings" in figure.panels[0].lines[0]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_means_of_few_prompts_vary_in_the_bootstrap_as_they_do(count):
    scores = np.random.default_rng(3).normal(size=(count, 1))
    drawn = curves.resampled(scores)[1:]
    error = scores.std(ddof=1) / np.sqrt(count)  # of the mean
    assert drawn.std() == pytest.approx(error, rel=0.04)


def test_a_model_stands_beside_those_of_synthetic_captions(tmp_path):
    names = ("pick_score@1", "aesthetic@1", "hpsv2@2.0", "image_reward@1.0")
    right = np.ones((6, 1), bool)
    axes = {"rewards": ("pick_score", "aesthetic", "hpsv2"), "geneval": ("one", "two", "three")}
    given = dict.fromkeys(names, np.full((6, 1), 0.5))
    for suite in ("geneval@1", "shapes@1"):
        folder = tmp_path / suite / "mine"
        write_evaluation(folder, given, None, None, right, suite, tags=axes["geneval"])
    section = {
        name: {"axes": own, "models": {model: dict.fromkeys(own, 0.5) for model in "abcd"}}
        for name, own in axes.items()
    }
    paper = dataclasses.replace(PAPER[0], facts=PAPER[0].facts | {"synthetic": section})
    figure = radars.synthetic([paper, read_source(f"MINE={tmp_path / 'geneval@1'}")])
    assert list(figure.legend.values()) == ["b", "c", "d", "MINE"]
    other = read_source(f"MINE={tmp_path / 'shapes@1'}")  # a benchmark with GenEval's categories
    assert radars.geneval([other]).legend
    with pytest.raises(ValueError, match="are of GenEval, MINE has those of shapes@1. Give eval"):
        radars.synthetic([paper, other])


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_long_name_of_an_axis_is_folded_and_stays_in_the_radar(count):
    name = "colorfulness_of_the_image@1-85ae6b49"
    drawn = radar.radar([f"{name}\n(1 to 2)"] * count, {"series a": [0.5] * count}, "alt")
    texts = ET.fromstring(drawn).findall("text")
    for text in texts:
        width, x = 6 * len(text.text or ""), float(text.get("x", "nan"))
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "")]
        assert left >= 0 and left + width <= 460, text.text
    shown = " ".join(text.text or "" for text in texts)
    assert shown.count("colorfulness") == shown.count("85ae6b49") == count


def test_a_sweep_of_two_models_is_refused(tmp_path):
    mine = write_evaluation(tmp_path / "a", {"aesthetic@1": np.ones((4, 1))}, targets={})
    for draw in (curves.sweep, curves.sweep_grid):
        with pytest.raises(ValueError, match="a sweep is of one model; .* and so may MINE"):
            draw([*PAPER, read_source(f"MINE={mine}")])


def test_a_value_far_above_its_axis_is_drawn_before_the_labels(tmp_path):
    tags = ("single_object", "two_object", "counting", "position")
    ends = {tag: facts.measure(tag).ring for tag in tags}
    models = {"far": {tag: 40.0 * high for tag, (_, high) in ends.items()}, "MIRO": {}}
    models["MIRO"] = {tag: high for tag, (_, high) in ends.items()}
    section = {"axes": list(tags), "models": models}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"format": 1, "name": "m", "source": "me", "geneval": section}))
    figure = radars.geneval([read_source(str(path))])
    assert all(one.endswith("it is drawn at r = 5.3.") for one in figure.warnings)
    assert min(row["r"] for row in figure.rows if row["series"] == "far") > 5.3
    (drawn,) = re.findall(r'<polygon class="series a" points="([^"]+)"', figure.panels[0].drawing)
    corners = np.array([point.split(",") for point in drawn.split()], float)
    lengths = np.hypot(*(corners - (230, 140)).T)
    np.testing.assert_allclose(lengths, 110 * 1.06, atol=0.1)


def test_shares_that_are_all_0_stand_at_the_foot_of_their_axis(tmp_path):
    for target in (0.0, 1.0):
        wrong = np.zeros((4, 2), bool)
        given = {"aesthetic@1": np.ones((4, 2))}, None, {"aesthetic": target}, wrong, "geneval@1"
        write_evaluation(tmp_path / f"{target}", *given)
    panel, _ = curves.sweep([read_source(str(tmp_path))]).panels
    assert "share, %" in panel.drawing and ">100<" in panel.drawing and ">-" not in panel.drawing


@pytest.mark.parametrize("kind", ["sweep", "sweep-grid"])
def test_another_reward_than_that_of_a_published_sweep_is_refused(tmp_path, capsys, kind):
    words = [kind, "published", f"--out={tmp_path / 's.svg'}"]
    assert main([*words, "--reward=clip"]) == 2
    err = capsys.readouterr().err
    assert "reward must be aesthetic, whose sweep published has; got clip." in err
    assert main([*words, "--reward=aesthetic"]) == main(words) == 0


@pytest.mark.parametrize("name", ["f.json", "f.csv"])
def test_files_beside_a_figure_are_an_earlier_plot_s_or_stay(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(mine := facts.PAPER.read_bytes())
    source = tmp_path / name if name.endswith(".json") else "published"  # also one that is drawn
    words = ["bars", str(source), f"--out={tmp_path / 'f.svg'}"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path / name} would be replaced, and this command did not write it" in err
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [(name, mine)]
    (tmp_path / name).unlink()
    again = ["bars", "published", f"--out={tmp_path / 'f.svg'}"]
    assert main(again) == main(again) == 0


@pytest.mark.parametrize("name", ["index.html", "radar.csv", "bars.svg"])
def test_files_in_a_folder_of_figures_are_an_earlier_plot_s_or_stay(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    words = ["paper", "published", f"--out={tmp_path}"]
    assert main(words) == 2
    assert f"{tmp_path / name} would be replaced, and this" in capsys.readouterr().err
    assert [one.read_text() for one in tmp_path.iterdir()] == ["mine"]
    (tmp_path / name).unlink()
    assert main(words) == main(words) == 0
