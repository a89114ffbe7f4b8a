"""A leaf has one name, whatever kind of tree holds it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from miro_jax.train.state import leaf_name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    params: dict
    value: int


def names(tree):
    return [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def test_a_variable_and_an_array_have_the_same_name():
    tree = {"blocks": {0: {"kernel": np.zeros(2)}}}
    variables = nnx.State(jax.tree.map(lambda x: nnx.Param(jnp.asarray(x)), tree))
    assert names(tree) == names(variables) == ["blocks/0/kernel"]


def test_fields_keys_and_places_are_names():
    tree = State({"a": [1, (2, 3)]}, {"value": 4})
    assert names(tree) == ["params/a/0", "params/a/1/0", "params/a/1/1", "value/value"]
    assert names(optax.scale_by_adam().init({"a": jnp.ones(1)})) == ["count", "mu/a", "nu/a"]
