"""`score_images` and `annotate` from Python: arguments of other kinds are named at once."""

import numpy as np
import pytest

from miro_jax.score import score_images
from tests import annotating, scoring


@pytest.fixture
def folder(tmp_path):
    scoring.make_folder(tmp_path / "images", 3)
    return tmp_path / "images"


@pytest.fixture
def tars(tmp_path):
    return annotating.make_pieces(tmp_path / "tars", 2, 3)


@pytest.mark.parametrize("pieces", [0, np.int64(0), 3.5, [0.0], ["0"]])
def test_pieces_are_numbers_or_text(folder, tmp_path, pieces):
    with pytest.raises(TypeError, match=r"pieces must be numbers, as \[0, 3\], or text, as '0-9,1"):
        score_images(folder, ["sharpness"], tmp_path / "a.csv", pieces=pieces)
    assert not list(tmp_path.glob("a.csv*"))


def test_pieces_may_be_read_once(folder, tmp_path):
    assert score_images(folder, ["sharpness"], tmp_path / "a.csv", pieces=iter([0])) is not None


def test_workers_of_a_call_take_their_share(tars, tmp_path):
    out = tmp_path / "records"
    assert annotating.call(tars, out, worker_index=0, num_workers=2) is None
    assert len(list(out.glob("*.array_record"))) == 1
    assert annotating.call(tars, out, worker_index=1, num_workers=2) is None
    assert annotating.call(tars, out) is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": None}, "path must be a path; got None.*in memory.*load_reward"),
        ({"path": [np.zeros((8, 8, 3), np.uint8)]}, "path must be a path; got array"),
        ({"out": 3}, "out must be a path; got 3"),
        ({"captions": ["a", "b", "c"]}, r"captions must be a path; got \['a', 'b'"),
        ({"weights": "folder"}, "weights must be {name: folder or hub id}; got 'folder'"),
        ({"batchsize": 3}, "unknown argument 'batchsize'; did you mean batch_size"),
    ],
)
def test_other_arguments_of_score_are_named(folder, tmp_path, changes, said):
    given = {"path": folder, "rewards": ["sharpness"], "out": tmp_path / "a.csv"}
    with pytest.raises(TypeError, match=said):
        score_images(**given | changes)
    assert not list(tmp_path.glob("a.csv*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": 3}, "source must be text, as 'folder:PATH', or one that is open; got 3"),
        ({"image_encoder": None}, "An encoder must be text, as 'pixels:size=64'.*; got None"),
        ({"image_encoder": {"size": 8}}, "An encoder must be text.*; got {'size'"),
        ({"caption_encoder": ["words"]}, "An encoder must be text"),
        ({"num_bin": 3}, "unknown argument 'num_bin'; did you mean num_bins"),
    ],
)
def test_other_arguments_of_annotate_are_named(tars, tmp_path, changes, said):
    with pytest.raises(TypeError, match=said):
        annotating.call(tars, tmp_path / "records", **changes)
    assert not (tmp_path / "records").exists()
