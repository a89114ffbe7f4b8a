"""Charts: axes with round ticks, marks in their places, nothing drawn that has no place."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from miro_jax.report import charts, page


def test_an_axis_has_round_ticks_that_enclose_the_values():
    axis = charts.fit_axis([0.13, 0.87], "score")
    assert axis.ticks == pytest.approx((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert (axis.low, axis.high) == pytest.approx((0.0, 1.0))


def test_an_axis_of_equal_values_still_has_a_width():
    for value in (0.0, 3.0, -1e-4, 1e9):
        axis = charts.fit_axis([value, value], "x")
        assert axis.low < value < axis.high and len(axis.ticks) >= 2


def test_the_axis_of_shares_stays_between_0_and_all():
    for value in (0.0, 40.0, 100.0):
        axis = charts.fit_axis([value, value], "share, %", most=100.0)
        assert (axis.low, axis.high) == (0.0, 100.0)
    axis = charts.fit_axis([43.0, 61.0], "share, %", most=100.0)
    assert (axis.low, axis.high) == (40.0, 65.0)


@pytest.mark.parametrize("values", [(1.2, 1.3), (0.05, 0.9), (1e-7, 1e3), (2.0, 2.0), ()])
def test_a_logarithmic_axis_has_ticks_at_both_ends(values):
    axis = charts.fit_axis(values, "loss", log=True)
    assert len(axis.ticks) >= 2 and axis.ticks[0] == axis.low and axis.ticks[-1] == axis.high
    assert all(axis.low <= v <= axis.high for v in values)


def test_a_logarithmic_axis_places_by_ratio():
    axis = charts.Axis(0.01, 100.0, (), "x", log=True)
    assert axis.position(1.0) == pytest.approx(0.5) and axis.position(10.0) == pytest.approx(0.75)


def test_values_without_a_place_do_not_bend_the_axis_or_the_line():
    values = [1.0, math.nan, math.inf, -1.0, 0.0, 10.0]
    axis = charts.fit_axis(values, "x", log=True)
    assert (axis.low, axis.high) == (1.0, 10.0)
    chart = charts.Chart(charts.fit_axis(range(6), "step"), axis)
    chart.line(list(range(6)), values, "raw")
    points = re.search(r'polyline class="raw" points="([^"]*)"', chart.svg("alt"))[1].split()
    assert len(points) == 2


def test_a_chart_is_well_formed_and_labelled():
    chart = charts.Chart(charts.unit_axis("asked <level>"), charts.unit_axis("achieved"))
    chart.line([0, 1], [0, 1], "ideal")
    chart.points([0.5], [{"mean": 0.5, "low": 0.4, "high": 0.6}], "a", ["half & half"])
    tree = ET.fromstring(chart.svg('a "dial"'))
    assert tree.get("role") == "img" and tree.get("aria-label") == 'a "dial"'
    texts = [e.text for e in tree.iter("text")]
    assert "asked <level>" in texts and "achieved" in texts and "0.25" in texts
    assert [e.text for e in tree.iter("title")] == ["half & half"]


def test_points_and_their_bars_stand_where_the_axes_say():
    axis = charts.Axis(0.0, 1.0, (), "")
    chart = charts.Chart(axis, axis, width=156, height=162)  # a plot area of 100 x 100
    chart.points([0.25], [{"mean": 0.5, "low": 0.25, "high": 1.0}], "a", [""])
    tree = ET.fromstring(chart.svg(""))
    circle, bar = next(tree.iter("circle")), next(tree.iter("g")).find("line")
    corner_x, corner_y = 44 + 25, 26  # left room and a quarter; top room
    assert (float(circle.get("cx")), float(circle.get("cy"))) == (corner_x, corner_y + 50)
    assert (float(bar.get("y1")), float(bar.get("y2"))) == (corner_y + 75, corner_y)


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.25, "0.25"),
        (1000, "1000"),
        (25000, "25k"),
        (2e6, "2M"),
        (-1.5, "\N{MINUS SIGN}1.5"),
    ],
)
def test_numbers_are_written_short(value, text):
    assert page.format_number(value) == text


def test_thinning_keeps_means_and_ends_below_the_limit():
    xs, ys = charts.thin(list(range(1000)), [2.0] * 1000, 300)
    assert len(xs) <= 300 and set(ys) == {2.0} and xs[0] < 4 and xs[-1] > 995
    assert charts.thin([1, 2], [3.0, 4.0], 300) == ([1, 2], [3.0, 4.0])


def test_smoothing_averages_neighbours_and_skips_what_is_not_finite():
    assert charts.smooth([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]
    assert charts.smooth([0.0, math.nan, 6.0], 3) == [0.0, 3.0, 6.0]
