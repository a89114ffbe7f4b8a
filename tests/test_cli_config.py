"""The command line: what it understands, and one clear line for what it does not."""

import pathlib
import re
import sys

import pytest

from configs import base as configs
from configs import miro
from miro_jax.cli import config as cli
from miro_jax.rewards.names import PUBLISHED_REWARDS, SHAPES_REWARDS

BASE = str(pathlib.Path(__file__).parent.parent / "configs" / "base.py")
STAGES = ("annotate", "train", "sample", "evaluate")


def parse(*arguments, config=BASE):
    return cli.parse([f"--config={config}", "--workdir=out", *arguments], STAGES)


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


@pytest.mark.parametrize("form", [["--config=base:tiny"], ["--config", "base:tiny"]])
def test_a_key_may_stand_before_the_config_of_which_the_last_one_counts(form):
    words = ["--config.seed=1", "--config=miro", "--config.train.num_steps", "7", *form]
    found = cli.parse([*words, "--workdir=out"], STAGES).config
    wanted = configs.get_config("tiny")
    with wanted.unlocked():
        wanted.seed, wanted.train.num_steps = 1, 7
    assert found == wanted


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
        (["--config.mesh={}"], "config.mesh must be set key by key .mesh.behind.*; got '{}'"),
        (["--config.model.rin={'a': 1}"], "config.model.rin must be set key by key .*a': 1}"),
        (["--config.rewards[0]=clip"], "no key 'rewards.0.'; did you mean rewards"),
        (["--config.seed"], "--config.seed"),
        (
            ["--stage=fit"],
            "--stage must be one of annotate, train, sample, evaluate; got 'fit'[.]$",
        ),
        (["--stage=sampel"], "got 'sampel'; did you mean sample[?]"),
        (["--resume=requird"], "--resume must be .*; got 'requird'; did you mean required[?]"),
        (["--stge=sample"], "unknown argument --stge; did you mean --stage[?]"),
        (["--steps=5"], "unknown argument --steps; did you mean --config.train.num_steps"),
        (["--lr=1"], "unknown argument --lr; did you mean --config.optim.learning_rate"),
        (["--seed=1"], "unknown argument --seed; did you mean --config.seed"),
        (["--output_dir=a"], "unknown argument --output_dir; did you mean --workdir"),
        (["--zzz=1"], "unknown argument --zzz. See --help"),
        (["--config.optim.lr=1"], "no key 'optim.lr'; did you mean optim.learning_rate"),
        (["--config.optim.lr", "1"], "no key 'optim.lr'; did you mean optim.learning_rate"),
        (["--config.train.num_steps", "abc"], "train.num_steps must be of type int.*got 'abc'"),
        (["--config.train.max_grad_norm=1"], "did you mean optim.clip_norm"),
        (["--config.sample.num_inference_steps=9"], "did you mean sample.num_steps"),
        (["extra"], "got 'extra'"),
        (["--workdir="], "--workdir must be given"),
        (["--workdir=s3:/b/run"], "--workdir must have two slashes after its scheme; got 's3:/b/"),
    ],
)
def test_a_bad_argument_is_named_in_one_line(arguments, said):
    with pytest.raises(cli.UsageError, match=said) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(
        cli.UsageError, match="^Unknown variant 'tinny' .*: .*only_beauty, .* mean tiny.$"
    ):
        parse(config=f"{BASE}:tinny")


def test_a_missing_config_file_is_named():
    with pytest.raises(cli.UsageError, match="existing Python file; got 'nowhere.py:tiny'[.]$"):
        parse(config="nowhere.py:tiny")
    with pytest.raises(cli.UsageError, match="got 'bse:tiny'; did you mean base[?]$"):
        parse(config="bse:tiny")


@pytest.mark.parametrize("name", ["config", "workdir"])
def test_config_and_workdir_are_required(name):
    given = [a for a in (f"--config={BASE}", "--workdir=x") if not a.startswith(f"--{name}")]
    with pytest.raises(cli.UsageError, match=f"--{name} must be given"):
        cli.parse(given, STAGES)


@pytest.mark.parametrize("word", ["--workdri=x", "-workdir_=x", "--out_dir=x"])
def test_a_misspelt_flag_is_named_in_place_of_the_one_that_it_stands_for(word):
    said = f"^unknown argument --{word.strip('-')[:-2]}; did you mean --workdir[?]$"
    with pytest.raises(cli.UsageError, match=said):
        cli.parse(["--config=base:tiny", "--config.seed=1", word], STAGES)
    with pytest.raises(cli.UsageError, match="^--workdir must be given"):
        cli.parse(["--config=base:tiny", "--config.seed=1", "--seed=1"], STAGES)


@pytest.mark.parametrize("name", ["base", "base.py", "configs/base.py"])
def test_a_config_of_the_package_is_named_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse(config=f"{name}:tiny").config == configs.get_config("tiny")


def test_a_file_comes_before_a_config_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = pathlib.Path(BASE).read_text().replace("c.seed = 0", "c.seed = 7")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text(copy)
    assert parse(config="configs/base.py").config.seed == 7
    assert parse(config="base").config.seed == 0


def test_a_copied_config_works_in_any_folder(tmp_path):
    """It finds `configs.base` beside itself, or else in the package; nothing stays behind."""
    mine = tmp_path / "mine.py"
    mine.write_text(pathlib.Path(BASE).with_name("miro.py").read_text())
    before = {name: module for name, module in sys.modules.items() if name.startswith("configs")}
    assert parse(config=f"{mine}:synth").config == miro.get_config("synth")
    (tmp_path / "base.py").write_text(
        pathlib.Path(BASE).read_text().replace("c.seed = 0", "c.seed = 7")
    )
    assert parse(config=str(mine)).config.seed == 7
    after = {name: module for name, module in sys.modules.items() if name.startswith("configs")}
    assert after == before


OWN = "from configs import base\ndef get_config(variant=''):\n    c = base.base()\n    "


@pytest.mark.parametrize(
    "text, said",
    [
        ("import nowhere\n", "line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1\ndef get_config(:\n", "line 2: SyntaxError"),
        (OWN + "c.seed = zero\n    return c\n", "line 4: NameError: name 'zero'"),
        (OWN + "c.optim.lr = 1\n", "must return a ml_collections.ConfigDict; got NoneType"),
        ("x = 1\n", "get_config"),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config(variant=''):\n    return ConfigDict({'seed': 1})\n",
            "lacks the keys annotate, .* more. Begin with `from configs import base`",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line_that_names_file_and_line(tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(cli.UsageError, match=said) as caught:
        parse(config=str(tmp_path / "own.py"))
    assert "\n" not in str(caught.value) and "--config" in str(caught.value)


def test_groups_of_rewards_are_written_out_as_in_the_flags(tmp_path):
    found = parse("--config.rewards=('clip','shapes')", "--config.data.train_rewards=('shapes',)")
    assert found.config.rewards == ("clip", *SHAPES_REWARDS)
    assert found.config.data.train_rewards == SHAPES_REWARDS
    assert found.config.is_locked
    (tmp_path / "own.py").write_text(OWN + "c.rewards = ('all',)\n    return c\n")
    assert parse(config=str(tmp_path / "own.py")).config.rewards == PUBLISHED_REWARDS


@pytest.mark.parametrize("word", ["None", "null"])
def test_none_is_no_text(word):
    for given in ([f"--config.data.records={word}"], ["--config.data.records", word]):
        with pytest.raises(cli.UsageError, match="data.records must be text, empty for none"):
            parse(*given)


def test_a_key_that_is_none_cannot_be_overridden(tmp_path):
    (tmp_path / "own.py").write_text(OWN + "c.extra = None\n    return c\n")
    assert parse(config=str(tmp_path / "own.py")).config.extra is None
    with pytest.raises(cli.UsageError, match="^config.extra is None in the file and cannot be"):
        parse("--config.extra=3", config=str(tmp_path / "own.py"))


@pytest.mark.parametrize("value", ["", "None", "nowhere"])
def test_no_config_or_an_unknown_one_lists_those_of_the_package(value):
    with pytest.raises(cli.UsageError, match="base.* miro"):
        parse(config=value)


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(cli.UsageError, match="--config must be given .*, --workdir must be given"):
        cli.parse([], STAGES)


def test_help_names_variants_that_exist_and_every_reward():
    listed = re.search(r"variants of base\n\s+(.*)\n", cli.HELP)[1]
    names = [word.split()[0] for word in listed.split(", ")]
    expected = set()
    for name in names:
        expected |= {name.replace("REWARD", reward) for reward in SHAPES_REWARDS}
    assert expected == set(configs.VARIANTS)


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull"])
def test_all_forms_of_help_are_seen(word):
    assert cli.asks_for_help(["--config=x", word])
    assert not cli.asks_for_help(["--config.help=1"])
