"""A network at work: padding, meshes, and what stays on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import sharding
from miro_jax.pretrained.networks.tower import OnDevice, Tower, padded_rows
from miro_jax.pretrained.weights.convert import Network
from tests.networks import small_mesh


class Scale(nnx.Module):
    """Multiplies by a vector."""

    def __init__(self, width):
        self.scale = nnx.Param(jnp.arange(1.0, width + 1))


def scaled(module, x):
    return module.scale[None] * x, x.sum(axis=1)


def added(module, x, y):
    return module.scale[None] + x + y


def make_tower(mesh):
    graphdef, state = nnx.split(Scale(3))
    return Tower(Network(graphdef, jax.device_put(state, sharding.replicated(mesh)), mesh))


@pytest.fixture(params=[(1, 1), (4, 2)], ids=["1x1", "4x2"])
def tower(request):
    return make_tower(small_mesh(*request.param))


def rows(count):
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_rows_come_back_as_many_as_they_were(tower, count):
    x = rows(count)
    product, total = tower.run(scaled, x)
    np.testing.assert_array_equal(product, x * [1, 2, 3])
    np.testing.assert_array_equal(total, x.sum(axis=1))


def test_an_empty_batch_is_refused(tower):
    with pytest.raises(ValueError, match="at least one row"):
        tower.run(scaled, rows(0))


def test_arrays_of_different_rows_are_refused(tower):
    with pytest.raises(ValueError, match="equal rows; got 5, 7"):
        tower.run(added, rows(5), rows(7))


def test_padding_is_a_power_of_two_for_each_device():
    assert [padded_rows(n, 1) for n in (1, 2, 3, 5, 64)] == [1, 2, 4, 8, 64]
    assert [padded_rows(n, 4) for n in (1, 4, 5, 17)] == [4, 4, 8, 32]


def test_results_stay_on_the_devices_and_go_into_other_functions(tower):
    x = rows(5)
    batch = tower.run_on_device(scaled, x)
    product, total = batch.arrays
    assert len(batch) == 5 and len(product) == padded_rows(5, tower.mesh.shape["data"])
    for array in (product, total):
        assert array.sharding.is_equivalent_to(sharding.batch_sharding(tower.mesh), array.ndim)
    first = OnDevice(product, batch.rows)
    np.testing.assert_array_equal(tower.run(added, first, x), x * [1, 2, 3] + [1, 2, 3] + x)
    np.testing.assert_array_equal(first.fetch(), x * [1, 2, 3])


@pytest.mark.parametrize("chosen", [[4], [3, 0, 3], [4, 3, 2, 1, 0]])
def test_rows_on_the_devices_can_be_taken_in_any_order(tower, chosen):
    x = rows(5)
    taken = tower.take(tower.run_on_device(scaled, x), chosen)
    assert len(taken) == len(chosen)
    np.testing.assert_array_equal(taken.fetch()[0], x[chosen] * [1, 2, 3])
    product = OnDevice(taken.arrays[0], taken.rows)
    expected = x[chosen] * [1, 2, 3] + [1, 2, 3] + 1
    np.testing.assert_array_equal(tower.run(added, product, np.ones_like(x[chosen])), expected)


def test_padding_repeats_the_last_row(tower):
    """A norm of a row of zeros may be NaN, which some checks on devices stop at."""
    padded, _ = tower.run_on_device(scaled, 1 + rows(5)).arrays
    assert len(padded) == 8
    np.testing.assert_array_equal(padded[5:], np.repeat(padded[4:5], 3, axis=0))
