"""Reward targets: the forms that people write, and what is refused in each of them."""

import dataclasses
from argparse import Namespace

import numpy as np
import pytest

from miro_jax.models.targets import parse_targets, to_levels
from miro_jax.sample.request import make_request
from miro_jax.sample.usual import Usual

NAMES = ("beauty", "count")


def test_rewards_that_are_not_named_get_the_default():
    levels = to_levels([{"count": 0.25}, {"beauty": None}], 2, NAMES, 1.0)
    np.testing.assert_array_equal(levels, np.array([[1, 0.25], [np.nan, 1]], np.float32))
    assert levels.dtype == np.float32


@pytest.mark.parametrize("level", [-0.1, 1.5, np.inf, -np.inf])
def test_a_level_outside_of_0_to_1_is_refused_in_every_form(level):
    said = r"in \[0, 1\], where 1 is best"
    with pytest.raises(ValueError, match=said):
        to_levels({"beauty": level}, 1, NAMES, 1.0)
    with pytest.raises(ValueError, match=said):
        to_levels(np.array([[np.nan, level]], np.float32), 1, NAMES, 1.0)
    with pytest.raises(ValueError, match=said):
        parse_targets(f"beauty={level}")


def test_both_ends_of_the_range_and_nan_in_arrays_are_levels():
    given = np.array([[0.0, np.nan], [1.0, 0.5]], np.float32)
    np.testing.assert_array_equal(to_levels(given, 2, NAMES, 1.0), given)


def test_targets_are_read_from_text():
    assert parse_targets("") == {}
    assert parse_targets(" beauty = 0.6, count=none ,sharpness=1,") == {
        "beauty": 0.6,
        "count": None,
        "sharpness": 1.0,
    }


@pytest.mark.parametrize(
    "text, said",
    [
        ("beauty", "NAME=LEVEL,NAME=LEVEL; got 'beauty'"),
        ("beauty=hi", "number .*; got 'hi'"),
        ("hpsv2=1,clip=0,hpsv2@2.1=0.2", "once; got two levels of 'hpsv2'"),
    ],
)
def test_text_of_another_form_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_targets(text)


@pytest.mark.parametrize("flag", ["targets", "negative_targets"])
def test_two_flags_may_not_name_the_same_reward(flag):
    flags = Namespace(**{"targets": [{"count": 1}], "negative_targets": []})
    usual = Usual({"beauty": 0.25}, {"beauty": 0.0})
    setattr(flags, flag, [{"beauty": 1.0}, {"count": None, "beauty": 0.2}])
    with pytest.raises(ValueError, match="each reward once; got two levels of 'beauty'"):
        usual.put_before(flags)
    setattr(flags, flag, [{"beauty": 1.0}, {"count": None}])  # over the default of the run
    usual.put_before(flags)
    request = make_request(NAMES, ["a"], targets=flags.targets)
    request = dataclasses.replace(request, negative_targets=flags.negative_targets)
    assert getattr(request, flag) == {"beauty": 1.0, "count": None}
