"""The page of an annotated set: what stands on it is what stands in the set."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from miro_jax.annotate import extremes
from miro_jax.annotate.finish import merge
from miro_jax.report import scored
from tests.annotating import Brightness, call, make_pieces, sample
from tests.sources import write_tar

pytestmark = pytest.mark.usefixtures("no_flush")


def read_page(out):
    return (out / "report.html").read_text("utf-8")


def test_page_shows_every_section_and_needs_nothing_but_itself(tmp_path):
    call(make_pieces(tmp_path / "s"), tmp_path / "out")
    page = read_page(tmp_path / "out")
    for name in ("extremes", "distributions", "levels", "correlations", "failures", "set"):
        assert f'<section id="{name}"' in page and f'href="#{name}"' in page
    assert "30 records of a tar source" in page and "Nothing failed." in page
    assert page.count("judges the long synthetic caption") == 1
    outside = re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert outside == [] and "<script" not in page
    assert str(tmp_path) not in page  # it does not depend on where it was made


def test_best_and_worst_pictures_are_those_of_the_scores(tmp_path):
    """Sample i has the shade i; a bad sample in between shifts rows against positions."""
    paths = make_pieces(tmp_path / "s", 2)
    members = [m for i in (40, 41) for m in sample(i)] + sample(42, image=b"") + sample(43)
    paths.append(write_tar(tmp_path / "s" / "p9.tar", members))
    call(paths, tmp_path / "out", [Brightness()], max_failure_rate=0.5)
    page = read_page(tmp_path / "out")
    shown = re.findall(r'src="data:image/png;base64,([^"]*)" alt="([^"]*)" title="([^"]*)"', page)
    shades = [
        np.array(Image.open(io.BytesIO(base64.b64decode(data))))[0, 0, 0] for data, *_ in shown
    ]
    assert shades == [43, 41, 40, 19, 18, 0, 1, 2, 3, 4]
    assert [alt for _, alt, _ in shown[:4]] == [f"picture {i}" for i in (43, 41, 40, 19)]
    assert shown[0][2] == "p9.tar/key0043" and "<b>0.001686</b>" in page  # 43 / 255 / 100
    assert "searched in all pieces" in page


def test_failures_are_shown_by_cause_with_an_example(tmp_path):
    members = [*sample(0), *sample(1, image=b""), *sample(2, image=b"<b>"), *sample(3, image=b"")]
    path = write_tar(tmp_path / "a.tar", members)
    call([path], tmp_path / "out", [Brightness()], max_failure_rate=0.9)
    page = read_page(tmp_path / "out")
    rows = re.findall(r"<th scope=\"row\">([\w ]*)</th><td>(\d+)</td><td>([\d.]+ %)</td>", page)
    assert rows == [("missing image", "2", "50 %"), ("not an image", "1", "25 %")]
    assert "a.tar/key0001" in page and "a.tar/key0003" not in page


def test_texts_of_the_source_cannot_become_html(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample(0, caption='<img src="x">') + sample(1))
    call([path], tmp_path / "out", [Brightness()])
    assert '<img src="x">' not in read_page(tmp_path / "out")


def test_a_source_that_is_gone_leaves_the_page_without_pictures(tmp_path, monkeypatch):
    paths = make_pieces(tmp_path / "s", 1)

    def gone(*arguments):
        raise FileNotFoundError("gone")

    monkeypatch.setattr(extremes, "read_samples", gone)
    call(paths, tmp_path / "out")
    assert "No images: the source cannot be read again (gone)." in read_page(tmp_path / "out")


def test_a_large_set_is_searched_in_evenly_spread_pieces():
    counts = [10] * 1000
    counts[0] = 0
    chosen = extremes.choose_pieces(counts, [None] * 1000)
    assert len(chosen) == extremes.MOST_PIECES == len(set(chosen)) and 0 not in chosen
    assert max(np.diff(chosen)) <= 32 and chosen[-1] > 960
    assert extremes.choose_pieces([1, 0, 2], [None] * 3) == [0, 2]
    large = extremes.choose_pieces(counts, [1 << 30] * 1000)
    assert len(large) == 4 and np.ptp(np.diff(large)) <= 1
    assert len(extremes.choose_pieces(counts, [1 << 40] * 1000)) == 1


def test_extremes_pass_over_missing_scores_and_show_no_picture_twice():
    scores = np.array([[3, np.nan], [1, 5], [2, np.nan], [9, np.nan]], np.float32)
    (best, worst), (only, none) = extremes.find_extremes(scores, [2, 2], [0, 1])
    assert (best, worst) == ([3, 0], [1, 2]) and (only, none) == ([1], [])
    assert extremes.find_extremes(scores, [2, 2], [0])[0] == ([0], [1])


def test_large_pictures_become_small_files():
    rng = np.random.default_rng(0)
    data = extremes.shrink(rng.integers(0, 255, (600, 900, 3), np.uint8))
    assert Image.open(io.BytesIO(data)).size == (160, 107) and len(data) < 20_000
    small = rng.integers(0, 255, (20, 24, 3), np.uint8)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(extremes.shrink(small)))), small)


def test_a_source_that_became_shorter_has_no_pictures(tmp_path, monkeypatch):
    paths = make_pieces(tmp_path / "s", 2)

    def shorter(todo):
        write_tar(paths[0], sample(0))
        return merge(todo)

    monkeypatch.setattr("miro_jax.annotate.stage.merge", shorter)
    call(paths, tmp_path / "out", [Brightness()])
    assert "No images: the source cannot be read again (p0.tar has fewer" in read_page(
        tmp_path / "out"
    )


def test_damage_of_a_piece_is_no_good_news(tmp_path):
    paths = make_pieces(tmp_path / "s", 2)
    (tmp_path / "s" / "p1.tar").write_bytes(b"")
    call(paths, tmp_path / "out", max_failure_rate=1.0)
    assert "nothing failed" not in read_page(tmp_path / "out").lower()


def test_empty_levels_are_counted_in_plain_grammar():
    assert scored._emptiness(0, 64, 900) == "every level has samples"
    assert scored._emptiness(1, 64, 900) == "1 of 64 levels is empty"
    assert scored._emptiness(34, 64, 30) == "34 of 64 levels are empty: 30 scores for 64 levels"
