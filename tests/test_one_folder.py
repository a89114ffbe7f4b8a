"""Processes agree on the checkpoints that all of them see; here the others are made up."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from miro_jax.train import one_folder


class Others:
    """What one other process sees at each look; stands in for the exchange with it."""

    def __init__(self, monkeypatch, *looks):
        self.looks, self.reloads = list(looks), 0
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(multihost_utils, "process_allgather", self._gather)
        monkeypatch.setattr(one_folder, "SECONDS_BETWEEN", 0.0)

    def _gather(self, ours):
        theirs = self.looks[0]
        if ours.ndim == 0:  # how many steps
            return np.stack([ours, np.array(len(theirs), ours.dtype)])
        if len(self.looks) > 1:
            self.looks.pop(0)
        row = np.full_like(ours, -1)
        row[: len(theirs)] = theirs
        return np.stack([ours, row])

    def reload(self):
        self.reloads += 1


def test_what_all_see_is_agreed_on(monkeypatch):
    others = Others(monkeypatch, [4, 6])
    assert one_folder.agreed(lambda: [2, 4, 6], others.reload) == [4, 6]
    assert others.reloads == 0


def test_a_list_that_is_behind_is_looked_at_again(monkeypatch):
    others = Others(monkeypatch, [2], [2, 4], [4, 6])
    assert one_folder.agreed(lambda: [4, 6], others.reload) == [4, 6]
    assert others.reloads == 2


def test_no_checkpoint_at_all_is_agreed_on(monkeypatch):
    assert one_folder.agreed(list, Others(monkeypatch, []).reload) == []


@pytest.mark.parametrize("theirs, seen", [([], "none"), ([2], "step 2")])
def test_newest_checkpoints_that_stay_different_are_refused(monkeypatch, theirs, seen):
    others = Others(monkeypatch, theirs)
    with pytest.raises(ValueError, match=f"process 0 sees step 4, process 1 {seen}.*--workdir"):
        one_folder.agreed(lambda: [2, 4], others.reload)
    assert others.reloads == one_folder.LOOKS_FOR_STEPS - 1


def test_one_process_agrees_with_itself():
    assert one_folder.agreed(lambda: [4, 2], lambda: None) == [2, 4]
