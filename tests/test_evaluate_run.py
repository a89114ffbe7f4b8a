"""The evaluation stage's own parts: checks, the training data's scores, evaluation.json."""

import dataclasses
import json
import types

import numpy as np
import pytest

from configs import base as configs
from miro_jax.data.records.bins import fit_bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate import settings

NAMES = ("first", "second")


def make_manifest(kind, shards=None):
    configuration = {"source": {"kind": kind}, "rewards": []}
    configuration |= {"latent_shape": [2, 2, 3], "caption_width": 4}
    return Manifest(configuration, shards or {}, num_samples=0, num_failures=0, versions={})


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


OTHER = "tar:/data/*.tar"


def of_other_images(**changes):
    config = configs.get_config("tiny")
    config.source.spec = OTHER
    config.evaluate.update(changes)
    return config


@pytest.mark.parametrize("names", [("geneval",), ("dials", "conflict"), ("conflict", "geneval")])
def test_evaluators_of_shapes_refuse_a_run_of_other_images(names):
    with pytest.raises(ValueError, match="can judge images of the shapes world only") as refused:
        settings.validate(of_other_images(evaluators=names))
    assert OTHER in str(refused.value) and "\n" not in str(refused.value)


def test_all_evaluators_are_those_that_can_judge_the_run():
    config = of_other_images()
    settings.validate(config)
    assert settings.choose(config, False) == ["gallery", "reward_scores", "dials"]
    assert settings.choose(config, True) == list(settings.EVALUATORS)


def test_what_a_run_is_trained_on_is_what_its_records_are(tmp_path):
    config = configs.get_config("tiny")
    assert settings.trained_on_shapes(config, tmp_path)
    make_manifest(kind="tar").save(tmp_path)
    assert not settings.trained_on_shapes(config, tmp_path)
    config.data.records = str(tmp_path)
    config.evaluate.evaluators = ("geneval",)
    with pytest.raises(ValueError, match="geneval can judge"):
        settings.validate(config)
    make_manifest(kind="shapes").save(tmp_path)
    config.source.spec = OTHER
    settings.validate(config)


def test_options_have_the_defaults_of_the_config():
    """They stand in for what configs of earlier versions do not have: all but what came since.

    The bench alone can afford 96 images a level.
    """
    config = configs.get_config("").evaluate.to_dict()
    since = {"beside": "", "categories": ("single_object", "colors")}
    since |= {"images_per_level": 32, "batch_size": 32}
    assert dataclasses.asdict(settings.Settings()) == config | since


def test_a_config_of_an_earlier_version_is_valid():
    config = configs.get_config("tiny")
    with config.unlocked():
        del config.evaluate.prompts, config.evaluate.max_prompts
    settings.validate(config)


@pytest.mark.parametrize("variant", ["", "tiny", "baseline", "only_beauty", "no_beauty"])
def test_variants_are_valid(variant):
    evaluate.validate(configs.get_config(variant))


def test_training_scores_are_those_of_the_mixture_that_training_sees():
    rng = np.random.default_rng(0)
    captions, synthetic = rng.random((300, 2)), 2 + rng.random((300, 2))
    found = evaluate.training_scores(np.stack([captions, synthetic], 1), NAMES, 0.25)
    mixture = np.concatenate([captions] * 3 + [synthetic])  # three to one
    assert found["second"]["mean"] == pytest.approx(mixture[:, 1].mean())
    assert found["second"]["std"] == pytest.approx(mixture[:, 1].std())


def test_records_without_a_synthetic_caption_always_count_by_their_own():
    """Two of three records are re-captioned, and half of the steps use the new captions."""
    own, synthetic = [0.0, 0.0, 3.0], [12.0, 12.0, np.nan]
    scores = np.stack([own, synthetic], 1)[:, :, None]
    found = evaluate.training_scores(scores, ["first"], 0.5)["first"]
    assert found["mean"] == pytest.approx((0.5 * 12 * 2 + 3) / 3)  # 5, not (1 + 12) / 2
    squares = np.average((np.array([0, 12, 0, 12, 3]) - 5) ** 2, weights=[1, 1, 1, 1, 2])
    assert found["std"] == pytest.approx(np.sqrt(squares))


def test_a_missing_score_of_a_synthetic_caption_leaves_the_weight_of_the_own_one():
    scores = np.array([[[1, 1], [np.nan, 5]], [[3, 1], [7, 5]]])  # [record, caption, reward]
    found = evaluate.training_scores(scores, NAMES, 0.5)
    assert found["first"]["mean"] == pytest.approx((0.5 * 1 + 0.5 * 3 + 0.5 * 7) / 1.5)
    assert found["second"]["mean"] == 3


def test_training_scores_drop_what_is_missing_or_never_used():
    captions = np.random.default_rng(0).random((50, 2))
    for share in (0.0, 0.5, 1.0):
        scores = np.stack([captions, np.full((50, 2), np.nan)], 1)
        found = evaluate.training_scores(scores, NAMES, share)
        assert found["first"]["mean"] == pytest.approx(captions[:, 0].mean())


def test_a_reward_without_any_score_is_named():
    scores = np.full((5, 2, 2), np.nan)
    scores[..., 0] = 1
    with pytest.raises(ValueError, match="no score of second: remove it"):
        evaluate.training_scores(scores, NAMES, 0.5)


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


def make_bins(names, digest):
    return fit_bins(
        np.linspace(0, 1, 20)[:, None].repeat(len(names), 1), names, 4, "quantile", digest
    )


def levels_of(kept, folder, identities=("first@1", "second@1")):
    trained = types.SimpleNamespace(bins=kept)
    return evaluate._levels_of_training(trained, folder, identities)


def test_levels_are_those_that_the_checkpoint_keeps(tmp_path, caplog):
    names, manifest = ("first@1", "second@1"), make_manifest("tar")
    manifest.save(tmp_path)
    make_bins(names, "later").save(tmp_path / "bins.json")
    kept = make_bins(names, manifest.digest)
    assert levels_of(kept, tmp_path) is kept and not caplog.records
    assert levels_of(make_bins(names, "before"), tmp_path).manifest_digest == "before"
    assert "has changed since training" in caplog.text


def test_a_checkpoint_without_levels_falls_back_to_those_of_the_records(tmp_path, caplog):
    caplog.set_level("INFO", "miro_jax")
    make_bins(("first@1", "second@1"), "").save(tmp_path / "bins.json")
    assert levels_of(None, tmp_path).names == ("first@1", "second@1")
    (line,) = caplog.messages
    assert line == f"The checkpoint keeps no levels: those of {tmp_path} are used"


def test_levels_of_other_rewards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="trained with levels of first@2; the config names first"):
        levels_of(make_bins(("first@2",), ""), tmp_path, ("first@1",))
