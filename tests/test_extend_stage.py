"""--stage=extend: a small run gets a reward more, and is a run like any other then."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
from flax import nnx

from miro_jax import annotate, rewards, sample
from miro_jax.cli import run_folder
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.evaluate import compare_command, extension
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate import training as training_stage
from miro_jax.models import sharding
from miro_jax.pretrained.weights.official import FIXED
from miro_jax.sample.trained import load
from miro_jax.train import components, loop, setup
from tests import sampling, training
from tests.networks import TINY, resize

pytestmark = pytest.mark.slow
OWN = """
from miro_jax.rewards import base


class Beauty(base.Judge):
    name, version = "beauty", "1"
    tower = preprocessing = "mean"
    needs_caption, synthetic_form = False, "long"

    def prepare(self, image):
        return image.mean((0, 1))

    def encode(self, prepared):
        return prepared.mean(1)

    def judge(self, features, captions):
        return features
"""
OLD = ("count", "beauty")


def small(**changes):
    few = {"source__shapes__num_images": 64, "source__shapes__images_per_shard": 32}
    few |= {"train__num_steps": 2, "train__sample_every_steps": 0, "train__report": False}
    few |= {"optim__warmup_steps": 1, "sample__num_steps": 1, "sample__prompts": ("a red circle",)}
    few |= {"evaluate__evaluators": ("dials",), "evaluate__levels": (0.0, 1.0)}
    return training.small(**{**few, "rewards": OLD, "data__train_rewards": OLD, **changes})


def to_extend(base, new="sharpness", **changes):
    """The config is that of other rewards: those of the checkpoint count."""
    given = {"data__new_reward": new, "extend__checkpoint": str(base), "extend__num_steps": 3}
    others = ("position",)
    return small(**{"rewards": others, "data__train_rewards": others, **given, **changes})


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "old"
    training_stage.run(small(), folder)
    return folder


@pytest.fixture(scope="module")
def new(old):
    """The new token alone is trained; the report is made."""
    folder = old.parent / "new"
    config = alone(old, train__report=True)
    run_folder.open_folder(config, folder, "extend")
    extension.run(config, folder)
    return folder


def alone(base, **changes):
    return to_extend(base, optim__trainable="new_reward", **changes)


def config_of(folder):
    return evaluate.ml_collections.ConfigDict(json.loads((folder / "config.json").read_text()))


def arrays(folder):
    return training.newest(folder, components.build_components(config_of(folder)))[1]


def test_the_new_token_alone_was_trained_and_the_rest_is_that_of_the_run(old, new):
    before, after = load(old), load(new)
    assert after.reward_names == (*before.reward_names, "sharpness")
    assert after.config.added_rewards == 1
    first, saved = arrays(old), arrays(new)
    changed = {
        name
        for name, array in first.items()
        if name.startswith("ema_params/") and array.tobytes() != saved[name].tobytes()
    }
    assert changed == {"ema_params/reward_positions/table"}
    tables = [part["ema_params/reward_positions/table"] for part in (first, saved)]
    np.testing.assert_array_equal(tables[1][:2], tables[0])


def test_old_levels_are_those_of_the_run(old, new):
    before, after = load(old).bins, load(new).bins
    np.testing.assert_array_equal(after.edges[:2], before.edges)
    assert after.names == (*before.names, "sharpness@shapes1")
    assert after.label == Bins.load(new / "records").label


def test_the_page_says_what_changed_and_nothing_did_without_the_new_reward(new):
    found = json.loads((new / "compare.json").read_text())
    assert found["new"] == ["sharpness"] and found["images"] == 8
    assert set(found["requests"]) == {"all", "none", "old"}
    for request in ("old", "none"):
        for row in found["requests"][request].values():
            # One grey level of a pixel may round otherwise.
            assert row["difference"]["mean"] == pytest.approx(0, abs=2e-3)
    assert set(found["dials"]) == {*OLD, "sharpness"}
    assert found["dials"]["sharpness"]["before"] is None
    assert found["dials"]["beauty"]["difference"] is not None
    page = (new / "compare.html").read_text()
    assert "Without the new reward" in page and "New: sharpness" in page
    assert (new / "report.html").exists()


class Planned(Exception):
    """Training would begin now; holds what it was given."""


def plan(monkeypatch, config, folder):
    """The config that would be trained, and what makes its first state."""

    def begin(config, _folder, _preview, make_state):
        raise Planned(config, make_state)

    monkeypatch.setattr(loop, "run", begin)
    with pytest.raises(Planned) as planned:
        extension.run(config, folder)
    return planned.value.args


def test_an_extended_run_is_extended_again(new, monkeypatch):
    folder = new.parent / "again"
    config, make_state = plan(monkeypatch, to_extend(new, "cleanliness"), folder)
    assert config.rewards == config.data.train_rewards == (*OLD, "sharpness", "cleanliness")
    assert config.model.rin.added_rewards == 2
    parts = components.build_components(config)
    with sharding.use_mesh(parts.mesh):
        state = make_state(parts)
    table = np.asarray(state.params["reward_positions"]["table"][...])
    before = load(new).weights[0]["reward_positions"]["table"][...]
    np.testing.assert_array_equal(table[:3], np.asarray(before))
    assert Bins.load(folder / "records").names[2:] == ("sharpness@shapes1", "cleanliness@shapes1")


def test_an_extended_run_is_sampled(new):
    sample.run(config_of(new), new)
    assert (new / "images" / "grid.png").exists()


class Stopping:
    """The data iterator, which sends SIGTERM to us with the second batch."""

    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def __next__(self):
        self.count += 1
        if self.count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_an_extension_that_was_stopped_resumes_bit_for_bit(old, new, tmp_path, monkeypatch):
    make_iterator = setup.make_iterator
    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_iterator", lambda *given: Stopping(make_iterator(*given)))
        with pytest.raises(SystemExit):
            extension.run(alone(old), tmp_path)
    assert training.last_step(tmp_path) == 2
    monkeypatch.setattr(extension, "_load", None)  # the checkpoint has it all
    extension.run(alone(old), tmp_path)
    training.assert_same_arrays(arrays(tmp_path), arrays(new))
    assert training.without_times(tmp_path) == training.without_times(new)


def test_an_extension_of_another_network_is_refused_before_anything_is_scored(
    old, new, tmp_path, monkeypatch
):
    folder = shutil.copytree(new, tmp_path / "new")
    shutil.rmtree(folder / "records")
    monkeypatch.setattr(extension, "weights_name", lambda trained: "other step 2 sha256:00")
    renamed = shutil.copytree(old, tmp_path / "renamed")
    with pytest.raises(ValueError, match="hold an extension of the same network, other step 2"):
        extension.run(alone(renamed), folder)
    assert not (folder / "records").exists()


def test_an_extension_is_compared_with_what_it_was_alone(old, new, monkeypatch):
    monkeypatch.setattr(extension, "weights_name", lambda trained: "later step 4 sha256:00")
    with pytest.raises(ValueError, match="must hold the network that was extended, .* later step"):
        extension.run(alone(old, train__report=True), new)


def test_a_reward_that_the_records_have_is_not_scored_again(tmp_path_factory, old, monkeypatch):
    records = training.make_records(tmp_path_factory)
    folder = old.parent / "known"
    given = to_extend(old, data__records=str(records))
    config, _ = plan(monkeypatch, given, folder)
    assert not (folder / "records").exists() and config.data.records == str(records)
    assert config.data.train_rewards == (*OLD, "sharpness")


def test_another_reward_of_a_name_that_the_records_have_is_refused(old, tmp_path):
    """Its scores are not those of the records, which would be taken for them."""
    mine = tmp_path / "mine.py"
    mine.write_text(OWN)
    config = to_extend(old, f"{mine}:Beauty", data__records=str(old / "records"))
    said = r"have scores of beauty@shapes1, which is another reward than .*mine.py:Beauty"
    with pytest.raises(ValueError, match=said):
        extension._make_records(config, tmp_path / "new")
    config = to_extend(old, "beauty", data__records=str(old / "records"))
    assert extension._make_records(config, tmp_path / "new") == str(old / "records")


def test_a_release_is_extended(tmp_path, monkeypatch):
    release = sampling.save_tiny(tmp_path / "release")
    sizes = resize(TINY, **FIXED)
    network = {key: getattr(sizes, key) for key in small().model.rin if key != "added_rewards"}
    changes = {f"model__rin__{key}": value for key, value in network.items()}
    changes |= {"encoder__image__size": 8, "encoder__caption__width": 16}
    config = small(**changes, rewards=sampling.NAMES, data__train_rewards=sampling.NAMES)
    annotate.run(config, tmp_path)
    given = {"data__records": str(tmp_path / "records"), "data__new_reward": "sharpness"}
    given |= {"rewards": sampling.NAMES, "data__train_rewards": sampling.NAMES}
    given |= {"extend__checkpoint": str(release)}
    config, make_state = plan(monkeypatch, small(**changes | given), tmp_path / "new")
    parts = components.build_components(config)
    with sharding.use_mesh(parts.mesh):
        state = make_state(parts)
    before = nnx.merge_state(*load(release).weights)
    for name in ("registers", "reward_positions"):
        rows = np.asarray(before[name]["table"][...])
        found = np.asarray(state.ema_params[name]["table"][...])
        np.testing.assert_array_equal(found[: len(rows)], rows)
    assert parts.reward_names == (*sampling.NAMES, "sharpness")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"data__new_reward": ""}, "--config.data.new_reward"),
        ({"extend__checkpoint": ""}, "--config.extend.checkpoint"),
        ({"data__new_reward": "beauty"}, "must be a reward that the network does not know"),
    ],
)
def test_what_cannot_be_extended_is_refused(old, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        extension.check(to_extend(old, **changes), tmp_path / "new")
    with pytest.raises(ValueError, match="must be a new folder"):
        extension.check(to_extend(old), old)
    with pytest.raises(FileNotFoundError, match="no folder .*missing"):  # before its rewards
        extension.run(to_extend(old.parent / "missing", "position"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_records_of_another_source_are_refused_before_its_images_are_drawn(old, tmp_path):
    manifest = Manifest.load(old / "records")
    manifest.configuration["source"] = {"kind": "tar"}
    manifest.save(tmp_path)
    words = {"data__records": str(tmp_path)}
    with pytest.raises(ValueError, match=r"source.spec must be the source that .*, tar:...; got "):
        extension.check(to_extend(old, **words), tmp_path / "new")
    extension.check(to_extend(old, source__spec="tar:/data/*.tar", **words), tmp_path / "new")
    manifest.configuration["rewards"].append(rewards.label("sharpness"))
    manifest.save(tmp_path)
    extension.check(to_extend(old, **words), tmp_path / "new")  # its scores are there


def test_other_levels_than_those_of_training_are_refused(old, new, tmp_path):
    fitted = Bins.load(old / "records")
    other = dataclasses.replace(fitted, edges=fitted.edges + 0.1)
    other.save(old / "records" / "bins.json")
    try:
        with pytest.raises(ValueError, match="must be those that the network was trained with"):
            extension.run(to_extend(old), tmp_path / "new")
    finally:
        fitted.save(old / "records" / "bins.json")


def test_a_plain_network_has_no_new_reward_to_train_alone():
    with pytest.raises(ValueError, match="has added; this network has none"):
        components.build_components(small(optim__trainable="new_reward"))


def test_the_command_compares_two_runs(old, new, tmp_path, capsys):
    assert compare_command.main([str(new), str(new), f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["new"] == [] and set(found["requests"]) == {"all", "none"}
    for table in (*found["requests"].values(), found["dials"], found["alone"]):
        assert all(row["difference"]["mean"] == 0 for row in table.values())
    assert "One reward alone" in capsys.readouterr().out
    words = [str(old), str(new), f"--out={tmp_path}"]  # the first does not know the reward
    assert compare_command.main([*words, "--config.sample.targets=sharpness=0.5"]) == 0
    assert json.loads((tmp_path / "compare.json").read_text())["new"] == ["sharpness"]
    assert compare_command.main([str(tmp_path / "gone"), str(new)]) != 0
    assert compare_command.main([str(new), str(tmp_path)]) == 2
    (mine := tmp_path / "mine").mkdir()
    (mine / "compare.html").write_text("mine")
    assert compare_command.main([str(new), str(new), f"--out={mine}"]) == 2
    assert "compare.html would be replaced, and this" in capsys.readouterr().err
    file = tmp_path / "compare.json"
    capsys.readouterr()
    assert compare_command.main([str(new), str(new), f"--out={file}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()  # nothing was sampled
    assert f"{file} must be a folder; it is a file." in line
