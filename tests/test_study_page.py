"""The files of a study's report."""

import json
import re

import pytest

from miro_jax.evaluate.study import page
from tests import browsing, studying


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return page.write(tmp_path_factory.mktemp("study"), studying.whole_study())


def test_the_numbers_are_strict_json_with_a_verdict_for_each_claim(whole):
    def refuse(text):
        raise AssertionError(text)

    numbers = json.loads(whole.json.read_bytes(), parse_constant=refuse)
    verdicts = {figure: one["verdict"] for figure, one in numbers["claims"].items()}
    assert verdicts == {one.figure: one.verdict for one in whole.claims}
    assert numbers["seeds"]["only_beauty"] == [0, 1, 2] and numbers["last_step"] == 1000
    assert numbers["claims"]["F7"]["target"] == 0.5
    assert numbers["claims"]["F3"]["paper_numbers"]["aesthetic"] == 19.1


def test_the_page_shows_every_claim_and_needs_nothing_but_itself(whole):
    text = whole.page.read_text("utf-8")
    for one in whole.claims:
        assert f'<section id="{one.figure}"' in text
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://(?!www.w3.org)", text)
    assert "Not measured" not in text
    assert text.count("<svg") == 8 + 3 + 5 + 2 + 4  # curves, radars, best of n, sweep, dials


@pytest.mark.over_a_second
def test_wide_tables_are_whole_on_paper(whole):
    cut = """() => [...document.querySelectorAll(".scroll")].filter(
        (one) => getComputedStyle(one).overflowX !== "visible").length"""
    with browsing.chromium() as browser:
        watched = browsing.watch(browser)
        watched.page.goto(whole.page.as_uri())
        assert watched.page.evaluate(cut) > 1
        watched.page.emulate_media(media="print")
        assert watched.page.evaluate(cut) == 0 and watched.complaints == []


@pytest.mark.over_a_second
def test_long_names_stay_above_their_charts(whole):
    wider = """() => [...document.querySelectorAll(".cell h4")].map((one) => {
        one.firstChild.data = "a_reward_of_ours_".repeat(3);
        return one.scrollWidth > one.clientWidth; })"""
    with browsing.chromium() as browser:
        watched = browsing.watch(browser)
        watched.page.goto(whole.page.as_uri())
        assert set(watched.page.evaluate(wider)) == {False} and watched.complaints == []


def test_the_lines_name_each_verdict(whole):
    assert [line[:2] for line in whole.lines] == ["F3", "F4", "F5", "F6", "F7", "F8"]
    assert whole.lines[0].startswith("F3 shown: MIRO learns faster than the baseline.")


def test_the_tile_of_the_speed_up_says_what_the_claim_says(tmp_path):
    cells = studying.curves(0.4, range(100, 1100, 100))
    slow = page.write(tmp_path / "slow", studying.make_study(cells))
    assert "<strong>&lt; 1x</strong>" in slow.page.read_text("utf-8")


@pytest.mark.parametrize("cells", [[], studying.curves(3.0, (500, 1000), seeds=(0,))])
def test_what_was_not_measured_is_said(tmp_path, cells):
    report = page.write(tmp_path / "new", studying.make_study(cells))
    text = report.page.read_text("utf-8")
    assert text.count("Not measured: the study has no images") == (6 if not cells else 4)
