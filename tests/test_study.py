"""The study stage: what its runs are conditioned on, and that stopping it changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import study as configs
from miro_jax import load_reward
from miro_jax.annotate.parts import unseal
from miro_jax.cli import signals
from miro_jax.data.shapes import detect, world
from miro_jax.evaluate import base
from miro_jax.evaluate.study import judging, measure, measured, stage, train
from miro_jax.evaluate.study.settings import Run, Study, make_runs
from miro_jax.models import sharding
from miro_jax.sample.settings import Settings
from miro_jax.train import components
from tests.networks import small_mesh

REWARDS = ("a", "b", "c")


def options(**changes):
    return Study(**{**configs.get_config("tiny").study, **changes})


def test_a_run_is_conditioned_on_what_its_variant_says():
    variants = ("baseline", "miro", "synth", "only_b", "no_b")
    runs = make_runs(options(variants=variants, seeds=(3, 4)), REWARDS, 0.25)
    assert [(run.variant, run.seed) for run in runs[:3]] == [
        ("baseline", 3),
        ("baseline", 4),
        ("miro", 3),
    ]
    of = {run.variant: run for run in runs}
    for variant, mask in {
        "baseline": [0, 0, 0],
        "miro": [1, 1, 1],
        "synth": [1, 1, 1],
        "only_b": [0, 1, 0],
        "no_b": [1, 0, 1],
    }.items():
        np.testing.assert_array_equal(of[variant].rewards, np.array(mask, bool))
    assert of["synth"].synthetic == 0.5 and of["miro"].synthetic == 0.25


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": ()}, "config.study.seeds must be a tuple of one or more"),
        ({"variants": ("miro", "miro")}, "config.study.variants must be a tuple .* different"),
        ({"measure_steps": (6, 2)}, r"measure_steps must rise from at least 1; got \(6, 2\)"),
        ({"dial_levels": (0, 2)}, r"study.dial_levels must be levels in \[0, 1\]; got \(0, 2\)"),
        ({"sweep_levels": ("0.5",)}, "study.sweep_levels must be levels in"),
        ({"measure_steps": (0, 2)}, "measure_steps must rise from at least 1"),
        ({"best_of": 1}, "config.study.best_of"),
    ],
)
def test_wrong_options_are_refused_by_their_key(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_an_unknown_variant_and_a_config_without_a_study_are_refused():
    with pytest.raises(
        ValueError, match="baseline, miro, synth, synth_baseline, only_a.*no_c; got only_d"
    ):
        make_runs(options(variants=("only_d",)), REWARDS, 0.0)
    config = configs.get_config("tiny")
    with config.unlocked():
        config.train.num_steps = 7
        with pytest.raises(ValueError, match="must end with config.train.num_steps 7; got"):
            stage.check(config)
        config.train.num_steps = config.study.measure_steps[-1]
        config.train.microbatches = 2
        with pytest.raises(ValueError, match="microbatches must be 1 for a study, .*; got 2"):
            stage.check(config)
        config.train.microbatches = 1
        config.data.train_rewards = config.rewards[::-1]
        with pytest.raises(ValueError, match="config.data.train_rewards of a study must be"):
            stage.check(config)
        del config.study
        with pytest.raises(ValueError, match="use --config=configs/study.py"):
            stage.check(config)


def examples(count=50):
    index = np.arange(count, dtype=np.float32)
    row = {"image_mean": index[:, None], "image_std": index[:, None], "weight": np.ones(count)}
    forms = [
        row
        | {
            "caption_tokens": np.stack([index, np.full(count, form)], 1)[:, None],
            "caption_mask": np.ones((count, 1), bool),
            "levels": np.stack([index / count] * 3, 1) + 10 * form,
        }
        for form in (0, 1)
    ]
    return train.load_examples(*forms)


@pytest.mark.parametrize("synthetic", [0.0, 1.0, 0.5])
def test_a_batch_holds_each_records_own_caption_and_its_levels(synthetic):
    run = {"rewards": jnp.array([True, False, True]), "synthetic": jnp.float32(synthetic)}
    batch = train.draw_batch(jax.random.key(0), run, examples(), 400)
    index, form = batch["caption_tokens"][:, 0].T
    np.testing.assert_array_equal(batch["image_mean"][:, 0], index)
    np.testing.assert_allclose(batch["levels"][:, 0], index / 50 + 10 * form, rtol=1e-6)
    assert np.isnan(batch["levels"][:, 1]).all() and not np.isnan(batch["levels"][:, 2]).any()
    assert np.mean(form) == pytest.approx(synthetic, abs=0.1)
    assert len(np.unique(index)) == 50


def test_what_is_measured_at_the_end_and_before():
    study = options()
    prompts, categories = measure.make_prompts(study, seed=0)
    assert {name: len(texts) for name, texts in prompts.items()} == {
        "report": 12,
        "search": 6,
        "best_of": 6,
        "dial": 6,
    }
    assert set(categories["report"]) == set(measure.scene.CATEGORIES)
    baseline, miro = make_runs(options(seeds=(0,)), REWARDS, 0.0)

    def names(run, is_last):
        wanted = measure.requests(study, run, is_last, prompts, REWARDS, "b", 0)
        return [request.setting for request in wanted]

    assert names(miro, False) == names(baseline, False) == ["default"]
    assert names(baseline, True) == ["default", "best_of"]
    dials = [f"dial:{name}={level}" for name in REWARDS for level in (0, 1)]
    swept = ["sweep:0.5", "search:0.5", "sweep:1", "search:1"]
    assert names(miro, True) == ["default", *swept, *dials, "best_of"]
    *_, last = measure.requests(study, miro, True, prompts, REWARDS, "b", 0)
    assert last.targets == {"a": 1.0, "b": 1.0, "c": 1.0} and last.num_images == 2


def test_a_study_draws_with_the_negative_targets_of_its_config():
    sampling, calls = base.Sampling(Settings(), 0, {"a": 0.5}, {"b": 0.25}), []
    request = measure.Request("default", ["x", "y"], {"b": 0.75}, 1, 0)
    for rewards in (np.array([True, True, False]), np.array([False, True, False])):
        run = Run("miro", 0, rewards, 0.0)
        measure.draw(lambda *_, **call: calls.append(call), run, request, sampling, REWARDS)
    levels = [[call[key][0] for key in ("targets", "negative_targets")] for call in calls]
    np.testing.assert_array_equal(levels[0], [[0.5, 0.75, np.nan], [0.0, 0.25, np.nan]])
    np.testing.assert_array_equal(levels[1], [[np.nan, 0.75, np.nan], [np.nan, 0.0, np.nan]])


@pytest.mark.parametrize(("setting", "each"), [("default", 1), ("best_of", 2)])
def test_an_image_is_read_once_for_its_verdict_and_its_rewards(setting, each, monkeypatch):
    samples = [world.make_sample(0, index, size=16) for index in range(6)]
    images = np.stack([sample.image for sample in samples])
    prompts = [sample.caption for sample in samples[::each]]
    read, batches = detect.read, []
    monkeypatch.setattr(detect, "read", lambda batch: batches.append(len(batch)) or read(batch))
    rewards = base.Judges([load_reward(name) for name in ("objects", "beauty")])
    run = Run("miro", 0, np.ones(2, bool), 0.0)
    request = measure.Request(setting, prompts, {}, each, 0)
    sampling = base.Sampling(Settings(), 0)
    drawn = measure.draw(lambda *_, **__: images, run, request, sampling, rewards.names)
    with judging.judging(measure.judged_by(rewards), 0) as submit:
        cell = measure.to_cell(run, 7, request, submit(*drawn)())
    assert sum(batches) == len(images)
    texts = [prompt for prompt in prompts for _ in range(each)]
    right = world.check_all(images, texts)
    assert any(right) and not all(right)
    np.testing.assert_array_equal(np.ravel(cell.right), right)
    np.testing.assert_array_equal(cell.scores.reshape(-1, 2), rewards.score(images, texts))
    assert cell.scores.shape[:-1] == cell.right.shape == ((6,) if each == 1 else (3, 2))


@pytest.mark.over_a_second
def test_several_processes_judge_as_one_does():
    images = np.stack([world.make_sample(0, index, size=16).image for index in range(40)])
    prompts = [world.make_sample(0, index, size=16).caption for index in range(40)]
    rewards = measure.judged_by(base.Judges([load_reward(n) for n in ("objects@shapes1", "count")]))
    found = []
    for processes in (0, 2):
        with judging.judging(rewards, processes) as submit:
            waiting = [submit(images[i : i + 20], prompts[i : i + 20]) for i in (0, 20)]
            found.append([scores() for scores in waiting])
            with pytest.raises(ValueError, match="one text for each of the 40 images; got 3"):
                submit(images, prompts[:3])()
    np.testing.assert_array_equal(*found)
    assert np.ptp(found[0][0], axis=0).min() > 0


@pytest.mark.over_a_second
def test_runs_side_by_side_start_as_the_train_stage_starts_each():
    config = configs.get_config("tiny")
    parts = components.build_components(config)
    runs = make_runs(options(variants=("baseline", "miro"), seeds=(3,)), REWARDS, 0.0)
    with sharding.use_mesh(sharding.one_device_mesh()):
        states = train.start(parts, [dataclasses.replace(runs[0], seed=s) for s in (3, 4)])
        for row, seed in enumerate((3, 4)):
            alone = jax.jit(parts.init)(jax.random.key(seed))
            pairs = zip(*map(jax.tree.leaves, (train.take(states, row), alone)), strict=True)
            for one, other in pairs:
                np.testing.assert_array_equal(one, other)


def small(**changes):
    config = configs.get_config("tiny")
    with config.unlocked():
        config.study.update({"seeds": (0,), **changes})
        config.source.shapes.num_images = 64
    return config


def files(workdir):
    folder = workdir / "study"
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.mark.slow
def test_a_study_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    # Eight devices of one CPU add gradients in any order, and that of a key's bias is 0 but for it.
    monkeypatch.setattr(sharding, "make_mesh", lambda data, model: small_mesh())
    stage.run(small(), tmp_path / "whole")
    whole = files(tmp_path / "whole")
    assert {"measured.json", "study.json", "study.html", "states-0", "states-1"} <= set(whole)

    save, count = measured.save_cells, iter(range(10))

    def stop(*arguments):
        if next(count) == 1:  # trained, not measured
            raise signals.Stopped(15)
        save(*arguments)

    config = small()
    config.data.records = str(tmp_path / "whole" / "records")
    monkeypatch.setattr(measured, "save_cells", stop)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="143"):
        stage.run(config, tmp_path / "stopped")
    line = capsys.readouterr().err.splitlines()[-1]
    kept = "stopped by SIGTERM; 2 of 12 updates and what was measured after them are kept; "
    assert line == kept + "the same command resumes from there."
    stage.run(config, tmp_path / "stopped")
    resumed = files(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    for name in whole.keys() - {"study.html"}:
        if not name.startswith("states"):  # which name the folder of the records
            assert whole[name] == resumed[name], name
    for name in ("states-0", "states-1"):
        arrays = [unseal(part[name], name)[0] for part in (whole, resumed)]
        for key in arrays[0]:
            np.testing.assert_array_equal(*(part[key] for part in arrays), err_msg=key)

    together = small(runs_at_once=2)
    together.data.records = config.data.records
    stage.run(together, tmp_path / "together")
    cells = [
        {cell.name: cell for cell in measured.load(tmp_path / name / "study").cells}
        for name in ("whole", "together")
    ]
    assert cells[0].keys() == cells[1].keys()
    for name, cell in cells[0].items():
        np.testing.assert_allclose(cell.scores, cells[1][name].scores, atol=1e-3, err_msg=name)

    config.study.variants = ("baseline", "miro", "only_beauty")
    stage.run(config, tmp_path / "stopped")
    grown = files(tmp_path / "stopped")
    assert grown.keys() - resumed.keys() == {
        "states-2",
        "cells/group-2-000002.cells",
        "cells/group-2-000006.cells",
    }
    assert all(grown[name] == resumed[name] for name in ("states-0", "states-1"))

    path = tmp_path / "stopped" / "study" / "states-1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="states-1 must hold the states of this study"):
        stage.run(config, tmp_path / "stopped")
    before = files(tmp_path / "stopped")
    config.study.prompts_per_category += 1  # of which measured.json has other prompts
    with pytest.raises(ValueError, match="states-0 must hold .* the config of the study was"):
        stage.run(config, tmp_path / "stopped")
    assert files(tmp_path / "stopped") == before
