"""Checkpoints of PyTorch: what `torch.save` writes reads back equal; everything else is refused."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from miro_jax.pretrained.weights.pickles import convert_to_safetensors, open_pickle
from miro_jax.pretrained.weights.storages import Strided
from miro_jax.pretrained.weights.unpickler import Machine, Placeholder, Source
from tests.oracles import pickles as oracle

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def write(tmp_path, data):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    return path


def saved(tmp_path, found, zipped=True):
    return write(tmp_path, oracle.save(found, zipped))


def assert_equal(path, expected, placeholders=False):
    found = open_pickle(path, placeholders)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        array = found[key].read()
        assert found[key].shape == array.shape == tuple(tensor.shape), key
        assert str(found[key].dtype) == str(array.dtype) == str(tensor.dtype).split(".")[1], key
        assert array.flags.c_contiguous, key
        np.testing.assert_array_equal(array.reshape(-1).view(np.uint8), oracle.bits(tensor), key)


@BOTH
def test_every_dtype_reads_back_equal(tmp_path, zipped):
    tensors = oracle.all_dtypes()
    assert len(tensors) == 19
    assert_equal(saved(tmp_path, tensors, zipped), tensors)


@BOTH
def test_views_shared_storages_parameters_scalars_and_empty_tensors_read_back_equal(
    tmp_path, zipped
):
    tensors = oracle.views()
    assert_equal(saved(tmp_path, tensors, zipped), tensors)


@BOTH
def test_a_state_dict_reads_wherever_it_stands(tmp_path, zipped):
    state = oracle.state_dict()
    assert_equal(saved(tmp_path, state, zipped), state)
    training = {"epoch": 3, "name": "x", "state_dict": state, "optimizer": oracle.small()}
    assert_equal(saved(tmp_path, training, zipped), state)
    assert_equal(saved(tmp_path, {"epoch": 3, "model": state}, zipped), state)
    two = saved(tmp_path, {"model": state, "ema": oracle.small()}, zipped)
    with pytest.raises(ValueError, match=r"one dictionary .* these: model, ema\. Save the one"):
        open_pickle(two)


def test_what_is_no_dictionary_of_tensors_is_refused_by_name(tmp_path):
    for wrong, text in [
        ([1, 2], "a list"),
        ({"a": 1}, "it has these: none"),
        ({"weight": oracle.small()["one"], "step": 3}, "'step' is int"),
        ({"state_dict": 5}, "state_dict must be a dictionary"),
    ]:
        with pytest.raises(ValueError, match=text):
            open_pickle(saved(tmp_path, wrong))


def test_a_tensor_reads_its_own_part_of_the_file_alone(tmp_path, monkeypatch):
    path = saved(tmp_path, oracle.views())
    asked = []
    fromfile = np.fromfile

    def watched(file, dtype, count, **rest):
        asked.append(count)
        return fromfile(file, dtype, count, **rest)

    monkeypatch.setattr(np, "fromfile", watched)
    tensors = open_pickle(path)
    assert asked == []
    tensors["row"].read()
    tensors["columns"].read()
    assert asked == [12 * 4, (2 * 12 + 2 * 3 + 1) * 4]


def test_big_endian_numbers_are_turned(tmp_path):
    """A file of a big-endian machine: its words are turned and it says so."""
    little = oracle.save(oracle.all_dtypes(), True)
    with zipfile.ZipFile(io.BytesIO(little)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    # DTYPES is also the order of the storages; complex numbers are two words.
    widths = [8, 4, 2, 2, 8, 4, 2, 1, 1, 1, 4, 8, 2, 4, 8, 1, 1, 1, 1]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, value in members.items():
            if "/data/" in name:
                width = widths[int(name.rsplit("/", 1)[1])]
                value = np.frombuffer(value, np.uint8).reshape(-1, width)[:, ::-1].tobytes()
            archive.writestr(name, b"big" if name.endswith("/byteorder") else value)
    assert_equal(write(tmp_path, data.getvalue()), oracle.all_dtypes())


@BOTH
def test_conversion_writes_contiguous_safetensors_and_ties_twice(tmp_path, zipped):
    tensors = oracle.views()
    assert convert_to_safetensors(saved(tmp_path, tensors, zipped), tmp_path / "out") == len(
        tensors
    )
    read = load_file(tmp_path / "out")
    assert set(read) == set(tensors)
    for key, tensor in tensors.items():
        assert read[key].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(read[key].reshape(-1).view(np.uint8), oracle.bits(tensor))


def test_conversion_refuses_a_dtype_without_place(tmp_path):
    path = saved(tmp_path, {"wave": oracle.all_dtypes()["complex64"]})
    with pytest.raises(ValueError, match="cannot hold wave, complex64"):
        convert_to_safetensors(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@BOTH
def test_a_pickled_module_is_refused_naming_its_class_and_the_file(tmp_path, zipped):
    path = saved(tmp_path, oracle.module(), zipped)
    with pytest.raises(ValueError, match=r"model\.pt: .*torch\.nn\.modules\.linear\.Linear"):
        open_pickle(path)


def test_placeholders_let_a_state_dict_out_of_a_file_with_foreign_objects(tmp_path):
    meta = {"when": Foreign(), "rows": {1, 2}, "numbers": np.arange(3), "config": "x = 1"}
    for protocol in (2, 4):
        data = io.BytesIO()
        oracle.torch.save(
            {"meta": meta, "state_dict": oracle.small()}, data, pickle_protocol=protocol
        )
        path = write(tmp_path, data.getvalue())
        with pytest.raises(ValueError, match="is refused"):
            open_pickle(path)
        assert_equal(path, oracle.small(), placeholders=True)


class Foreign:
    """An object whose making would be seen."""

    made = 0

    def __init__(self):
        type(self).made += 1

    def __setstate__(self, state):
        type(self).made += 1

    def __reduce__(self):
        return Foreign, (), {"a": 1}


def test_foreign_objects_are_never_made():
    before = Foreign.made
    program = pickle.dumps([Foreign(), Machine], 2)
    made = Foreign.made
    assert made == before + 1  # by this test itself
    source = Source(io.BytesIO(program), 0, len(program))
    foreign, function = Machine(source, {}, repr, placeholders=True).run()
    assert isinstance(foreign, Placeholder) and isinstance(function, Placeholder)
    assert foreign.name == f"{__name__}.Foreign" and Foreign.made == made
    assert not isinstance(foreign, Strided)


def test_other_files_are_refused_by_name(tmp_path):
    oracle.program(str(tmp_path / "program.pt"))
    with pytest.raises(ValueError, match=r"program\.pt: .*TorchScript"):
        open_pickle(tmp_path / "program.pt")
    tar = b"sys_info".ljust(257, b"\0") + b"ustar\x0000".ljust(300, b"\0")
    for data, match in [
        (tar, "a tar"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"", "no PyTorch checkpoint"),
        (b"hello", "no PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "not written by PyTorch"),
        (b"PK\x03\x04" + bytes(100), "the ZIP is damaged"),
    ]:
        with pytest.raises(ValueError, match=match):
            open_pickle(write(tmp_path, data))
    with pytest.raises(FileNotFoundError):
        open_pickle(tmp_path / "none.pt")


@BOTH
def test_every_truncation_is_refused(tmp_path, zipped):
    data = oracle.save(oracle.small(), zipped)
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(ValueError, match=r"model\.pt"):
            open_pickle(write(tmp_path, data[:length]))


@BOTH
@pytest.mark.over_a_second
def test_mutations_read_or_raise_valueerror(tmp_path, zipped):
    """Bits flipped, bytes set, parts removed, doubled or moved: 500 files, seeds 0 to 499."""
    good = oracle.save(oracle.views() | {"net": oracle.small()["one"]}, zipped)
    # Half of the mutations hit the pickles, which are a small part of a file.
    begin = good.index(b"\x80\x02")
    end = good.index(b"PK", begin) if zipped else len(good)
    read = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        data = bytearray(good)
        low, high = (begin, end) if seed % 2 else (0, len(data))
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(low, min(high, len(data))))
            kind = rng.integers(4)
            if kind == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data[place] = int(rng.integers(256))
            elif kind == 2:
                del data[place : place + int(rng.integers(1, 9))]
            else:
                data[place:place] = data[place : place + int(rng.integers(1, 9))]
        path = write(tmp_path, bytes(data))
        for placeholders in (False, True):
            try:
                for tensor in open_pickle(path, placeholders=placeholders).values():
                    array = tensor.read()
                    assert array.shape == tensor.shape and array.dtype == tensor.dtype
                read += 1
            except ValueError:
                pass
    assert 20 < read < 900, read  # some survive, most do not
