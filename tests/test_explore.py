"""The explorer: its views, its folder, and the page in a real browser."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from miro_jax import rewards
from miro_jax.demo import explore
from miro_jax.demo.explore_page import Explorer, page_files
from miro_jax.demo.explore_sheet import Explore
from miro_jax.sample import draw, pipeline
from miro_jax.sample import folder as folders
from tests import browsing
from tests.sampling import NAMES, Dial, ask, contents, save_tiny

VERB = Explore(levels=3, tradeoff_levels=3, frames=4)
HOSTILE = "</script><img src=x onerror=alert(1)>"
PROMPTS = ("a red circle", HOSTILE)


def make(path, pipe=None, verb=VERB, prompts=PROMPTS, stop=None):
    """Fill a folder by a stand-in for a network; `stop` ends it after so many files."""
    pipe = pipe or Dial()
    request = ask(prompts, num_images=1)
    sheet, judges = verb.sheet(request), rewards.load_rewards(["beauty", "colors"])
    explorer = Explorer(sheet, verb.views(request), request, judges, None, "dial")
    facts = request.describe("explore", sheet.images, **verb.facts(request))
    with folders.open_folder(path, facts, [*sheet.files, *page_files(request)]) as opened:
        if stop is not None:
            write, done = opened.write, []

            def write_some(name, data):
                if len(done) == stop:
                    raise KeyboardInterrupt
                done.append(name)
                write(name, data)

            opened.write = write_some
        draw.fill(opened, pipe, sheet, compose=explorer.write)
    return explorer


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "site"
    return path, make(path)


def test_views_stand_one_after_another_in_the_columns_of_the_sheet(site):
    _, explorer = site
    described = explorer.describe()
    kinds = [view["kind"] for view in described["views"]]
    assert kinds == ["sweep"] * 3 + ["tradeoff"] * 3 + ["isolate", "loop"]
    for view in described["views"]:
        for offset, position in enumerate(view["positions"]):
            image = explorer.sheet.images[view["first"] + offset]
            assert f"-{view['kind']}-" in image.file
            assert position["targets"].items() <= image.targets.items()
    assert view["first"] + len(view["positions"]) == len(explorer.sheet.images) // len(PROMPTS)


def test_isolation_and_tradeoffs_keep_the_prompt_in_the_negative_branch(site):
    _, explorer = site
    for image in explorer.sheet.images:
        same = "-isolate-" in image.file or "-tradeoff-" in image.file
        assert image.settings.negative_prompt == ("same" if same else "empty")


def test_the_folder_resumes_to_the_same_bytes(site, tmp_path):
    path, _ = site
    for stop in (5, 50):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "site", stop=stop)
    make(tmp_path / "site")
    assert contents(tmp_path / "site") == contents(path)
    pipe = Dial()
    make(tmp_path / "site", pipe)
    assert not pipe.calls  # complete: nothing is drawn again


def test_each_prompt_has_scores_of_every_image(site):
    path, explorer = site
    text = (path / "data" / "0001.js").read_text("utf-8")
    data = json.loads(re.fullmatch(r"explorer\.add\(1, (.*)\);\n", text)[1])
    assert all((path / name).is_file() for name in data["files"])
    assert [len(row) for row in data["scores"]] == [2] * len(data["files"])
    assert data["levels"][0] == [None, None]  # this network keeps no levels of training
    images = [np.asarray(Image.open(path / name)) for name in data["files"][:2]]
    judge = rewards.load_reward("beauty")
    expected = judge.score(images, [HOSTILE] * 2)
    assert [row[0] for row in data["scores"][:2]] == pytest.approx(expected, abs=1e-4)


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_prompt(site):
    html = (site[0] / "index.html").read_text("utf-8")
    assert "//" not in "".join(re.findall(r"(?:src|href)=\"([^\"]*)\"", html))
    assert HOSTILE not in html and "<img src=x" not in html


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--dials=beauty,beauty"], "different rewards"),
        (["--dials=sharp"], "Unknown reward 'sharp'"),
        (["--rewards=sharp"], "sharp"),
        (["--levels=1"], "levels"),
    ],
)
def test_a_bad_flag_is_named_before_anything_is_loaded(flags, text, tmp_path, capsys):
    checkpoint = tmp_path / "tiny"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"network": {"coherence_keys": NAMES}}))
    status = explore.main([f"--checkpoint={checkpoint}", "--prompt=a", *flags])
    assert status == 2 and text in capsys.readouterr().err


def test_the_help_names_the_folder_that_is_written_by_default(capsys):
    assert explore.main(["--help"]) == 0
    assert "(default: explorer)" in " ".join(capsys.readouterr().out.split())


def test_the_help_speaks_of_no_preset_which_the_explorer_does_not_take(capsys):
    assert explore.main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "preset" not in text and "(default: 0,1)" in text


@pytest.mark.slow
def test_the_command_makes_a_page_of_a_released_network(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = save_tiny(tmp_path / "tiny")
    loaded = pipeline.MiroPipeline.from_pretrained(checkpoint, batch_size=8)
    monkeypatch.setattr(pipeline, "open_pipeline", lambda flags: loaded)
    flags = [f"--checkpoint={checkpoint}", "--prompt=a red circle", "--out=site", "--steps=1"]
    assert explore.main([*flags, "--dials=beauty,count", "--frames=2", "--levels=2"]) == 0
    assert capsys.readouterr().out == "site/index.html\n"
    manifest = json.loads((tmp_path / "site" / "manifest.json").read_text())
    assert manifest["request"]["judges"] == [f"{name}@shapes1" for name in NAMES]
    assert {"index.html", "data/0000.js"} == set(manifest["files"])


@pytest.mark.over_a_second
def test_a_student_which_has_no_negative_branch_is_refused(tmp_path, capsys, monkeypatch):
    checkpoint = save_tiny(tmp_path / "tiny")
    loaded = pipeline.MiroPipeline.from_pretrained(checkpoint)
    config = dataclasses.replace(loaded.trained.config, student=True)
    loaded.trained = dataclasses.replace(loaded.trained, config=config)
    monkeypatch.setattr(pipeline, "open_pipeline", lambda flags: loaded)
    out = tmp_path / "site"
    flags = ["--prompt=a red circle", "--steps=1", "--frames=2", "--levels=2"]
    assert explore.main([f"--checkpoint={checkpoint}", f"--out={out}", *flags]) == 2
    assert "explore need its teacher" in capsys.readouterr().err and not out.exists()


@pytest.fixture
def browser():
    with browsing.chromium() as made:
        yield made


@pytest.mark.slow
def test_the_page_answers_its_sliders_in_a_browser(site, browser):
    path, explorer = site
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{path}/index.html")

    def shown(card=0):
        return page.locator(".card").nth(card).locator(".shown img").get_attribute("src")

    page.wait_for_selector(".card:nth-child(2) .shown img")
    assert "sweep-beauty-0.0000" in shown() and page.locator(".card h2").nth(1).text_content() == (
        HOSTILE
    )
    page.locator("#slider").focus()
    page.keyboard.press("End")
    assert "sweep-beauty-1.0000" in shown()
    assert page.locator("#where").text_content() == "beauty = 1"
    page.select_option("#first", "count")
    assert "sweep-count-1.0000" in shown()
    page.get_by_label("Trade-off").check(force=True)
    page.select_option("#first", "colors")
    page.select_option("#second", "beauty")
    assert "tradeoff-beauty-colors-u1.0000" in shown()  # colors first: u runs backwards
    address = page.url
    page.locator(".card").first.locator(".strip button").last.click()
    assert "tradeoff-beauty-colors-u0.0000" in shown()
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".card .shown img")
    assert "tradeoff-beauty-colors-u1.0000" in shown()
    assert page.locator("#kinds legend").bounding_box()["height"] < 9  # read out, not shown
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for score in (-0.000123456, 0.0018, -0.00123, -12.34, 999.96, -123456.7, 0):
        fits = """(score) => {
          const last = document.querySelector(".meter.varied span:last-child");
          last.textContent = number(score);
          return last.scrollWidth <= last.clientWidth;
        }"""
        assert page.evaluate(fits, score), score
    assert not errors
    assert all(url.startswith(("file://", "about:", "data:")) for url in requests)
