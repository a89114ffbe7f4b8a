"""The command line of weight files: lists, converts, refuses."""

import os

import numpy as np
import pytest

from miro_jax import __main__
from miro_jax.cli.weights import main
from miro_jax.pretrained.weights import tensors
from tests.oracles import pickles


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickles.save({"state_dict": {"a.weight": pickles.turned()}}, zipped=True))
    return path


def test_a_file_is_listed(checkpoint, capsys):
    assert main(["list", str(checkpoint)]) == 0
    out, err = capsys.readouterr()
    assert out == "a.weight  float32  [3, 2]\n"
    assert err == "1 tensor, 6 numbers, 0.00 GB\n"


def test_a_pickle_becomes_safetensors(checkpoint, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert __main__.main(["weights", "convert", str(checkpoint), str(out)]) == 0
    expected = np.arange(6.0).reshape(2, 3).T
    np.testing.assert_array_equal(tensors.open_safetensors(out)["a.weight"].read(), expected)
    assert "1 tensor," in capsys.readouterr().out


def test_an_attack_is_refused_in_one_line(tmp_path, capsys):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "bad.pt"
    path.write_bytes(pickles.save({"x": Attack()}, zipped=True))
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("miro-jax weights: error: ") and "mkdir" in err and err.count("\n") == 1
    assert not (tmp_path / "owned").exists() and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["list", "nowhere.pt"], "there is no file nowhere.pt"),
        ([], "required"),
        (["convert", __file__, "x.bin"], "OUT must end in .safetensors"),
    ],
)
def test_bad_arguments_end_with_status_2(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
