"""The conflict, with a pipeline that trades agreement for the chased reward."""

import numpy as np
import pytest

from miro_jax.evaluate import conflict
from tests.painting import SAMPLING, Meter, judges

NAMES = ("beauty", "words", "count")
LEVELS = (0.0, 0.5, 1.0)


def greedy(asked, refused, scale):
    """Agreement falls by half of the beauty asked for, unless agreement is asked for too."""
    achieved = asked.copy()
    cost = np.where(np.isnan(asked[:, 1]), 0.5 * asked[:, 0], 0)
    achieved[:, 1:] = 1 - cost[:, None]
    return achieved


def evaluator(names=NAMES):
    measured = judges(names, captioned=("words", "count")).of_captions
    return conflict.Evaluator(
        measured, SAMPLING, ["a", "b"], LEVELS, "beauty", lambda images, _: images[:, 1, 0, 0] > 150
    )


def test_agreement_falls_only_where_the_others_are_not_asked():
    found = evaluator().run(Meter(NAMES, greedy))
    means = {
        way: [value["mean"] for value in getattr(found, way)["agreement"]]
        for way in ("others_asked", "others_not_asked")
    }
    assert means["others_asked"] == pytest.approx([1, 1, 1], abs=1 / 255)
    assert means["others_not_asked"] == pytest.approx([1, 0.75, 0.5], abs=1 / 255)
    assert [c["accuracy"] for c in found.others_not_asked["correct"]] == [1, 1, 0]
    assert found.others_not_asked["correct"][0]["total"] == 2
    assert found.agreement_of == ["words", "count"]


def test_others_are_left_out_of_both_branches():
    pipeline = Meter(NAMES, greedy)
    evaluator().run(pipeline)
    asked, silent = pipeline.calls[:3], pipeline.calls[3:]
    assert [c["targets"] for c in asked] == [{"beauty": level} for level in LEVELS]
    for call, level in zip(silent, LEVELS, strict=True):
        assert call["targets"] == {"words": None, "count": None, "beauty": level}
        assert call["negative_targets"] == {"words": None, "count": None}


def test_a_network_that_is_not_conditioned_on_the_chased_reward_is_not_measured():
    pipeline = Meter(("words",))
    assert "beauty" in evaluator().run(pipeline).not_measured
    assert not pipeline.calls
