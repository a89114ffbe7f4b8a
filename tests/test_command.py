"""The command line: what it understands, and one clear line for what it does not."""

import pathlib
import re

import pytest

from configs import base as configs
from miro_jax.cli import config as config_lib
from miro_jax.rewards import SHAPES_REWARDS

BASE = str(pathlib.Path(__file__).parent.parent / "configs" / "base.py")
STAGES = ("annotate", "train", "sample", "evaluate")


def parse(*arguments, config=BASE):
    return config_lib.parse([f"--config={config}", "--workdir=out", *arguments], STAGES)


def test_defaults_are_the_train_stage_and_the_file_as_it_is():
    found = parse()
    assert found.stage == "train" and found.workdir == pathlib.Path("out")
    assert found.config == configs.get_config("") and found.config.is_locked


def test_variant_stage_and_overrides_reach_the_config():
    found = parse(
        "--stage=sample",
        "--config.train.num_steps=7",
        "--noconfig.train.report",
        "--config.rewards=('colors','beauty')",
        "--config.evaluate.levels=(0.0,1.0)",
        config=f"{BASE}:tiny",
    )
    assert found.stage == "sample" and found.config.train.num_steps == 7
    assert found.config.train.report is False
    assert found.config.rewards == ("colors", "beauty")
    assert found.config.evaluate.levels == (0.0, 1.0)
    assert found.config.model.rin.num_blocks == configs.get_config("tiny").model.rin.num_blocks


def test_two_calls_do_not_share_anything():
    parse("--config.seed=5")
    assert parse().config.seed == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config.train.num_step=5"], "no key 'train.num_step'; did you mean train.num_steps"),
        (["--config.learning_rate=5"], "no key 'learning_rate'; did you mean optim.learning_rate"),
        (["--config.train.num_steps.x=5"], "no key 'train.num_steps.x'"),
        (["--config.zzz=5"], "no key 'zzz'. See the file"),
        (["--noconfig.train.reprt"], "no key 'train.reprt'; did you mean train.report"),
        (
            ["--config.train.num_steps=many"],
            "config.train.num_steps must be of type int, as .*; got 'many'",
        ),
        (
            ["--config.train.num_steps=1.5"],
            "config.train.num_steps must be of type int, as .*; got '1.5'",
        ),
        (["--config.train.report=3"], "config.train.report must be of type bool, as True; got '3'"),
        (
            ["--config.train=5"],
            "config.train must be set key by key .train.batch_size, .*; got '5'",
        ),
        (["--config.seed"], "--config.seed"),
        (["--stage=fit"], "annotate|train|sample|evaluate"),
        (["--steps=5"], "unknown argument --steps"),
        (["extra"], "got 'extra'"),
        (["--workdir="], "--workdir must be given"),
    ],
)
def test_a_bad_argument_is_named_in_one_line(arguments, said):
    with pytest.raises(config_lib.UsageError, match=said) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(config_lib.UsageError, match="^Unknown variant 'tinny' .*'tiny'"):
        parse(config=f"{BASE}:tinny")


def test_a_missing_config_file_is_named():
    with pytest.raises(config_lib.UsageError, match="existing Python file; got 'nowhere.py:tiny'"):
        parse(config="nowhere.py:tiny")


@pytest.mark.parametrize("name", ["config", "workdir"])
def test_config_and_workdir_are_required(name):
    given = [a for a in (f"--config={BASE}", "--workdir=x") if not a.startswith(f"--{name}")]
    with pytest.raises(config_lib.UsageError, match=f"--{name} must be given"):
        config_lib.parse(given, STAGES)


def test_overrides_before_the_file_are_refused():
    with pytest.raises(config_lib.UsageError, match="config.seed"):
        config_lib.parse(["--config.seed=1", f"--config={BASE}", "--workdir=x"], STAGES)


def test_help_names_variants_that_exist_and_every_reward():
    text = config_lib.HELP.format(stages="s", rewards=", ".join(SHAPES_REWARDS))
    listed = re.search(r"variants of configs/base.py\n\s+(.*)\n", text)[1]
    names = [word.split()[0] for word in listed.split(", ")]
    expected = set()
    for name in names:
        expected |= {name.replace("REWARD", reward) for reward in SHAPES_REWARDS}
    assert expected == set(configs.VARIANTS)


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull"])
def test_all_forms_of_help_are_seen(word):
    assert config_lib.asks_for_help(["--config=x", word])
    assert not config_lib.asks_for_help(["--config.help=1"])
