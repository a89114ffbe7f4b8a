"""Labelled grids: pictures unchanged in their places, labels beside and above them."""

import numpy as np
import pytest
from PIL import ImageFont

from miro_jax.report import grids


def cells(rows=2, columns=3, n=1, side=64):
    """Cells of one strong colour each, so that they are found again."""
    out = np.zeros((rows, columns, n, side, side, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            out[row, column] = (255, 40 * row, 40 * column)
    return out


def where(grid, color):
    """Rows and columns (first, last) of the pixels of a colour."""
    ys, xs = np.nonzero((grid == color).all(axis=-1))
    return (ys.min(), ys.max()), (xs.min(), xs.max())


def ink(grid):
    return (grid < 160).all(axis=-1)


def test_pictures_keep_their_pixels_and_stand_in_rows_and_columns():
    grid = grids.labelled_grid(cells(), ["a", "b"], ["x", "y", "z"], "title")
    assert grid.dtype == np.uint8 and grid.shape[2] == 3
    places = {(r, c): where(grid, (255, 40 * r, 40 * c)) for r in range(2) for c in range(3)}
    for (r, c), ((top, bottom), (left, right)) in places.items():
        assert bottom - top == right - left == 63
        assert top == places[r, 0][0][0] and left == places[0, c][1][0]
    assert places[1, 0][0][0] > places[0, 0][0][1] and places[0, 1][1][0] > places[0, 0][1][1]


def test_labels_are_drawn_beside_rows_above_columns_and_on_top():
    grid = grids.labelled_grid(cells(), ["first row", "second row"], ["x", "y", "z"], "title")
    left = where(grid, (255, 0, 0))[1][0]
    for row in range(2):
        top, bottom = where(grid, (255, 40 * row, 0))[0]
        assert ink(grid[top : bottom + 1, :left]).any(), "no label beside the row"
    top = where(grid, (255, 0, 0))[0][0]
    for column in range(3):
        first, last = where(grid, (255, 0, 40 * column))[1]
        assert ink(grid[40:top, first : last + 1]).any(), "no label above the column"
    assert ink(grid[:30]).any(), "no title"


def test_without_texts_there_is_no_ink():
    grid = grids.labelled_grid(cells(), ["", ""], ["", "", ""], "")
    assert not ink(grid).any()


def test_small_pictures_are_enlarged_by_a_whole_factor():
    rng = np.random.default_rng(0)
    picture = rng.integers(1, 250, (1, 1, 1, 16, 16, 3), dtype=np.uint8)
    grid = grids.labelled_grid(picture, [""], [""], "")
    height, width = np.nonzero((grid != 255).any(axis=-1))
    block = grid[height.min() : height.max() + 1, width.min() : width.max() + 1]
    assert block.shape == (64, 64, 3)
    np.testing.assert_array_equal(block[::4, ::4], picture[0, 0, 0])


def test_a_grid_that_would_be_too_large_shows_its_images_smaller(monkeypatch):
    monkeypatch.setattr(grids, "_MOST", 1024)
    titles, legible = [], grids.legible
    monkeypatch.setattr(grids, "legible", lambda text: titles.append(text) or legible(text))
    for shape, per_line, factor in (
        ((2, 4), None, 1),
        ((1, 5), None, 2),  # five columns
        ((3, 1, 4), None, 2),  # three rows of two lines
        ((3, 1, 4), 1, 3),  # three rows of four lines
        ((5, 5), None, 2),
        ((5, 1, 16), 1, 4),  # and no smaller than what is enlarged
    ):
        titles.clear()
        given = cells(*shape, side=256)
        grid = grids.labelled_grid(given, [""] * shape[0], [""] * shape[1], "title", per_line)
        said = f"; images at 1/{factor} of their width" if factor > 1 else ""
        assert titles[0] == f"title{said}"
        side = -(-256 // factor)
        assert (grid == (255, 0, 0)).all(axis=-1).sum() == side**2 * given.shape[2]


def test_long_labels_are_wrapped_and_make_room():
    texts = ["a very long prompt about " + "many things " * 12, "x" * 90]
    grid = grids.labelled_grid(cells(2, 1), texts, ["l"], "t")
    first, second = where(grid, (255, 0, 0)), where(grid, (255, 40, 0))
    assert second[0][0] - first[0][0] > 100  # the row grew with its label
    left = first[1][0]
    assert not ink(grid[:, left - 8 : left]).any(), "a label runs into the pictures"


def test_cells_of_another_number_than_labels_are_refused():
    with pytest.raises(ValueError, match="2 rows, 1 columns"):
        grids.labelled_grid(cells(2, 3), ["a", "b"], ["x"], "t")


def test_tile_leaves_missing_places_transparent():
    tiled = grids.tile(np.full((3, 2, 2, 3), 9, np.uint8), gap=1)
    assert tiled.shape == (5, 5, 4)
    assert (tiled[:2, :2] == (9, 9, 9, 255)).all()
    assert (tiled[3:, 3:, 3] == 0).all() and (tiled[2, :, 3] == 0).all()


def test_words_of_headings_are_not_broken_where_a_column_can_be_wider():
    grid = grids.labelled_grid(cells(1, 3), [""], ["cleanliness alone", "x", "y"], "")
    places = [where(grid, (255, 0, 40 * column))[1] for column in range(3)]
    assert {right - left for left, right in places} == {63}  # the images are as they were
    pitch = places[1][0] - places[0][0]
    assert pitch == places[2][0] - places[1][0] > 64 + 10  # "cleanliness" is wider than an image
    narrow = grids.labelled_grid(cells(1, 3), [""], ["a", "x", "y"], "")
    assert where(narrow, (255, 0, 40))[1][0] - where(narrow, (255, 0, 0))[1][0] == 64 + 10
    long = grids.labelled_grid(cells(1, 1), [""], ["x" * 90], "")
    assert long.shape[1] < 400  # a word without end is broken


def test_a_long_label_makes_no_room_beside_other_rows():
    long, short = "many things " * 12, "a"
    grid = grids.labelled_grid(cells(3, 1), [short, short, long], ["l"], "t")
    tops = [where(grid, (255, 40 * row, 0))[0][0] for row in range(3)]
    assert tops[1] - tops[0] == tops[2] - tops[1] == 64 + 10
    last = where(grid, (255, 80, 0))[0][1]
    assert grid.shape[0] - last > 64  # the long label has its room


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a red circle, 50 % “grey” ©", "a red circle, 50 % “grey” ©"),
        ("naïve café — Straße, søster, Łódź", "naive cafe - Strase, soster, Lodz"),
        ("cafe\u0301 ½ ﬁne", "cafe 1⁄2 fine"),
        ("חָתוּל שחור", "[8 Hebrew letters]"),
        ("一只黑猫，下雪", "[6 CJK letters]"),
        ("日本のカメラ", "[2 CJK letters, 1 Hiragana letter, 3 Katakana letters]"),
        ("a 🐱 and 👩\u200d🎨", "a [cat face] and [woman, artist palette]"),
        ("\N{MINUS SIGN}0.5", "-0.5"),
        ("two\nlines\u202e", "two lines"),
        ("\ud800", "[unknown sign]"),
    ],
)
def test_letters_that_the_font_lacks_are_named(text, shown):
    assert grids.legible(text) == shown


def test_no_label_has_an_empty_box():
    font = ImageFont.load_default(13)
    box = bytes(font.getmask("\uffff"))
    assert bytes(font.getmask("é")) == bytes(font.getmask("א")) == box  # else: use the font
    texts = "".join(grids.legible(chr(code)) for code in range(0x3200))
    assert not {c for c in set(texts) if bytes(font.getmask(c)) == box}


def test_labels_and_titles_are_legible():
    written, named = (
        grids.labelled_grid(cells(1, 1), [text], [text], text)
        for text in ("חתול", "[4 Hebrew letters]")
    )
    np.testing.assert_array_equal(written, named)
