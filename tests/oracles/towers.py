"""Stages of a tower to be compared, as `Tower.run` takes them, and its run in half precision."""

import jax
import numpy as np
from flax import nnx

from tests.networks import difference


def call(module, array):
    return module(array)


def shorten(module, count):
    """Keep the first blocks of a module alone."""
    module.blocks = nnx.List(list(module.blocks)[:count])
    return module


def before_blocks(module, array):
    return shorten(module, 0).tokens(array)


def after_one_block(module, array):
    return shorten(module, 1).tokens(array)


def all_tokens(module, array):
    return module.tokens(array)


def assert_half_precision_is_close(tower, inputs, expected) -> None:
    """Assert that a bfloat16 tower is close, and that what costs little stays float32."""
    found = tower.run(call, inputs)
    assert found.dtype == np.float32
    assert 1e-5 < difference(found, expected) < 0.1
    assert {str(x.dtype) for x in jax.tree.leaves(tower.state)} == {"float32", "bfloat16"}
