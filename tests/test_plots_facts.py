"""Sources of plots: which numbers may share an axis, and what is said of those that do."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from miro_jax.evaluate.plots import bars, curves, facts, radars
from miro_jax.evaluate.plots.command import main
from miro_jax.evaluate.plots.facts import read_source
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
    assert facts.doubts([partial]) == [
        f"{words[0]} is PARTIAL: it lacks images or scores of its suite."
    ]


def test_of_one_prompt_no_certainty_of_a_maximum_is_stated(tmp_path):
    for target in (0.0, 1.0):
        rewards = {"aesthetic@1": np.array([[target, target + 0.5]])}
        write_evaluation(tmp_path / f"{target}", rewards, None, {"aesthetic": target})
    figure = curves.sweep([read_source(str(tmp_path))])
    assert figure.numbers["maxima"]["aesthetic"] == {"best_target": 1.0, "best": 1.25}
    assert "cannot be estimated" in figure.warnings[0]
