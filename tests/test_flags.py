"""One definition of an option gives the flag, its help, its default and its checks."""

import argparse
import dataclasses

import numpy as np
import pytest

from miro_jax.cli.exit import UsageError
from miro_jax.cli.flags import Parser, add_flags, check, make_settings, option


def parse_pair(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"must be KEY=VALUE; got {text!r}")
    return key, value


@dataclasses.dataclass(frozen=True)
class Settings:
    out: str = option(help="folder for the 100 % of it")
    batch_size: int = option(64, at_least=1, help="samples together", group="how", metavar="N")
    rate: float = option(0.25, share=True, help="share of failures")
    dtype: str | None = option(None, choices=("float32", "bfloat16"), help="of networks")
    fast: bool = option(False, help="hurry")
    rewards: tuple[str, ...] = option(("a", "b"), help="names")
    weights: tuple[tuple[str, str], ...] = option((), repeat=True, parse=parse_pair, help="pairs")
    hidden: object = option(None, flag=False, help="of Python alone")
    plain: int = 3
    steps: int = option(8, at_most=9, help="in turn", flag="num-steps", unset="the run's")


def make(*words, **more):
    parser = Parser(prog="test")
    add_flags(parser, Settings)
    return make_settings(Settings, parser.read(words), **more)


def test_defaults_are_those_of_the_dataclass():
    assert make("--out=x") == Settings("x")


def test_each_type_is_read():
    words = "--batch-size=2 --rate=1 --dtype=bfloat16 --fast --rewards=c,,d --weights=a=b"
    settings = make("--out=x", *words.split(), "--weights=c=d=e", hidden=7)
    assert settings == Settings(
        "x", 2, 1.0, "bfloat16", True, ("c", "d"), (("a", "b"), ("c", "d=e")), 7
    )


@pytest.mark.parametrize(
    "words, text",
    [
        ([], "--out"),
        (["--out=x", "--batch-size=a"], "--batch-size: must be an integer; got 'a'"),
        (["--out=x", "--batch-size=0"], "--batch-size: must be at least 1; got '0'"),
        (["--out=x", "--num-steps=10"], "--num-steps: must be at most 9; got '10'"),
        (["--out=x", "--rate=inf"], "--rate: must be finite; got 'inf'"),
        (["--out=x", "--weights=a"], "--weights: must be KEY=VALUE; got 'a'"),
        (["--out=x", "--dtype=int8"], "--dtype: must be one of"),
        (["--out=x", "--batchsize=1"], "did you mean --batch-size?"),
        (["--out=x", "--torch_dtype=float32"], "did you mean --dtype?"),
        (["--out=x", "--num-inference-steps=3"], "did you mean --num-steps?"),
        (["--output-dir=x"], "did you mean --out?"),
        (["--otu=x"], "did you mean --out?"),
        (["--out=x", "--hidden=1"], "unknown argument '--hidden=1'"),
    ],
)
def test_a_bad_flag_is_named(words, text):
    with pytest.raises(UsageError) as caught:
        make(*words)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0."),
        ({"batch_size": 1.5}, "batch_size must be an integer; got 1.5."),
        ({"batch_size": True}, "batch_size must be an integer; got True."),
        ({"rate": 1.01}, r"rate must be in \[0, 1\]; got 1.01."),
        ({"rate": float("nan")}, "rate must be finite; got nan."),
        ({"batch_size": float("inf")}, "batch_size must be finite; got inf."),
        ({"steps": 10}, "steps must be at most 9; got 10."),
        ({"rate": "much"}, "rate must be a number; got 'much'."),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16; got 'int8'."),
    ],
)
def test_the_same_checks_hold_for_flags_configs_and_python(change, text):
    with pytest.raises(ValueError, match=text):
        check(dataclasses.replace(Settings("x"), **change))
    with pytest.raises(ValueError, match="config.part." + text):
        check(dataclasses.replace(Settings("x"), **change), "config.part.")


def test_good_values_pass():
    check(Settings("x", dtype="float32", rate=0))


def test_help_shows_defaults_groups_and_percent_signs(capsys):
    parser = Parser(prog="test")
    add_flags(parser, Settings)
    with pytest.raises(SystemExit):
        parser.read(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "how: --batch-size N samples together (default: 64)" in text
    assert "100 % of it --rate" in text and "--hidden" not in text
    assert "in turn (default: the run's, or 8)" in text
    assert "names (default: a,b)" in text and "hurry (default" not in text


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(TypeError, match="atleast"):
        option(1, help="", atleast=3)


def test_flags_that_are_not_there_are_passed_by():
    assert make_settings(Settings, argparse.Namespace(out="y")).out == "y"


def test_a_flag_that_is_not_given_takes_the_value_from_elsewhere_or_the_default():
    assert make("--out=x").steps == 8
    assert make("--out=x", steps=3).steps == 3
    assert make("--out=x", "--num-steps=4", steps=3).steps == 4


@dataclasses.dataclass(frozen=True)
class More:
    what: str = option(positional=True, metavar="WHAT", help="a word")
    rate: float = option(0.5, help="of frames")
    size: int = option(1, group="how", help="pixels")


def test_two_dataclasses_share_a_parser_and_its_groups(capsys):
    parser = Parser(prog="test")
    add_flags(parser, Settings, {"steps": 5}, skip=("rate",))
    add_flags(parser, More)
    flags = parser.read(["word", "--out=x", "--rate=2"])
    assert make_settings(More, flags) == More("word", 2.0)
    assert flags.steps == 5
    with pytest.raises(SystemExit):
        parser.read(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("how:") == 1 and "in turn (default: 5)" in text


def test_numbers_of_numpy_are_numbers():
    check(Settings("x", batch_size=np.int64(2), rate=np.float32(0.5)))


def test_flags_of_a_sub_command_are_known_where_one_of_its_words_is_missing():
    parser = Parser(prog="test")
    pull = parser.add_subparsers(required=True).add_parser("pull")
    pull.add_argument("names", nargs="+", metavar="NAME")
    pull.add_argument("--dry-run", action="store_true")
    with pytest.raises(UsageError, match="NAME"):
        parser.read(["pull", "--dry-run"])
    with pytest.raises(UsageError, match="unknown argument '--dry-rum'; did you mean --dry-run"):
        parser.read(["pull", "x", "--dry-rum"])
    with pytest.raises(UsageError, match="unknown argument '--q'(?!.*did you mean)"):
        parser.read(["pull", "x", "--q"])
