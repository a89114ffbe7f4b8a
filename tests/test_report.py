"""The report: complete, self-contained, well formed, and true to what the folder holds."""

import html.parser
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs import base as configs
from miro_jax import report
from miro_jax.data.shapes import scene
from miro_jax.evaluate.run import headline_lines, run_evaluators
from miro_jax.report import results, sections
from miro_jax.report.facts import Facts
from miro_jax.report.sections import headline
from miro_jax.report.statistics import rank_correlation
from miro_jax.rewards import load_reward
from tests import browsing
from tests.painting import Painter, build_all
from tests.shares import wilson

ROOT = pathlib.Path(__file__).parent.parent
SECTIONS = ("pictures", "geneval", "rewards", "dials", "cross", "conflict", "training", "run")
VOID = {"meta", "img", "br", "hr", "input", "rect", "circle", "line", "polyline"}


class Page(html.parser.HTMLParser):
    """A parsed page; tags that do not close in order are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, text):
        self.texts.append(text)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def small_config(**changes):
    config = configs.get_config("tiny")
    config.sample.prompts = ("a <b>red</b> circle & more", "a blue square")
    config.evaluate.images_per_level = 4
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def write_run(folder, config, evaluated=True):
    """A run's folder as the stages leave it, of a network that paints what it is asked for."""
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_best_effort())
    (folder / "run.json").write_text(
        json.dumps({"git_revision": "abc123", "devices": ["cpu:0"], "packages": {"jax": "9.9"}})
    )
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 21):
            row = {"step": step, "loss": 2.0 - step / 10, "mse": 1 / step, "grad_norm": 1.0}
            row |= {"images_per_second": 100.0}
            if step % 10 == 0:
                row |= {f"reward/{name}": 0.5 + step / 100 for name in config.rewards}
            file.write(json.dumps(row) + "\n")
    if not evaluated:
        return
    rewards = [load_reward(name) for name in config.rewards]
    built = build_all(config, folder / "evaluation" / "step-000020", rewards)
    results = run_evaluators(built, Painter(config.data.train_rewards), 20)
    training = {name: {"mean": 0.5, "std": 0.1} for name in config.rewards}
    entry = {
        "step": 20,
        "settings": {},
        "rewards": [r.identity for r in rewards],
        "training": {"num_records": 1234, "rewards": training},
        "num_parameters": 56789,
        "seconds": 1.0,
        "results": {name: result.to_json() for name, result in results.items()},
    }
    (folder / "evaluation.json").write_text(json.dumps([{"step": 10}, entry]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "my run"
    write_run(folder, small_config())
    path = report.write(folder)
    return path, Page(path.read_text("utf-8"))


def test_every_section_is_there_with_a_heading_and_a_link(run):
    _, page = run
    ids = [s["id"] for s in page.all("section")]
    assert tuple(ids) == SECTIONS
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in SECTIONS]
    assert len(page.all("h2")) == len(SECTIONS)
    assert "Not measured" not in page.text


def test_nothing_is_fetched_from_outside(run):
    path, page = run
    text = path.read_text("utf-8")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "use")
        for name in ("src", "srcset", "data", "action", "poster", "background", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    for word in ("http:", "https:", "url(", "@import", "@font-face", "src: "):
        assert word not in text


def test_every_figure_has_a_caption_and_every_picture_a_description(run):
    _, page = run
    assert len(page.all("figure")) == len(page.all("figcaption")) >= 10
    charts = [svg for svg in page.all("svg")]
    assert len(charts) == 4 + 7 + 7 + 7 + 2  # curves, previews, dials, strips, conflict
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 10 for svg in charts)
    assert all(len(image["alt"]) > 10 for image in page.all("img"))


def test_the_gallery_states_the_negative_targets(run, tmp_path):
    assert "Negative branch: all rewards at 0 and" in run[0].read_text("utf-8")
    write_run(tmp_path / "run", small_config(**{"sample.negative_targets": "beauty=0.5"}))
    page = report.write(tmp_path / "run").read_text("utf-8")
    assert "Negative branch: beauty=0.5, other rewards at 0 and" in page


def test_the_gallery_holds_a_picture_for_each_prompt_and_level(run):
    _, page = run
    images = page.all("img")
    assert len(images) == 2 * 5
    assert all(i["src"].startswith("data:image/png;base64,") for i in images)
    assert "all rewards requested at 0.25" in images[1]["alt"]


@pytest.mark.over_a_second
def test_on_a_desk_no_table_has_to_be_scrolled(tmp_path):
    categories = {"evaluate.categories": scene.CATEGORIES, "evaluate.evaluators": ("geneval",)}
    write_run(tmp_path / "run", small_config(**categories))
    path = report.write(tmp_path / "run")
    wider = """() => [...document.querySelectorAll(".scroll")].filter(
        (one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"""
    with browsing.chromium() as browser:
        watched = browsing.watch(browser)
        watched.page.goto(path.as_uri())
        assert watched.page.locator(".shares tbody tr").count() > 1
        assert watched.page.evaluate(wider) == [] == watched.complaints


def test_prompts_are_escaped(run):
    path, page = run
    assert "<b>red</b>" not in path.read_text("utf-8")
    assert "a <b>red</b> circle & more" in page.text


def test_run_facts_stand_on_the_page(run):
    _, page = run
    for fact in ("my run", "20 of batch 16", "56,789", "abc123", "jax 9.9", "sharpness@shapes1"):
        assert fact in page.text
    assert "1,234 images" in page.text
    assert "3 s in steps" in page.text  # 20 steps of 16 pictures at 100 a second


def test_the_table_says_what_the_evaluator_found(run):
    path, page = run
    found = json.loads((path.parent / "evaluation.json").read_text())[-1]["results"]["geneval"]
    row = found["rows"][1]
    share = row["categories"]["colors"]
    assert f"{100 * share['low']:.0f}\N{EN DASH}{100 * share['high']:.0f}" in page.text
    assert f"guidance {row['guidance_scale']:g}" in page.text and "no guidance" in page.text


def test_rank_correlations_are_printed_and_undefined_ones_say_so(run):
    _, page = run
    assert page.text.count("\N{GREEK SMALL LETTER RHO} undefined (") == 7  # it ignores targets


def test_a_working_dial_is_told_from_a_flat_one():
    cross = {"asked": ["a", "b"], "measured": ["a", "b"], "low": [[0.1, 0], [0, -0.1]]}
    found = results.Dials([0, 1], 8, {n: {"rank_of_means": 1.0} for n in "ab"}, cross)
    assert found.rising == ["a"]


def test_a_rank_of_nine_tenths_counts_whatever_its_rounding():
    rank = rank_correlation([0, 0.25, 0.5, 0.75, 1], [1, 3, 2, 4, 5])
    assert rank == pytest.approx(0.9)
    cross = {"asked": ["a"], "measured": ["a"], "low": [[0.1]]}
    for value, rises in ((0.8999999999999998, True), (rank, True), (0.8, False), (None, False)):
        found = results.Dials([0, 1], 8, {"a": {"rank_of_means": value}}, cross)
        assert found.rises("a") is rises


def test_rewards_above_the_training_data_are_those_of_images_with_guidance():
    def rows(*means):
        scores = [{"a": {"score": {"mean": mean}}} for mean in means]
        return [{"guidance_scale": x, "rewards": one} for x, one in enumerate(scores)]

    training = {"a": {"mean": 0.5, "std": 0.1}}
    assert results.RewardScores(4, rows(0.2, 0.6), training).above_training == ["a"]
    assert results.RewardScores(4, rows(0.6, 0.5), training).above_training == []


def test_rewards_that_reach_the_training_data_do_so_where_they_are_requested(tmp_path):
    ends = {"a": (0.1, 0.5), "b": (0.9, 0.4)}  # requested at 0 and at 1
    mean = {"low": 0.0, "high": 1.0}
    ranks = {"rank_of_means": 1.0, "rank_of_samples": 1.0, "level": [mean | {"mean": 0.5}] * 2}
    dials = {n: {"score": [mean | {"mean": m} for m in two], **ranks} for n, two in ends.items()}
    cross = {"asked": ["a", "b"], "measured": ["a", "b"]}
    cross |= dict.fromkeys(("difference", "low", "high"), [[0.1, 0.1]] * 2)
    training = {name: {"mean": 0.5, "std": 0.1} for name in ends}
    found = results.Dials([0.0, 1.0], 8, dials, cross)
    assert found.reaching(training) == ["a"]
    assert found.reaching({"b": training["b"]}) == []
    means = {name: {"score": mean | {"mean": 0.7}, "level": mean | {"mean": 0.7}} for name in ends}
    scores = results.RewardScores(4, [{"guidance_scale": 1, "rewards": means}], training)
    evaluation = {"results": {"dials": found.to_json(), "reward_scores": scores.to_json()}}
    *_, tile = headline(Facts(tmp_path, {}, {}, [], evaluation))
    assert (tile.value, tile.what) == ("1 of 2", "rewards reach the mean of the training data")
    del evaluation["results"]["dials"]
    *_, tile = headline(Facts(tmp_path, {}, {}, [], evaluation))
    assert (tile.value, tile.note) == ("2 of 2", "at the default targets")


def test_the_share_at_the_top_is_that_with_guidance(tmp_path):
    blank = {"categories": {}, "named_color": None}
    rows = [blank | {"guidance_scale": x, "overall": wilson(n, 4)} for x, n in ((0.0, 1), (2.0, 3))]
    evaluation = {"step": 1, "results": {"geneval": {"images_per_prompt": 1, "rows": rows}}}
    (tile,) = headline(Facts(tmp_path, {}, {}, [], evaluation))
    assert tile.value.startswith("75") and "without guidance 25" in tile.note


def test_the_stage_ends_with_the_numbers_at_the_top_of_the_page(run):
    path, page = run
    lines = headline_lines(path.parent)
    assert len(lines) == len(page.all("strong")) == 4
    assert lines[1] == (
        " 0 of 7 dials rise when turned up (rank correlation 0.9 or more, and beyond chance)"
    )
    for word in lines[0].replace("(", "").replace(")", "").split():
        assert word.rstrip(";") in page.text


def test_evaluators_that_did_not_run_are_named_and_the_rest_is_shown(tmp_path):
    config = small_config(**{"evaluate.evaluators": ("geneval",)})
    write_run(tmp_path / "r", config)
    page = Page(report.write(tmp_path / "r").read_text("utf-8"))
    assert tuple(s["id"] for s in page.all("section")) == SECTIONS
    assert page.text.count("Not measured") == 5
    for name in ("gallery", "reward_scores", "dials", "conflict"):
        assert f"Not measured: {name} was not among" in page.text
    assert "single object" in page.text


def test_a_run_of_other_images_has_no_sections_of_the_shapes_world(tmp_path):
    write_run(tmp_path / "r", small_config(**{"evaluate.evaluators": ("dials",)}))
    path = tmp_path / "r" / "evaluation.json"
    entries = json.loads(path.read_text())
    entries[-1] |= {"shapes": False, "prompts": {"source": "prompts.txt"}}
    path.write_text(json.dumps(entries))
    page = Page(report.write(tmp_path / "r").read_text("utf-8"))
    ids = [s["id"] for s in page.all("section")]
    assert tuple(ids) == tuple(n for n in SECTIONS if n not in ("geneval", "conflict"))
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in ids]
    assert "Prompts prompts.txt" in page.text and page.text.count("Not measured") == 2


def test_a_run_that_was_not_evaluated_has_curves_and_facts(tmp_path):
    write_run(tmp_path / "r", small_config(), evaluated=False)
    page = Page(report.write(tmp_path / "r").read_text("utf-8"))
    assert len(page.all("svg")) == 4 + 7 and "20 of batch 16" in page.text


def test_a_network_without_rewards_is_called_the_baseline(tmp_path):
    write_run(tmp_path / "r", small_config(**{"data.train_rewards": (), "sample.targets": ""}))
    page = Page(report.write(tmp_path / "r").read_text("utf-8"))
    assert "the baseline" in page.text and "it has no dials" in page.text
    assert "is not conditioned on the reward 'beauty'" in page.text
    assert len(page.all("img")) == 2


def test_a_metric_that_is_not_finite_does_not_break_the_page(tmp_path):
    write_run(tmp_path / "r", small_config(), evaluated=False)
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21, "loss": np.nan, "mse": np.inf}) + "\n")
    page = Page(report.write(tmp_path / "r").read_text("utf-8"))
    drawn = " ".join(p["points"] for p in page.all("polyline"))
    assert "nan" not in drawn and "inf" not in drawn


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        report.write(tmp_path)


def test_templates_and_style_are_part_of_the_installed_package(tmp_path):
    """Built as for a wheel, and rendered from there, away from the source tree."""
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    write_run(tmp_path / "r", small_config(), evaluated=False)
    program = "from miro_jax import report; print(report.__file__, report.write('r').name)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "lib"), "JAX_PLATFORMS": "none"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "lib")) and "report.html" in done.stdout
    assert "svg .grid {" in (tmp_path / "r" / "report.html").read_text("utf-8")
    built = {path.name for path in (tmp_path / "lib").rglob("*.html")}
    assert built == {path.name for path in (ROOT / "miro_jax" / "report").rglob("*.html")}


@pytest.mark.parametrize("name", ["config.json", "run.json", "evaluation.json"])
@pytest.mark.parametrize("text", ["", "null", "7", "[7]", "{", "[" * 100_000, '{"step": NaN}'])
def test_json_of_a_run_that_is_none_is_named(tmp_path, name, text):
    write_run(tmp_path / "r", small_config(), evaluated=False)
    (tmp_path / "r" / name).write_text(text)
    with pytest.raises(ValueError, match=name) as refused:
        report.write(tmp_path / "r")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("dials.cross.low", 5, "dials: cross.low must be a list"),
        ("dials.dials", [], "dials: dials must be an object"),
        ("geneval.rows", [{}], r"geneval: rows\[0\].guidance_scale is missing"),
        ("reward_scores.training", None, "reward_scores: training must be an object"),
        ("gallery.files", "all", "gallery: files must be a list"),
        ("conflict.others_asked", 0.5, "conflict: others_asked must be an object or null"),
    ],
)
def test_a_result_of_another_form_is_named(run, tmp_path, path, value, said):
    shutil.copytree(run[0].parent, tmp_path / "r")
    file = tmp_path / "r" / "evaluation.json"
    entries = json.loads(file.read_text())
    place = entries[-1]["results"]
    *keys, last = path.split(".")
    for key in keys:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=f"evaluation.json: the result of {said}"):
        report.write(tmp_path / "r")


def test_a_list_without_evaluations_is_a_run_that_was_not_evaluated(tmp_path):
    write_run(tmp_path / "r", small_config(), evaluated=False)
    (tmp_path / "r" / "evaluation.json").write_text("[]")
    assert "Not measured" in report.write(tmp_path / "r").read_text("utf-8")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-30], lambda data: None])
def test_a_damaged_image_of_the_gallery_is_named(run, tmp_path, damage):
    shutil.copytree(run[0].parent, tmp_path / "r")
    path = tmp_path / "r" / "evaluation" / "step-000020" / "gallery-1-3.png"
    left = damage(path.read_bytes())
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises((ValueError, FileNotFoundError), match="gallery-1-3.png is") as refused:
        report.write(tmp_path / "r")
    assert "the evaluate stage writes it" in str(refused.value)


def test_dials_that_rise_by_little_are_named_with_their_change():
    cross = {"asked": ["a", "b"], "measured": ["a", "b"], "low": [[0.01] * 2] * 2}
    moves = {"a": (0.36, 0.449), "b": (0.1, 0.9)}
    dials = {
        name: {"rank_of_means": 1.0, "level": [{"mean": mean} for mean in ends]}
        for name, ends in moves.items()
    }
    found = results.Dials([0.0, 1.0], 8, dials, cross)
    assert sections._by_little(found) == "; by little: a +0.09 of the level"
    del dials["a"]
    assert sections._by_little(results.Dials([0.0, 1.0], 8, dials, cross)) == ""
