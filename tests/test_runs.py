"""Checks before a run starts, what it is built from, and its folder."""

import contextlib
import json
import logging

import jax
import pytest

from configs import base as configs
from miro_jax import sample
from miro_jax.cli import run_folder
from miro_jax.evaluate import run as evaluate
from miro_jax.main import main
from miro_jax.train import components, setup
from miro_jax.train.checkpoint import LayoutMismatch


def changed(**values):
    config = configs.get_config("tiny")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config


def validate(config):
    for check in (components.validate, sample.validate, evaluate.validate):
        check(config)


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("rewards", ("beauty,count",), "config.rewards must be a tuple of names.*with the quotes"),
        ("data__train_rewards", ("beauty,count",), "config.data.train_rewards must be a tuple of"),
        ("data__train_rewards", (3,), "config.data.train_rewards must be a tuple of names; got"),
        (
            "rewards",
            ("beuty",),
            "config.rewards: reward must be one of .*beauty.*got 'beuty'; did you mean beauty",
        ),
        (
            "rewards",
            ("beauty", "beauty"),
            "config.rewards: rewards must differ from each other; got beauty, beauty",
        ),
        ("rewards", (), "config.rewards must name at least one reward of .*beauty"),
        ("rewards", ("beauty",), "taken from config.rewards .'beauty',.; got also sharpness"),
        ("sample__solver", "rk4", "config.sample.solver must be one of euler, heun, .*; got 'rk4'"),
        ("train__num_steps", -5, "config.train.num_steps must be at least 1; got -5"),
        ("train__batch_size", 0, "config.train.batch_size must be at least 1; got 0"),
        ("train__log_every_steps", 0, "config.train.log_every_steps must be at least 1"),
        ("train__checkpoint_every_steps", 0, "config.train.checkpoint_every_steps must be"),
        ("train__keep_checkpoints", 0, "config.train.keep_checkpoints must be at least 1"),
        (
            "train__sample_every_steps",
            -1,
            "config.train.sample_every_steps must be at least 0; got -1",
        ),
        ("sample__num_steps", 0, "config.sample.num_steps must be at least 1; got 0"),
        ("train__reward_dropout", 1.5, r"config.train.reward_dropout must be in \[0, 1\]; got 1.5"),
        ("train__caption_dropout", -0.1, "config.train.caption_dropout must be in"),
        ("train__self_condition_rate", 2.0, "config.train.self_condition_rate must be in"),
        ("train__ema_decay", 1.01, "config.train.ema_decay must be in"),
        ("data__synthetic_caption_prob", 2.0, "config.data.synthetic_caption_prob must be in"),
        ("train__num_steps", 5, "config.optim with config.train.num_steps: .*got 5 and 5. Shorten"),
        ("optim__name", "sgd", "config.optim .*one of adamw, lamb; got 'sgd'"),
        ("train__checkpoint_every_seconds", -0.5, "at least 0, or -1 for what .*; got -0.5"),
        ("model__rin__latent_width", 4, "config.model.rin.latent_width must be at least 8; got 4"),
        ("optim__clip_norm", 0.0, "config.optim.clip_norm must be above 0"),
        (
            "optim__learning_rate",
            float("nan"),
            "config.optim.learning_rate must be finite; got nan",
        ),
        ("optim__learning_rate", -1.0, "config.optim.learning_rate must be at least 0; got -1.0"),
        ("train__time_std", float("inf"), "config.train.time_std must be finite; got inf"),
        ("train__ema_decay", float("nan"), "config.train.ema_decay must be finite; got nan"),
        ("data__synthetic_caption_prob", float("nan"), "synthetic_caption_prob must be in"),
        ("model__dtype", "float3", "config.model.dtype must be one of float32, .*; got 'float3'"),
        ("model__rin__patch_size", 0, "config.model.rin.patch_size must be at least 1; got 0"),
        ("model__rin__num_blocks", -1, "config.model.rin.num_blocks must be at least 1; got -1"),
        ("model__rin__sigma", float("nan"), "config.model.rin.sigma must be above 0 and finite"),
        ("mesh__heartbeat_seconds", float("nan"), "heartbeat_seconds must be at least 1; got nan"),
        ("seed", -1, "config.seed must be in 0..4294967295; got -1"),
        ("seed", 1 << 32, "config.seed must be in 0..4294967295; got 4294967296"),
        ("sample__guidance_scale", float("nan"), "config.sample.guidance_scale must be finite"),
    ],
)
def test_a_bad_setting_is_named_with_its_key(key, value, said):
    with pytest.raises(ValueError, match=said) as caught:
        validate(changed(**{key: value}))
    assert "\n" not in str(caught.value)


def test_a_string_in_place_of_a_tuple_is_refused():
    with pytest.raises(TypeError, match="rewards"):
        changed(rewards="beauty,count")
    plain = changed().copy_and_resolve_references()
    with plain.unlocked(), plain.ignore_type():
        plain.rewards = "beauty"
    with pytest.raises(ValueError, match="config.rewards must be a tuple of names; got 'beauty'"):
        components.validate(plain)


@pytest.mark.parametrize("key", ["train.batch_size", "sample.batch_size"])
def test_a_batch_that_the_mesh_does_not_divide_is_refused(key):
    config = changed(**{key.replace(".", "__"): 12})
    said = f"config.{key} must be a multiple of the 8 devices on mesh axis 'data'; got 12."
    with pytest.raises(ValueError, match=said):
        components.build_components(config)


def test_a_batch_needs_to_divide_over_the_data_axis_alone():
    components.check_batch(12, "train.batch_size", jax.make_mesh((4, 2), ("data", "model")))


def test_the_network_is_told_the_train_rewards_in_their_order():
    parts = components.build_components(changed(data__train_rewards=("count", "beauty")))
    assert parts.reward_names == ("count", "beauty")
    assert parts.abstract.params["reward_positions"]["table"].shape[0] == 2


def test_a_reward_named_with_its_version_goes_by_its_short_name():
    names = ("clip", "hpsv2@2.0")
    config = changed(
        rewards=names,
        data__train_rewards=names,
        sample__targets="hpsv2@2.0=0.5",
        evaluate__conflict_reward="hpsv2@2.0",
    )
    validate(config)
    assert components.build_components(config).reward_names == ("clip", "hpsv2")
    components.check_conditioning(config, {components.CONDITIONED_ON: list(names)})
    with pytest.raises(
        ValueError, match="one version of each reward; got .'hpsv2@2.1', 'hpsv2@2.0"
    ):
        both = ("hpsv2@2.1", "hpsv2@2.0")
        components.validate(changed(rewards=both, data__train_rewards=both))


def test_records_are_in_the_folder_of_the_run_or_where_the_config_says(tmp_path):
    assert run_folder.records_folder(changed(), tmp_path) == tmp_path / "records"
    elsewhere = changed(data__records=str(tmp_path / "shared"))
    assert run_folder.records_folder(elsewhere, tmp_path / "run") == tmp_path / "shared"
    with pytest.raises(ValueError, match="config.data.records must be a folder"):
        run_folder.records_folder(changed(data__records="a\nb"), tmp_path)


def test_the_folder_gets_the_config_and_what_ran(tmp_path):
    config = changed(seed=3)
    run_folder.open_folder(config, tmp_path / "a" / "run", "train")
    found = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert found == json.loads(config.to_json_best_effort()) and found["seed"] == 3
    described = json.loads((tmp_path / "a" / "run" / "run.json").read_text())
    assert described["stage"] == "train" and len(described["devices"]) == 8
    assert described["packages"]["jax"] == jax.__version__
    assert described["git_revision"]


def test_arguments_that_the_locale_cannot_decode_are_written_all_the_same(tmp_path):
    argument = "--workdir=" + "wé".encode().decode("ascii", "surrogateescape")
    run_folder.open_folder(changed(), tmp_path / "run", "train", [argument, "--x=\udcff"])
    described = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert described["command"].endswith("'--workdir=wé' '--x=\ufffd'")


def test_the_log_goes_on_in_its_own_folder_only(tmp_path):
    log = logging.getLogger("miro_jax.test")
    for name in ("first", "second", "first"):
        run_folder.open_folder(changed(), tmp_path / name, "train")
        log.info("in %s", name)
    assert (tmp_path / "first" / "log.txt").read_text().count("in first") == 2
    assert (tmp_path / "second" / "log.txt").read_text().count("in ") == 1


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "a log that cannot be written"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, obstacle):
    workdir = tmp_path / "run"
    if obstacle == "a log that cannot be written":
        (workdir / "log.txt").mkdir(parents=True)
    elif obstacle == "a file":
        workdir.write_text("mine")
    else:
        workdir.write_text("mine")
        workdir = workdir / "below"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PermissionError, match="--workdir .*run.*Give another one"):
        run_folder.open_folder(changed(), workdir, "train")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_is_of_the_rewards_that_its_network_was_told():
    config = changed(data__train_rewards=("count", "beauty"))
    components.check_conditioning(config, {"train_rewards": ["count", "beauty"]})
    for told in (["beauty", "count"], ["count"], []):
        with pytest.raises(ValueError, match="must be those of the checkpoint"):
            components.check_conditioning(config, {"train_rewards": told})


@pytest.mark.parametrize(
    "key, value", [("prediction", "velocity"), ("sigma", 0.5), ("added_rewards", 1)]
)
def test_a_network_of_the_same_shapes_is_told_from_that_of_a_run(tmp_path, key, value):
    config = changed(model__rin__skip_gate=False)
    components.check_network(config, tmp_path)  # no run
    run_folder.write_config(config, tmp_path / "config.json")
    components.check_network(config, tmp_path)
    before, config.model.rin[key] = config.model.rin[key], value
    with pytest.raises(ValueError, match=f"got {key}={before} there, {value} here"):
        components.check_network(config, tmp_path)


def test_a_state_of_another_config_is_refused_by_the_keys_and_both_values(tmp_path):
    def refused(config):
        with pytest.raises(LayoutMismatch) as caught:
            with components.mismatch_explained(config, tmp_path):
                raise LayoutMismatch("187 leaves differ")
        return str(caught.value)

    config = changed()
    assert refused(config) == "187 leaves differ"  # there is no run
    run_folder.write_config(config, tmp_path / "config.json")
    assert refused(config) == refused(changed(seed=3)) == "187 leaves differ"
    said = refused(changed(model__rin__num_blocks=3, optim__name="lamb", seed=3))
    assert said == (
        f"--config must have the network and optimizer of the run in {tmp_path}: "
        "config.model.rin.num_blocks is 1 there, 3 here; "
        'config.optim.name is "adamw" there, "lamb" here. '
        "Use the config of that run, or another --workdir."
    )
    said = refused(changed(data__train_rewards=()))
    assert 'config.data.train_rewards is ["sharpness", ' in said and "] there, [] here" in said


@pytest.mark.parametrize("wanted, rate", [(400, 0.8), (200, 0.8), (400, 0.0), (50, 0.8)])
def test_another_number_of_steps_is_noted_where_the_learning_rate_follows_it(
    tmp_path, caplog, capsys, wanted, rate
):
    config = changed(train__num_steps=200, optim__rate=rate, optim__learning_rate=1e-2)
    config.optim.warmup_steps = 0
    setup.note_new_length(config, tmp_path, 0)  # no run
    run_folder.write_config(config, tmp_path / "config.json")
    config.train.num_steps = wanted
    setup.note_new_length(config, tmp_path, 200)
    if (wanted, rate) != (400, 0.8):
        assert not caplog.records and not capsys.readouterr().err
        return
    (record,) = caplog.records  # 0.5 (1 + cos(0.4 pi)), and 0.5 (1 + cos(0.8 pi))
    assert "is 400 here and was 200" in record.getMessage()
    assert "0.00655 after step 200, where it would be 0.000955" in record.getMessage()
    assert capsys.readouterr().err == f"warning: {record.getMessage()}\n"


def test_a_run_that_has_all_of_its_steps_says_that_nothing_is_trained(tmp_path, capsys):
    setup.note_no_steps(tmp_path, 19, 20)
    assert not capsys.readouterr().err
    for num_steps in (20, 10):
        setup.note_no_steps(tmp_path, 20, num_steps)
        said = f"{tmp_path} is at step 20 already, and num_steps is {num_steps}; a larger one"
        assert capsys.readouterr().err == f"nothing is trained: {said} trains on\n"


def test_a_stage_does_not_replace_the_config_of_a_trained_network(tmp_path):
    run_folder.open_folder(changed(seed=3), tmp_path, "train")
    (tmp_path / "checkpoints").mkdir()
    with contextlib.ExitStack() as held:
        run_folder.open_folder(changed(seed=4), tmp_path, "sample", held=held)
    seeds = {path.name: json.loads(path.read_text())["seed"] for path in tmp_path.glob("config*")}
    assert seeds == {"config.json": 3, "config-sample.json": 4}
    with pytest.raises(ValueError, match="refused"), contextlib.ExitStack() as held:
        run_folder.open_folder(changed(seed=5), tmp_path, "evaluate", held=held)
        raise ValueError("refused")
    assert not (tmp_path / "config-evaluate.json").exists()
    assert json.loads((tmp_path / "run.json").read_text())["stage"] == "sample"


@pytest.mark.parametrize("stage", ["train", "distil", "extend", "study"])
def test_training_in_float16_is_refused(tmp_path, stage):
    config = changed(model__dtype="float16")
    with pytest.raises(ValueError, match="config.model.dtype must be bfloat16 or float32 for"):
        run_folder.open_folder(config, tmp_path / "run", stage)
    assert not (tmp_path / "run").exists()


def test_a_mesh_that_is_refused_leaves_no_trace_in_the_folder_of_a_trained_run(tmp_path, capsys):
    run_folder.open_folder(changed(), tmp_path, "train")
    (tmp_path / "checkpoints").mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    words = ("--config=base:tiny", f"--workdir={tmp_path}", "--config.mesh.data=3")
    assert main(words) == 2
    assert "config.mesh.data" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


@pytest.mark.parametrize(
    "key, value", [("coordinator", "host0"), ("num_processes", 2), ("process_id", 0)]
)
def test_a_run_of_several_processes_does_not_begin_as_one(key, value):
    said = f"config.mesh.{key} = {value!r} needs config.mesh.distributed = True"
    with pytest.raises(ValueError, match=said):
        run_folder.start_processes(changed(**{f"mesh__{key}": value}), "train")


def test_processes_compare_all_of_a_config_but_what_is_of_a_host():
    def compared(stage="train", **changes):
        return run_folder._same(changed(**changes), stage)

    usual = compared()
    assert usual["config.seed"] == "0" and usual["--stage"] == "train" and len(usual) > 100
    apart = {"data__records": "/elsewhere", "mesh__process_id": 1, "mesh__coordinator": "host0"}
    assert compared(**apart, annotate__num_threads=3) == usual
    assert compared("annotate", seed=1) == {"--stage": "annotate"}
    long, other = (("a red circle",) * 99 + (last,) for last in ("b", "c"))
    texts = [
        compared(sample__prompts=prompts)["config.sample.prompts"] for prompts in (long, other)
    ]
    assert texts[0] != texts[1] and all(len(text) < 200 for text in texts)
