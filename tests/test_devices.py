"""The settings of conftest.py hold: they are what the other tests rely on."""

import warnings

import jax
import jax.numpy as jnp
import pytest


def test_eight_cpu_devices_exist():
    assert jax.device_count() == 8
    assert {device.platform for device in jax.devices()} == {"cpu"}


def test_rank_promotion_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones((3,))


def test_warning_of_our_own_module_is_an_error():
    with pytest.raises(UserWarning):
        warnings.warn_explicit("made up", UserWarning, "any.py", 1, module="miro_jax.train.optim")


def test_warning_of_another_module_is_not_an_error():
    with pytest.warns(UserWarning):
        warnings.warn_explicit("made up", UserWarning, "any.py", 1, module="other.module")
