"""What several processes agree on between steps, and how often they ask each other."""

import types

import numpy as np
import pytest

from miro_jax.train import agreement, loop
from tests import training


@pytest.fixture
def others(monkeypatch):
    """A process of two; `says` is what the other one tells, `asked` what it was told."""
    made = types.SimpleNamespace(says=[0, 0, 0, 1], asked=[])

    def gather(ours):
        made.asked.append(ours.tolist())
        return np.stack([ours, made.says])

    monkeypatch.setattr(agreement.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement.jax, "process_index", lambda: 1)
    return made


@pytest.mark.parametrize("buckets", [(), (4,)])
def test_of_several_processes_the_first_one_decides_on_saves(others, buckets):
    """Their clocks differ; a save that not all of them begin would never end."""
    config = training.small(data__caption_buckets=buckets)
    data = types.SimpleNamespace(caption_length=5)
    made = loop.Loop(config, None, data, {}, None, None, None)
    for step, first in enumerate((True, False)):
        others.says = [15, first, 8, 1]
        assert made._agreed(step, due=True) == (15, first)
    ours = [0, 0, 5 if buckets else 0, 0]
    assert others.asked == [ours, ours]
    assert made.length == 8  # of the captions that the other one reads


def test_nothing_is_exchanged_before_the_step_that_the_first_one_names(others):
    made = loop.Loop(training.small(), None, None, {}, None, None, None)
    made.stop_signal, others.says = 15, [0, 0, 0, 3]
    assert made._agreed(10, due=False) == (15, False) and len(others.asked) == 1
    assert [made._agreed(step, due=True) for step in (11, 12)] == [(0, False)] * 2
    assert len(others.asked) == 1
    assert made._agreed(13, due=False) == (15, False) and len(others.asked) == 2


@pytest.mark.parametrize(
    "at_every_step, seconds, steps",
    [(False, 0.3, 3), (False, 0.001, 8), (False, 2.0, 1), (True, 0.3, 1)],
)
def test_processes_ask_each_other_once_a_second(others, monkeypatch, at_every_step, seconds, steps):
    monkeypatch.setattr(agreement.jax, "process_index", lambda: 0)
    now, others.says = [100.0], [0, 0, 0, 0]
    made = agreement.Agreement(at_every_step, lambda: now[0])
    step = 500
    made.exchange(step, 0, False, 0)
    assert made.next_step == 501  # nothing is known of the time of a step
    now[0] += 60.0  # it is compiled
    made.exchange(501, 0, False, 0)
    assert made.next_step == 502
    now[0] += seconds
    made.exchange(502, 0, False, 0)
    assert made.next_step == 502 + steps
    now[0] += steps * seconds
    made.exchange(502 + steps, 0, False, 0)
    assert made.next_step == 502 + 2 * steps
