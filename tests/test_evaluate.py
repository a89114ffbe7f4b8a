"""The evaluation stage's own parts: checks, the training data's scores, evaluation.json."""

import json

import numpy as np
import pytest

from configs import base as configs
from miro_jax.evaluate import run as evaluate
from miro_jax.report import statistics
from tests.painting import Gauge

REWARDS = [Gauge("first", 0), Gauge("second", 1)]


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("evaluators", ("dails",), "config.evaluate.evaluators must be.*dials.*'dails'"),
        ("levels", (0.5,), "config.evaluate.levels"),
        ("categories", ("colours",), "config.evaluate.categories must be.*colors"),
        ("categories", (), "config.evaluate.categories must be"),
        ("images_per_level", 0, "config.evaluate.images_per_level must be at least 1; got 0"),
        ("conflict_reward", "beuty", "config.evaluate.conflict_reward must be.*beauty.*'beuty'"),
    ],
)
def test_bad_settings_name_their_key(key, value, said):
    config = configs.get_config("tiny")
    config.evaluate[key] = value
    with pytest.raises(ValueError, match=said):
        evaluate.validate(config)


@pytest.mark.parametrize("variant", ["", "tiny", "baseline", "only_beauty", "no_beauty"])
def test_variants_are_valid(variant):
    evaluate.validate(configs.get_config(variant))


def write_stats(folder, captions, synthetic):
    names = [r.identity for r in REWARDS]
    stats = {
        "captions": statistics.summarize(captions, names),
        "synthetic_captions": statistics.summarize(synthetic, names),
    }
    (folder / "stats.json").write_text(json.dumps(stats))


def test_training_scores_are_those_of_the_mixture_that_training_sees(tmp_path):
    rng = np.random.default_rng(0)
    captions, synthetic = rng.random((300, 2)), 2 + rng.random((300, 2))
    write_stats(tmp_path, captions, synthetic)
    found = evaluate.training_scores(tmp_path, REWARDS, 0.25)
    mixture = np.concatenate([captions] * 3 + [synthetic])  # three to one
    assert found["second"]["mean"] == pytest.approx(mixture[:, 1].mean())
    assert found["second"]["std"] == pytest.approx(mixture[:, 1].std())


def test_training_scores_leave_out_what_is_missing_or_never_used(tmp_path):
    captions = np.random.default_rng(0).random((50, 2))
    write_stats(tmp_path, captions, np.full((50, 2), np.nan))
    for share in (0.0, 0.5):
        found = evaluate.training_scores(tmp_path, REWARDS, share)
        assert found["first"]["mean"] == pytest.approx(captions[:, 0].mean())


def test_missing_stats_say_who_writes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="stats.json is missing; the annotate stage"):
        evaluate.training_scores(tmp_path, REWARDS, 0.5)


def test_entries_are_added_and_the_same_evaluation_is_replaced(tmp_path):
    path = tmp_path / "evaluation.json"
    for step, seed, value in ((10, 0, "a"), (20, 0, "b"), (10, 0, "c"), (10, 1, "d")):
        evaluate.append(path, {"step": step, "settings": {"seed": seed}, "value": value})
    assert [e["value"] for e in json.loads(path.read_text())] == ["b", "c", "d"]
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_damaged_file_is_kept_and_named(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text("[{")
    with pytest.raises(ValueError, match="evaluation.json must be a list"):
        evaluate.append(path, {"step": 1, "settings": {}})
    assert path.read_text() == "[{"
