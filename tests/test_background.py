"""Saves in the background: one that failed waits for no other process and names its folder."""

import errno

import pytest

from miro_jax.cli import exit as ends
from miro_jax.train import background


def finish(wait, error=None):
    """End a save as Orbax does: it waits for the others even where an error is on its way."""
    try:
        if error is not None:
            raise error
    finally:
        wait(key="done", timeout_ms=1000)


def make(folder="/run/checkpoints"):
    waited = []
    return waited, background.unless_failed(lambda **given: waited.append(given), folder)


def test_a_save_that_went_well_waits_for_the_others():
    waited, wait = make()
    finish(wait)
    assert waited == [{"key": "done", "timeout_ms": 1000}]


def test_a_save_that_failed_waits_for_none():
    waited, wait = make()
    with pytest.raises(ValueError, match="of TensorStore"):
        finish(wait, ValueError("of TensorStore"))
    assert waited == []


@pytest.mark.parametrize("given", [None, "/run/checkpoints/4/host"])
def test_a_full_disk_has_a_path(given, capsys):
    _, wait = make()
    with pytest.raises(OSError) as raised:
        finish(wait, OSError(errno.ENOSPC, "No space left on device", given))
    assert ends.fail("train", raised.value, ends.status_of(raised.value)) == ends.FAILED
    expected = f"the disk is full: {given or '/run/checkpoints'} cannot be written."
    assert expected in capsys.readouterr().err


def test_a_full_disk_is_no_wrong_argument_whatever_class_a_library_gives_it():
    assert ends.status_of(ValueError("Failed to write: File too large")) == ends.FAILED
    assert ends.status_of(ValueError("a bad number")) == ends.MISTAKEN
