"""Start values that are drawn at once are those that are drawn one by one."""

import collections
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from configs import base
from miro_jax.models import sharding
from miro_jax.models.draws import KINDS, Draws, build_at_once, draw
from miro_jax.models.rin import build


def shapes_of(kind):
    return [(kind, (3,)), (kind, (5, 7)), (kind, (2, 4, 8)), (kind, ())]


class Some(nnx.Module):
    def __init__(self, rngs, wanted):
        self.arrays = nnx.List(nnx.Param(draw(rngs, *one)) for one in wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.over_a_second
def test_a_row_of_many_begins_as_an_array_of_its_own(kind):
    wanted = shapes_of(kind) * 2
    key = jax.random.key(7)
    make = lambda rngs: Some(rngs, wanted)  # noqa: E731
    # As users compile: unoptimized, a cut normal is rounded before and after its last addition.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    alone = jit(lambda key: nnx.state(make(nnx.Rngs(params=key))))(key)
    at_once = jit(lambda key: nnx.state(build_at_once(make, key, wanted)))(key)
    for one, other in zip(*map(jax.tree.leaves, (alone, at_once)), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-7)
    values = [np.ravel(leaf) for leaf in jax.tree.leaves(at_once)]
    assert len(np.unique(np.concatenate(values))) == sum(map(len, values))  # no key twice


@pytest.mark.over_a_second
def test_a_network_starts_with_the_same_bits():
    config = base.get_config("tiny")
    make = lambda rngs: build(config.model, (16, 16, 3), 64, 1, rngs=rngs)  # noqa: E731
    with sharding.use_mesh(sharding.one_device_mesh()):
        key = jax.random.key(3)
        alone = jax.jit(lambda key: nnx.state(make(nnx.Rngs(params=key))))(key)
        listed = Draws()
        jax.eval_shape(lambda: nnx.state(make(listed)))
        at_once = jax.jit(lambda key: nnx.state(build_at_once(make, key, listed.wanted)))(key)
    for one, other in zip(*map(jax.tree.leaves, (alone, at_once)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.over_a_second
def test_arrays_of_a_size_are_drawn_together(monkeypatch):
    calls = collections.Counter()
    uniform = KINDS["uniform"]
    monkeypatch.setitem(
        KINDS, "uniform", lambda key, shape: calls.update([shape]) or uniform(key, shape)
    )
    wanted = [("uniform", (3, 5)), ("uniform", (16,)), ("uniform", (4, 4)), ("uniform", (17,))]
    build_at_once(lambda rngs: Some(rngs, wanted), jax.random.key(0), wanted)
    assert calls == {(16,): 1, (32,): 1}


def test_zeros_stand_for_arrays_where_they_are_listed():
    listed = Draws()
    assert draw(listed, "frequency", [2, 3]).shape == (2, 3)
    assert listed.wanted == [("frequency", (2, 3))]
