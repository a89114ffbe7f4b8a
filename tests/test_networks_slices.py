"""Slices of a batch against the batch whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models import sharding
from miro_jax.pretrained.networks.slices import by_slices
from tests.networks import small_mesh


def squares(x):
    return jnp.square(x).sum(axis=-1)


def compiled(rows, x):
    return jax.jit(lambda x: by_slices(squares, x, rows)).lower(x).compile()


@pytest.mark.parametrize("rows, sliced", [(1, True), (2, True), (6, False), (4, False), (9, False)])
def test_slices_give_what_the_whole_batch_gives(rows, sliced):
    x = np.random.default_rng(0).normal(size=(6, 3, 5)).astype(np.float32)
    program = compiled(rows, x)
    assert ("while" in program.as_text()) == sliced
    np.testing.assert_allclose(program(x), squares(x), rtol=1e-6)


def test_batches_that_devices_share_are_not_taken_apart():
    mesh = small_mesh(4)
    x = jax.device_put(np.ones((8, 3), np.float32), sharding.batch_sharding(mesh))
    with sharding.use_mesh(mesh):
        assert "while" not in compiled(1, x).as_text()
