"""The strict loader: what does not fit is reported at once, what fits is placed and typed."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models.layers import LayerNorm, Linear
from miro_jax.pretrained.weights import convert
from miro_jax.pretrained.weights.convert import below, conv, part, same, split, straight, transpose
from miro_jax.pretrained.weights.tensors import (
    Tensor,
    from_arrays,
    open_safetensors,
    write_safetensors,
)
from tests.networks import paths, small_mesh


class Block(nnx.Module):
    """One packed and one plain linear map, and a norm."""

    def __init__(self, width, *, rngs):
        axes = ("embed", "pack", "heads", "head_dim")
        self.qkv = Linear((width, 3, 2, width // 2), axes, rngs=rngs)
        self.out = Linear((width, width), ("mlp", "embed"), rngs=rngs)
        self.norm = LayerNorm(width)


class Net(nnx.Module):
    """Two blocks."""

    def __init__(self, width, *, rngs, dtype):
        self.blocks = nnx.List(Block(width, rngs=rngs) for _ in range(2))


TABLE = below(
    "layers.*",
    "blocks/*",
    (
        *below("attn", "qkv", convert.MODULE),
        *below("proj", "out", convert.MODULE),
        *below("ln", "norm", convert.MODULE),
    ),
)


def source(width=8, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for i in range(2):
        arrays |= {
            f"layers.{i}.attn.weight": rng.normal(size=(3 * width, width)),
            f"layers.{i}.attn.bias": rng.normal(size=3 * width),
            f"layers.{i}.proj.weight": rng.normal(size=(width, width)),
            f"layers.{i}.proj.bias": rng.normal(size=width),
            f"layers.{i}.ln.weight": rng.normal(size=width),
            f"layers.{i}.ln.bias": rng.normal(size=width),
        }
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def load(arrays=None, ignored="", keep_float32="", **settings):
    given = from_arrays(source() if arrays is None else arrays)
    return convert.Layout(Net, TABLE, ignored, keep_float32).load(given, 8, **settings)


def test_a_loaded_network_computes_with_the_weights_of_the_file():
    network, arrays = load(), source()
    model = nnx.merge(network.graphdef, network.state)
    x = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    w, b = arrays["layers.1.attn.weight"], arrays["layers.1.attn.bias"]
    np.testing.assert_allclose(
        model.blocks[1].qkv(jnp.asarray(x)).reshape(2, 24), x @ w.T + b, atol=1e-5
    )


def test_every_problem_is_reported_at_once():
    arrays = source()
    del arrays["layers.0.ln.bias"]
    arrays["layers.0.extra"] = np.zeros(2, np.float32)
    arrays["layers.7.ln.bias"] = np.zeros(8, np.float32)
    with pytest.raises(ValueError) as caught:
        load(arrays)
    assert str(caught.value).splitlines() == [
        "The weights do not fit the network:",
        "layers.0.extra (2,) has no place in the network",
        "layers.7.ln.bias (8,) has no place in the network",
        "blocks/0/norm/bias (8,) is not given",
    ]


def test_the_files_that_do_not_fit_are_named(tmp_path):
    arrays = source()
    del arrays["layers.0.ln.bias"]
    halves = dict(list(arrays.items())[::2]), dict(list(arrays.items())[1::2])
    for name, half in zip("ab", halves, strict=True):
        write_safetensors(tmp_path / f"{name}.safetensors", half)
    of_one = open_safetensors(tmp_path / "a.safetensors")
    of_both = of_one | open_safetensors(tmp_path / "b.safetensors")
    for given, more in ((of_one, ""), (of_both, " and 1 more")):
        with pytest.raises(ValueError) as caught:
            convert.Layout(Net, TABLE).load(given, 8)
        assert str(caught.value).splitlines()[0] == (
            f"The weights of {tmp_path}/a.safetensors{more} do not "
            "fit the network; give all files of this model, with its own config.json:"
        )


def test_wrong_shapes_are_reported_with_both():
    arrays = source()
    arrays["layers.0.proj.weight"] = np.zeros((8, 7), np.float32)
    arrays["layers.1.ln.weight"] = np.zeros(9, np.float32)
    with pytest.raises(ValueError) as caught:
        load(arrays)
    assert str(caught.value).splitlines()[1:] == [
        "layers.0.proj.weight (8, 7) does not fit blocks/0/out/kernel (8, 8)",
        "layers.1.ln.weight (9,) does not fit blocks/1/norm/scale (8,)",
    ]


def test_two_tensors_for_one_parameter_are_refused():
    rows = (*TABLE, *below("copy", "blocks/0/norm", convert.MODULE))
    arrays = source() | {"copy.bias": np.zeros(8, np.float32)}
    with pytest.raises(
        ValueError, match=r"blocks/0/norm/bias is given twice, by layers.0.ln.bias and by copy.bias"
    ):
        convert.Layout(Net, rows).load(from_arrays(arrays), 8)


def test_keys_are_left_out_only_by_name():
    arrays = source() | {"head.weight": np.zeros(3), "buffers.ids": np.zeros(3)}
    load(arrays, ignored=r"head\..*|buffers\.ids")
    with pytest.raises(ValueError, match="buffers.ids"):
        load(arrays, ignored=r"head\..*|buffers")  # the whole key must match


def test_many_problems_are_counted():
    arrays = source() | {f"extra.{i}": np.zeros(1, np.float32) for i in range(50)}
    with pytest.raises(ValueError, match="and 20 more"):
        load(arrays)


def test_nothing_is_read_before_all_names_fit():
    def read():
        raise AssertionError("read too early")

    given = from_arrays(source()) | {"more": Tensor((2,), np.dtype(np.float32), read)}
    with pytest.raises(ValueError, match="more"):
        convert.Layout(Net, TABLE).load(given, 8)


def test_parameters_have_the_dtype_asked_for():
    kept = r".*/norm/.*"
    found = paths(load(dtype="bfloat16", keep_float32=kept).state)
    assert {p.split("/")[-2]: str(leaf.dtype) for p, leaf in found.items()} == {
        "qkv": "bfloat16",
        "out": "bfloat16",
        "norm": "float32",
    }
    half = {key: value.astype(np.float16) for key, value in source().items()}
    assert {leaf.dtype for leaf in paths(load(half).state).values()} == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16; got 'float16'"):
        load(dtype="float16")


def test_parameters_are_laid_out_by_their_logical_axes():
    found = paths(load(mesh=small_mesh(2, 2)).state)
    kernel = found["blocks/0/qkv/kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("data", None, "model", None)
    assert kernel.addressable_shards[0].data.shape == (4, 3, 1, 4)
    whole = paths(load().state)["blocks/0/qkv/kernel"]
    assert whole.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(kernel, whole)


def test_the_host_holds_the_parameters_and_one_tensor():
    width, itemsize = 512, 4
    peak_of_one = 3 * width * width * itemsize
    rng = np.random.default_rng(0)

    def tensor(value):
        return Tensor(value.shape, value.dtype, lambda: rng.normal(size=value.shape).astype("f4"))

    given = {key: tensor(np.broadcast_to(np.float32(0), v.shape)) for key, v in _shapes(width)}
    tracemalloc.start()
    network = convert.Layout(Net, TABLE).load(given, width)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # numpy memory alone is traced: jax's copies are the parameters. Drawing takes float64 first.
    assert peak < 4.5 * peak_of_one
    assert sum(leaf.nbytes for leaf in paths(network.state).values()) > 2 * peak_of_one


def _shapes(width):
    small = source(8)
    scale = width // 8
    return [
        (key, np.empty(tuple(n * scale for n in value.shape), bool)) for key, value in small.items()
    ]


# Transforms.


def test_transforms_fit_or_say_that_they_do_not():
    x = np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(transpose(x, (6, 2, 2)), x.T.reshape(6, 2, 2))
    np.testing.assert_array_equal(transpose(x, (2, 3, 4)), x.T.reshape(2, 3, 4))
    assert transpose(x, (4, 6)) is None
    np.testing.assert_array_equal(straight(x, (4, 2, 3)), x.reshape(4, 2, 3))
    assert straight(x, (6, 4)) is None
    np.testing.assert_array_equal(same(x[:, None], (4, 6)), x)
    assert same(x, (6, 4)) is None
    np.testing.assert_array_equal(split(x.reshape(-1), (2, 12)), x.reshape(2, 12))
    assert split(x, (24,)) is None
    kernel = np.arange(36.0).reshape(2, 2, 3, 3)
    assert conv(kernel, (3, 3, 2, 2))[1, 2, 0, 1] == kernel[1, 0, 1, 2]
    assert conv(x, (3, 3, 2, 2)) is None
    np.testing.assert_array_equal(part(1, 2, transpose)(x, (6, 2)), x[2:].T)
    assert part(0, 3, transpose)(x, (6, 2)) is None


def test_one_tensor_may_fill_several_parameters():
    class Two(nnx.Module):
        def __init__(self, _, *, rngs, dtype):
            self.a = Linear((3, 2), (None, None), rngs=rngs, use_bias=False)
            self.b = Linear((3, 2), (None, None), rngs=rngs, use_bias=False)

    packed = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = [("both", f"{name}/kernel", part(i, 2, transpose)) for i, name in enumerate("ab")]
    found = paths(convert.Layout(Two, rows).load(from_arrays({"both": packed}), None).state)
    np.testing.assert_array_equal(found["b/kernel"], packed[2:].T)
