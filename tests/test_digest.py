"""Digests do not depend on the mesh and change with every single bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.train import digest as digests
from miro_jax.train.digest import examine, layout

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool")


def values(dtype, shape=(8, 16)):
    drawn = np.random.default_rng(0).normal(size=shape) * 50
    return (
        jnp.asarray(drawn > 0)
        if dtype == "bool"
        else jnp.asarray(drawn.astype(np.int8)).astype(dtype)
    )


def digest(array):
    return examine({"x": array})["x"][0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_has_the_same_digest(dtype):
    array = values(dtype)
    found = {digest(array)}
    for shape, spec in (((8, 1), ("a", None)), ((2, 4), ("b", "a")), ((1, 8), (None, "b"))):
        mesh = jax.make_mesh(shape, ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        found.add(digest(jax.device_put(array, jax.NamedSharding(mesh, jax.P(*spec)))))
    assert len(found) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (8, 16), (2, 4, 8)])
def test_accelerators_count_as_the_host_does(dtype, shape):
    array = values(dtype, shape)
    here = digests._start(array)
    assert isinstance(here[0], np.ndarray)
    np.testing.assert_array_equal(digests._digest_whole(array), here[0])
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.P(*(["a", "b"] if len(shape) == 3 else [None, "b"] if len(shape) == 2 else []))
    spread = jax.device_put(array, jax.NamedSharding(mesh, spec))
    rows = np.asarray(digests._digest_shards(spread, mesh, spec))
    np.testing.assert_array_equal(rows.sum(0, dtype=np.uint32), here[0][0])
    parts = digests._start(spread)
    assert len(parts) == (1 if len(shape) < 2 else 4 if len(shape) == 2 else 8)
    np.testing.assert_array_equal(np.sum(parts, 0, dtype=np.uint32), here[0])


def test_each_flipped_bit_changes_the_digest():
    array = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    found = {digest(jnp.asarray(array))}
    for bit in range(array.size * 32):
        words = array.copy().view(np.uint32).reshape(-1)
        words[bit // 32] ^= np.uint32(1 << (bit % 32))
        found.add(digest(jnp.asarray(words.view(np.float32).reshape(array.shape))))
    assert len(found) == 1 + array.size * 32


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bool"])
def test_moved_elements_change_the_digest(dtype):
    array = values(dtype)
    swapped = array[jnp.array([1, 0, *range(2, 8)])]
    assert len({digest(array), digest(swapped), digest(array.T), digest(-array)}) == 4


def test_zeros_and_negative_zeros_differ():
    assert digest(jnp.zeros(3)) != digest(-jnp.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(bad):
    array = values("float32")
    found = examine({"good": array, "bad": array.at[3, 5].set(bad), "step": jnp.int32(4)})
    assert {name: finite for name, (_, finite) in found.items()} == {
        "good": True,
        "bad": False,
        "step": True,
    }


def test_64_bits_are_refused_by_name():
    with pytest.raises(TypeError, match="params/a must be an array of at most 32 bits"):
        examine({"params/a": np.zeros(2, np.float64)})


def test_layout_names_dtype_and_shape():
    assert layout(values("bfloat16")) == "bfloat16[8, 16]"
    assert layout(jax.ShapeDtypeStruct((), jnp.int32)) == "int32[]"
