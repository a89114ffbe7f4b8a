"""What a study measures, on a disk and back."""

import dataclasses

import numpy as np
import pytest

from miro_jax.evaluate.study import measured
from miro_jax.evaluate.study.measured import Cell, Measured

FRAME = Measured(
    ("beauty", "count"),
    64,
    {"report": ("a red circle", "two blue squares", "a star"), "best_of": ("a star",)},
    {"report": ("colors", "counting", "single_object"), "best_of": ("single_object",)},
)


def make_cell(setting="default", seed=0, shape=(3,)):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(*shape, 2)).astype(np.float32)
    return Cell("miro", seed, 500, setting, rng.random(shape) < 0.5, scores)


def same(one, other):
    return one.name == other.name and all(
        np.array_equal(getattr(one, key), getattr(other, key)) for key in ("right", "scores")
    )


def test_cells_come_back_from_a_folder_as_they_were(tmp_path):
    first = [make_cell(), make_cell("sweep:0.25"), make_cell("best_of", shape=(1, 5))]
    measured.save_frame(tmp_path, FRAME)
    assert measured.load(tmp_path) == FRAME
    measured.save_cells(tmp_path, "miro-0", FRAME, first)
    measured.save_cells(tmp_path, "miro-1", FRAME, [make_cell(seed=1)])
    found = measured.load(tmp_path)
    assert dataclasses.replace(found, cells=()) == FRAME
    expected = [*first, make_cell(seed=1)]
    assert all(same(*pair) for pair in zip(found.cells, expected, strict=True))


def test_equal_cells_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        measured.save_cells(tmp_path / name, "miro-0", FRAME, [make_cell()])
    one, two = (tmp_path / name / "cells/miro-0.cells" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "renamed"])
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path, damage):
    measured.save_frame(tmp_path, FRAME)
    measured.save_cells(tmp_path, "miro-0", FRAME, [make_cell()])
    path = tmp_path / "cells/miro-0.cells"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-1] ^= 1
    if damage == "renamed":
        path = path.rename(path.with_stem("miro-1"))
    path.write_bytes({"cut": data[:-3], "empty": b""}.get(damage, bytes(data)))
    with pytest.raises(ValueError, match=f"{path.name} is damaged: .*Delete it") as error:
        measured.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_changed_frame_is_refused(tmp_path):
    measured.save_frame(tmp_path, FRAME)
    path = tmp_path / "measured.json"
    path.write_text(path.read_text().replace("a star", "a disc"))
    with pytest.raises(ValueError, match="measured.json was changed after it was written"):
        measured.load(tmp_path)


def test_cells_of_other_prompts_are_refused(tmp_path):
    measured.save_cells(tmp_path, "miro-0", FRAME, [make_cell()])
    prompts = FRAME.prompts | {"best_of": ("a disc",)}
    measured.save_frame(tmp_path, dataclasses.replace(FRAME, prompts=prompts))
    with pytest.raises(ValueError, match=r"miro-0.cells must be of the prompts .* of others"):
        measured.load(tmp_path)


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        (make_cell(shape=(2,)), "P = 3"),
        (make_cell("best_of"), r"\[P, N, R\]"),
        (make_cell("search:0.5"), "P = 0"),
        (dataclasses.replace(make_cell(), scores=np.full((3, 2), np.nan, np.float32)), "finite"),
    ],
)
def test_cells_that_do_not_fit_are_refused(cell, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(FRAME, cells=(cell,))


def test_a_cell_stands_once():
    with pytest.raises(ValueError, match="got twice: miro, seed 0"):
        dataclasses.replace(FRAME, cells=(make_cell(), make_cell()))


def test_dials_have_prompts_of_their_own_or_those_of_the_report():
    assert FRAME.prompt_set("dial:beauty=0.5") == "report"
    own = {name: {**getattr(FRAME, name), "dial": ("x",)} for name in ("prompts", "categories")}
    assert dataclasses.replace(FRAME, **own).prompt_set("dial:beauty=0.5") == "dial"
