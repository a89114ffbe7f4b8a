"""`miro-jax evaluate`: the config of the run, changed by flags; checks before a device is used."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import base as configs
from miro_jax import __main__ as entry
from miro_jax import rewards
from miro_jax.data.records.manifest import Manifest
from miro_jax.evaluate import run as stage
from miro_jax.train import components

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """A run's folder as an earlier version wrote it: without the options of today."""
    config = json.loads(configs.get_config("tiny").to_json())
    del config["evaluate"]["prompts"], config["evaluate"]["max_prompts"]
    config["evaluate"]["evaluators"] = ["gallery", "geneval", "dials"]
    config["mesh"]["data"] = 16  # devices of the machine that trained
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "records").mkdir()
    made = {"latent_shape": [2, 2, 3], "caption_width": 4}
    made["rewards"] = [rewards.label(name) for name in config["rewards"]]
    Manifest(made, {}, num_samples=0, num_failures=0, versions={}).save(path / "records")
    return path


@pytest.fixture
def seen(monkeypatch):
    calls = []
    monkeypatch.setattr(stage, "run", lambda *given: calls.append(given))
    return calls


def test_the_config_of_the_run_decides_where_nothing_is_given(folder, seen):
    assert entry.main(["evaluate", str(folder)]) == 0
    ((config, where),) = seen
    assert where == folder and config.train.num_steps == 20
    assert config.evaluate.evaluators == ("gallery", "geneval", "dials")
    assert config.evaluate.prompts == "auto" and config.evaluate.max_prompts == 64
    assert config.mesh.data == -1 and config.sample.batch_size == 8  # devices of this machine


@pytest.mark.parametrize("parts", [4, None])
def test_a_run_that_was_trained_in_microbatches_fits_this_machine(folder, seen, parts):
    config = json.loads((folder / "config.json").read_text())
    del config["train"]["microbatches"]  # as before there were any
    config["train"] |= {} if parts is None else {"microbatches": parts}
    (folder / "config.json").write_text(json.dumps(config))
    assert entry.main(["evaluate", str(folder)]) == 0
    ((config, _),) = seen
    components.check_batches(config)


def test_flags_and_keys_change_the_config_of_this_evaluation_alone(folder, seen):
    before = (folder / "config.json").read_bytes()
    words = ["--evaluators=dials,geneval", "--levels=0,1", "--images-per-level=4"]
    words += ["--config.sample.guidance_scale=3.5", "--config.weights.clip=/models/clip"]
    assert entry.main(["evaluate", *words, str(folder)]) == 0
    ((config, _),) = seen
    assert config.evaluate.evaluators == ("dials", "geneval")
    assert config.evaluate.levels == (0.0, 1.0) and config.evaluate.images_per_level == 4
    assert config.sample.guidance_scale == 3.5 and config.weights.clip == "/models/clip"
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["--evaluators=dails"], "config.evaluate.evaluators must be"),
        (["--images-per-level=0"], "--images-per-level: must be at least 1"),
        (["--prompts=nothing.txt"], "nothing.txt must be a file of prompts"),
        (["--image-per-level=3"], "did you mean --images-per-level?"),
        (["--config.evaluate.level=(1,)"], "level"),
        (["--levels=0,1e30"], "config.evaluate.levels must be"),
        (["--levels=0,nan"], "config.evaluate.levels must be"),
        (["--config.evaluate.levels=x"], "config.evaluate.levels must be two or more different"),
        (["--config.sample={}"], "config.sample must be set key by key (sample.batch_size, "),
        (["--config.sample=3"], "config.sample must be set key by key (sample.batch_size, "),
        (["--config.model.rin=None"], "config.model.rin must be set key by key"),
        (["--config.rewards[0]=clip"], "no key 'rewards[0]'; did you mean rewards"),
        (["--config.weights.clip=None"], "config.weights.clip must be text, empty for none"),
        (["--config.sample.guidance_scale=nan"], "config.sample.guidance_scale must be finite"),
        (["--config.sample.guidance_scale=1e38"], "config.sample.guidance_scale must be at most"),
        (["--config.optim.lr=7"], "no key 'optim.lr'; did you mean optim.learning_rate?"),
        (["--config.sample.targets=beauty=7"], "config.sample.targets: The level of 'beauty'"),
        (["--evaluators=conflict", "--config.model.rin.student"], "conflict requests negative"),
        (["--config.source.spec=tar:/data/*.tar"], "geneval can judge images of the shapes world"),
        (["--config.rewards=('beauty',)"], "hold exactly the rewards of the config, in order, ['b"),
    ],
)
def test_a_bad_argument_gives_status_2_and_one_line(folder, seen, capsys, words, said):
    assert entry.main(["evaluate", str(folder), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("miro-jax evaluate: error: ") and err.count("\n") == 1 and said in err
    assert not seen


def test_the_records_of_the_run_decide_what_can_judge_it(folder, seen, capsys):
    manifest = Manifest.load(folder / "records")
    manifest.configuration["source"] = {"kind": "tar"}
    manifest.save(folder / "records")
    assert entry.main(["evaluate", str(folder)]) == 2 and not seen
    assert "geneval can judge images of the shapes world" in capsys.readouterr().err
    assert entry.main(["evaluate", str(folder), "--evaluators=all"]) == 0 and seen


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "[" * 100_000, "{", '{"evaluate": 5}', '{"sample": {}}', "{}"]
)
def test_a_config_that_is_none_is_named(folder, seen, capsys, text):
    (folder / "config.json").write_text(text)
    assert entry.main(["evaluate", str(folder)]) == 2 and not seen
    err = capsys.readouterr().err
    assert "config.json" in err and err.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert entry.main(["evaluate", str(tmp_path)]) == 2
    assert "RUN_FOLDER must be the folder of a run" in capsys.readouterr().err
    (tmp_path / "base" / "checkpoints").mkdir(parents=True)
    for words in ([], ["--suite=shapes"]):
        assert entry.main(["evaluate", str(tmp_path), *words]) == 2
        assert f"holds runs: {tmp_path / 'base'}" in capsys.readouterr().err.replace("give ", "")


@pytest.mark.over_a_second
def test_as_a_program_a_run_of_other_images_is_refused_before_any_device_is_used(folder):
    """jax has no platform to start here: a device would give another error."""
    done = subprocess.run(
        [sys.executable, "-m", "miro_jax.evaluate", str(folder), "--config.source.spec=tar:x"],
        env=os.environ | {"JAX_PLATFORMS": "none", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "geneval can judge" in done.stderr and done.stderr.count("\n") == 1
