"""What stops a run of training or never lets it begin, and how it leaves the folder."""

import contextlib
import dataclasses
import io
import pathlib

import numpy as np
import pytest

from miro_jax import evaluate
from miro_jax import main as entry
from miro_jax.cli import run_folder
from miro_jax.data.records.bins import Bins
from miro_jax.data.shapes import world
from miro_jax.data.storage import Damaged
from miro_jax.evaluate.preview import Preview
from miro_jax.train import components, loop, setup
from miro_jax.train.checkpoint import LayoutMismatch
from tests import training


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


def settings(records, **changes):
    defaults = {
        "data__records": str(records),
        "optim__warmup_steps": 2,
        "train__num_steps": 4,
        "train__checkpoint_every_steps": 2,
        "train__sample_every_steps": 0,
    }
    return training.small(**(defaults | changes))


class Poisoned:
    """A data iterator whose third batch has a NaN in one picture; keeps that batch's records."""

    def __init__(self, inner):
        self.inner, self.taken = inner, 0
        Poisoned.last = self

    def __next__(self):
        batch = next(self.inner)
        self.taken += 1
        if self.taken == 3:
            batch["image_mean"][7, 3, 3, 0] = np.nan
            self.keys = [self.inner.key(int(i)) for i in batch["index"]]
        return batch

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Poisoning:
    """A run through `main` that met the poisoned batch."""

    def __init__(self, records, workdir):
        self.workdir, original = workdir, setup.make_iterator
        arguments = [
            *training.COMMAND,
            f"--workdir={workdir}",
            f"--config.data.records={records}",
            "--config.optim.warmup_steps=2",
            "--config.train.num_steps=4",
            "--config.train.checkpoint_every_steps=2",
            "--config.train.sample_every_steps=0",
            "--noconfig.train.report",
        ]
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
            patch.setattr(setup, "make_iterator", lambda *a: Poisoned(original(*a)))
            self.status = entry.main(arguments)
        self.said = said.getvalue()
        self.keys = Poisoned.last.keys


@pytest.fixture(scope="module")
def poisoned(records, tmp_path_factory):
    return Poisoning(records, tmp_path_factory.mktemp("poisoned"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_naming_step_and_records(poisoned):
    assert poisoned.status == 1
    *above, line, end = poisoned.said.split("\n")
    assert end == "" and "error" not in str(above) and line.startswith("miro-jax train: error: ")
    assert "loss must be finite; step 3 gave loss nan" in line
    assert all(key in line for key in poisoned.keys[:8])
    assert "config.optim.learning_rate" in line
    assert "FloatingPointError" in (poisoned.workdir / "log.txt").read_text()


@pytest.mark.slow
def test_the_checkpoint_before_it_is_finite_and_the_newest(poisoned, parts):
    step, arrays, _ = training.newest(poisoned.workdir, parts)
    assert step == 2
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
    assert [line["step"] for line in training.without_times(poisoned.workdir)] == [1, 2]


@pytest.mark.parametrize(
    "changes, error, said",
    [
        (
            {"model__rin__latent_width": 64},
            LayoutMismatch,
            ": config.model.rin.latent_width is 32 there, 64 here. Use the config of that run",
        ),
        ({"data__train_rewards": ("beauty",)}, LayoutMismatch, r": .*train_rewards is \["),
        (
            {"optim__name": "lamb"},
            LayoutMismatch,
            ': config.optim.name is "ad.*" there, "lamb" here',
        ),
        ({"seed": 1}, ValueError, "that it began with: seed was 0; got 1. Give those"),
        (
            {"data__synthetic_caption_prob": 0.1},
            ValueError,
            "synthetic_caption_prob was 0.0; got 0.1",
        ),
    ],
)
@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_settings(poisoned, records, changes, error, said):
    before = contents(poisoned.workdir)
    with pytest.raises(error, match=said):
        loop.run(settings(records, **changes), poisoned.workdir, Preview)
    assert contents(poisoned.workdir) == before


@pytest.mark.slow
def test_a_run_that_has_all_of_its_steps_says_so_and_keeps_its_config(poisoned, records, capsys):
    config = poisoned.workdir / "config.json"
    before = config.read_bytes()
    other = {"optim__warmup_steps": 1, "optim__learning_rate": 1.0}
    done = settings(records, train__num_steps=2, **other)
    loop.run(done, poisoned.workdir, Preview)
    said = f"nothing is trained: {poisoned.workdir} is at step 2 already, and num_steps is 2"
    assert capsys.readouterr().err == f"{said}; a larger one trains on\n"
    assert config.read_bytes() == before


def contents(folder):
    files = (p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def truncate(folder):
    shard = sorted(folder.glob("*.array_record"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return shard.name


@pytest.mark.parametrize(
    "case",
    ["a truncated shard", "rewards of another set", "no records", "a batch of 12", "no score"],
)
def test_bad_input_is_refused_before_anything_is_written(records, tmp_path, case):
    folder, workdir = tmp_path / "records", tmp_path / "run"
    folder.mkdir()
    for name, content in contents(records).items():
        (folder / name).write_bytes(content)
    changes, error, said = {}, ValueError, ""
    if case == "a truncated shard":
        error, said = Damaged, truncate(folder)
    elif case == "rewards of another set":
        changes = {"rewards": ("beauty", "count"), "data__train_rewards": ("beauty",)}
        said = "sharpness.*beauty"
    elif case == "no records":
        folder, error = tmp_path / "nothing", FileNotFoundError
        said = f"there are no records: the folder {folder} does not exist. Run the annotate stage"
    elif case == "no score":
        bins = Bins.load(folder)
        dataclasses.replace(bins, counts=(0,) * len(bins.counts)).save(folder / "bins.json")
        said = "must have scores in the records; of beauty, count every score is missing"
    else:
        changes, said = {"train__batch_size": 12}, "multiple of the 8 devices .*; got 12"
    with pytest.raises(error, match=said) as caught:
        loop.run(settings(folder, **changes), workdir, Preview)
    assert "\n" not in str(caught.value)
    assert not workdir.exists()


@pytest.mark.parametrize("given", [False, True])
def test_missing_records_of_a_tar_source_are_refused_before_a_folder_is_made(
    records, tmp_path, capsys, given
):
    folder = tmp_path / "run"
    call = [*training.COMMAND, f"--workdir={folder}", "--config.source.spec=tar:/nowhere/*.tar"]
    near = records.with_name("record")
    said = f"the folder {folder / 'records'} does not exist. Run"
    if given:
        call.append(f"--config.data.records={near}")
        said = f"the folder {near} does not exist; did you mean {records}? Run"
    assert entry.main(call) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{said} the annotate stage (--stage=annotate)" in err, err
    assert not folder.exists()


def test_records_that_are_drawn_where_none_were_are_named_with_what_was_meant(
    records, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate.training.annotate, "run", lambda *_: None)
    near = records.with_name("record")
    config = training.tiny(data__records=str(near))
    evaluate.training._make_records(config, tmp_path)
    said = f"no records in {near} yet: the shapes world is drawn into it; did you mean {records}?"
    assert capsys.readouterr().err == f"{said}\n"
    config.data.records = str(records)
    evaluate.training._make_records(config, tmp_path)
    config.data.records = ""
    evaluate.training._make_records(config, tmp_path)
    assert capsys.readouterr().err == ""


def test_the_config_of_another_run_is_named_before_the_folder_of_its_images(tmp_path):
    config = training.tiny(source__shapes__num_images=8)
    run_folder.write_config(config, tmp_path / "config.json")
    world.write_shards(tmp_path / "source", num_images=8, images_per_shard=64, size=16)
    other = training.tiny(source__shapes__num_images=9, model__rin__token_width=32)
    with pytest.raises(ValueError) as caught:
        evaluate.training._make_records(other, tmp_path)
    assert str(caught.value) == (
        f"--config must have the records, network and optimizer of the run in {tmp_path}: "
        "config.source.shapes.num_images is 8 there, 9 here; "
        "config.model.rin.token_width is 16 there, 32 here. "
        "Use the config of that run, or another --workdir."
    )
    run_folder.write_config(other, tmp_path / "config.json")  # as of a run without checkpoints
    with pytest.raises(ValueError, match="source belongs to another request: num_images is 8"):
        evaluate.training._make_records(other, tmp_path)


def test_the_config_of_another_run_is_named_where_its_records_have_other_rewards(records, tmp_path):
    given = {"source__spec": "tar:/nowhere/*.tar", "data__records": str(records)}
    other = training.tiny(**given, rewards=("beauty",), data__train_rewards=("beauty",))
    with pytest.raises(ValueError, match="The records must hold exactly the rewards"):
        evaluate.training.check(other, tmp_path)  # there is no run
    run_folder.write_config(training.tiny(), tmp_path / "config.json")
    said = r'config.rewards is \[.*\] there, \["beauty"\] here; .* or another --workdir'
    with pytest.raises(ValueError, match=said):
        evaluate.training.check(other, tmp_path)
