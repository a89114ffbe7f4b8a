"""Safetensors files: read and written as the safetensors package does, damage refused."""

import contextlib
import copy
import json
import os
import random
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from safetensors import deserialize

from miro_jax.data import safetensors as codec
from miro_jax.pretrained.weights import tensors


def arrays():
    rng = np.random.default_rng(0)
    kinds = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16]
    kinds += [np.int8, np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]
    found = {f"a.{np.dtype(k).name}": (rng.normal(size=(3, 5)) * 50).astype(k) for k in kinds}
    return found | {
        "scalar": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.float32),
        "turned": rng.normal(size=(4, 6)).astype(np.float32).T,
    }


def equal(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))


def test_what_is_written_is_read_back(tmp_path):
    path, expected = tmp_path / "a.safetensors", arrays()
    tensors.write_safetensors(path, expected)
    found = tensors.open_safetensors(path)
    assert list(found) == list(expected)
    for key, tensor in found.items():
        assert (tensor.shape, tensor.dtype) == (expected[key].shape, expected[key].dtype)
        equal(tensor.read(), expected[key])
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_safetensors_package_reads_what_is_written(tmp_path):
    expected = arrays()
    tensors.write_safetensors(tmp_path / "a.safetensors", expected)
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert set(file.keys()) == set(expected)
        for key in expected:
            equal(file.get_tensor(key), expected[key])


def test_what_the_safetensors_package_writes_is_read(tmp_path):
    expected = {key: np.ascontiguousarray(value) for key, value in arrays().items()}
    safetensors.numpy.save_file(expected, tmp_path / "a.safetensors", {"format": "np"})
    found = tensors.open_safetensors(tmp_path / "a.safetensors")
    assert set(found) == set(expected)
    for key, tensor in found.items():
        equal(tensor.read(), expected[key])


def test_reading_gives_a_fresh_array_each_time(tmp_path):
    tensors.write_safetensors(tmp_path / "a.safetensors", {"x": np.zeros(3, np.float32)})
    found = tensors.open_safetensors(tmp_path / "a.safetensors")["x"]
    found.read()[:] = 7
    np.testing.assert_array_equal(found.read(), np.zeros(3))


def entry(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


ENTRY = json.dumps(entry()).encode()


def save(path, header, size=24):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    return path


@pytest.mark.parametrize(
    "header, size, said",
    [
        ({"x": entry()}, 20, "cut short inside x"),
        ({"x": entry(dtype="F3")}, 24, "x has the unknown dtype 'F3'; save it as .* or BF16.$"),
        ({"x": entry(shape=[2, 4])}, 24, "x has wrong offsets"),
        ({"x": entry(data_offsets=[-4, 20])}, 24, "x has wrong offsets"),
        ({"x": entry(shape=[-2, -3])}, 24, "x has wrong offsets"),
        ({"x": entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])}, 0, "x has wrong offsets"),
        ({"\ud800": entry()}, 24, "header is damaged.*surrogates"),
        ({"x": {"dtype": "F32"}}, 24, "header is damaged: x must have dtype"),
        ({"x": 3}, 24, "header is damaged"),
        (b"[1, 2]", 24, "header is damaged"),
        (b"{]", 24, "header is damaged"),
        (b"\xff\xfe\xff", 24, "header is damaged"),
        (b"[" * 100_000, 24, "header is damaged"),
        ({"x": entry(shape=[2.0, 3])}, 24, "x has wrong offsets"),
        ({"x": entry(), "__metadata__": {"format": 1}}, 24, "header is damaged"),
        ({"x": entry()}, 32, "8 bytes follow the last array"),
        ({"x": entry(), "y": entry()}, 24, "y has wrong offsets: it overlaps"),
        ({"x": entry(), "y": entry(data_offsets=[28, 52])}, 52, "y has wrong offsets: .* a gap"),
        (b'{"x":%s,"x":%s}' % (ENTRY, ENTRY), 24, "a key stands twice"),
    ],
)
def test_damage_is_named(tmp_path, header, size, said):
    path = save(tmp_path / "bad.safetensors", header, size)
    with pytest.raises(ValueError, match=said) as caught:
        tensors.open_safetensors(path)
    assert "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(8), b"\xff" * 100])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="x.safetensors: no safetensors, or cut short"):
        tensors.open_safetensors(tmp_path / "x.safetensors")


def test_any_mutation_is_read_or_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.write_safetensors(path, {"x": np.ones((2, 3), np.float32), "y": np.ones(4, np.int8)})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
        try:
            for tensor in tensors.open_safetensors(path).values():
                tensor.read()
        except ValueError:
            refused += 1
    assert refused > 250


def test_a_checkpoint_in_several_files_is_one(tmp_path):
    parts = {"a": np.arange(3.0), "b": np.arange(4.0), "c": np.arange(5.0)}
    files = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    for name in set(files.values()):
        tensors.write_safetensors(
            tmp_path / name, {k: v for k, v in parts.items() if files[k] == name}
        )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    found = tensors.open_indexed(index, lambda name: tmp_path / name)
    assert {k: v.read().tolist() for k, v in found.items()} == {
        k: v.tolist() for k, v in parts.items()
    }
    index.write_text(json.dumps({"weight_map": files | {"d": "2.safetensors"}}))
    with pytest.raises(ValueError, match=r"lists tensors that its files do not hold: \['d'\]"):
        tensors.open_indexed(index, lambda name: tmp_path / name)
    stale = {"a": np.zeros(3), "c": parts["c"]}  # as a former cut into files left it
    tensors.write_safetensors(tmp_path / "2.safetensors", stale)
    index.write_text(json.dumps({"weight_map": files}))
    found = tensors.open_indexed(index, lambda name: tmp_path / name)
    assert {k: v.read().tolist() for k, v in found.items()} == {
        k: v.tolist() for k, v in parts.items()
    }
    index.write_text(json.dumps({"weight_map": files | {"c": "1.safetensors"}}))
    with pytest.raises(ValueError, match=r"lists tensors that its files do not hold: \['c'\]"):
        tensors.open_indexed(index, lambda name: tmp_path / name)
    index.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    with pytest.raises(ValueError, match="names a file outside of its folder"):
        tensors.open_indexed(index, lambda name: tmp_path / name)


FORGED = (None, True, -1, 0, 1, 4, 24, 28, 2**63, 2**65, 1.0, "F32", "U8", "", [], {}, [0], [24])


def forge(rng):
    """The bytes of a small file with something in or about its header changed."""
    header = {
        "__metadata__": {"format": "np"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]},
        "e": {"dtype": "F16", "shape": [0, 3], "data_offsets": [28, 28]},
    }
    key = rng.choice(list(header))
    field = rng.choice(list(header[key]))
    if (kind := rng.random()) < 0.3:
        header[key][field] = copy.deepcopy(rng.choice(FORGED))
    elif kind < 0.5 and isinstance(header[key][field], list):
        header[key][field][0] = rng.choice(FORGED)
    elif kind < 0.6:
        header[key] = copy.deepcopy(rng.choice(FORGED))
    elif kind < 0.7:
        del header[key]
    elif kind < 0.75:
        del header[key][field]
    text = bytearray(json.dumps(header).encode())
    if kind >= 0.75:
        text[rng.randrange(len(text))] = rng.randrange(256)
    return struct.pack("<Q", len(text)) + text + bytes(28)


def test_what_the_safetensors_package_refuses_is_refused():
    rng, taken = random.Random(0), 0
    for _ in range(4000):
        data = forge(rng)
        try:
            expected = {key: (one["dtype"], one["shape"]) for key, one in deserialize(data)}
        except safetensors.SafetensorError:
            with pytest.raises(ValueError):
                codec.unpack(data)
            continue
        with contextlib.suppress(ValueError):  # of dtypes that numpy does not know, we take none
            found, _ = codec.unpack(data)
            assert found.keys() == expected.keys()
            taken += 1
    assert taken > 100


@pytest.mark.parametrize("change", ["replaced", "written to", "cut"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, change):
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors.write_safetensors(path, {"x": np.ones(4, np.float32), "y": np.ones(4, np.float32)})
    tensors.write_safetensors(other, {"x": np.zeros(4, np.float32), "y": np.zeros(4, np.float32)})
    os.utime(path, ns=(0, 0))  # the clock of a file system is coarse
    found = tensors.open_safetensors(path)
    assert found["x"].read().tolist() == [1] * 4
    if change == "replaced":
        other.replace(path)
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-4] if change == "cut" else data[:-1] + b"\1")
    with pytest.raises(ValueError, match="a.safetensors must stay as it is while it is read"):
        found["y"].read()
