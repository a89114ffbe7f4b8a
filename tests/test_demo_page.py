"""The demo's page in a real browser: every control, no complaint, no request to another host."""

import dataclasses
import json
import os
import random
import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
pytest.importorskip("gradio", reason="the extra [demo] is not installed")

from miro_jax.demo import form, page
from tests import browsing, demoing
from tests.sampling import NAMES

pytestmark = pytest.mark.slow  # a browser, and a server beside it


@pytest.fixture(scope="module")
def studio():
    return demoing.make_studio()


@pytest.fixture(scope="module")
def url(studio):
    """The page of a studio without a network, served as the command serves it."""
    built, port = page.build_page(studio), demoing.free_port()
    page.launch(built, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}/"
    built.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as made:
        yield made


@pytest.fixture
def opened(browser, url):
    """Opens the page; at the end nothing was complained of, and nobody else was asked."""
    views = []

    def open_page(query="", width=1200):
        view = browsing.watch(browser, width)
        views.append(view)
        view.page.goto(url + query)
        view.page.wait_for_selector("#generate")
        return view.page

    yield open_page
    for view in views:
        view.page.context.close()
        assert view.complaints == []
        assert view.hosts == {url.split("/")[2]}


def generate(view, said="image"):
    """Generate, and wait until it is done."""
    view.click("#generate")
    view.wait_for_function(
        "said => /^\\d+ image.* in /.test(document.querySelector('#status').innerText)"
        " || said == document.querySelector('#status').innerText",
        arg=said,
    )


def set_slider(view, ident, value):
    box = view.locator(f"#{ident} input[type=number]")
    box.fill(str(value))
    box.press("Enter")


def settings(view):
    """What the page says its settings are."""
    view.wait_for_function("document.querySelector('#json textarea')?.value.length > 2")
    return json.loads(view.input_value("#json textarea"))


def open_copies(view):
    if not view.is_visible("#copy button[role=tab]"):
        view.click("#copy > button")
    view.click("#copy button[role=tab]:has-text('JSON')")


def test_the_page_shows_images_before_anything_is_asked(opened, studio):
    view = opened()
    view.wait_for_selector("#result img")
    assert view.locator("#result figure").count() == studio.usual.num_images
    assert "runs/base" in view.inner_text(".head")
    assert view.locator("#result .bars tr").count() == 2 * 3
    view.click("#curves > button")
    view.wait_for_function("document.querySelectorAll('.curves img').length == 3")


def test_sliders_reach_as_far_as_a_run_and_its_presets():
    made = demoing.make_studio()
    made.usual = form.make_form(NAMES, {"prompt": "a", "num_steps": 500, "guidance_scale": 30.0})
    made.presets = {"found": {"guidance_scale": 40.0}}
    sliders = {block.elem_id: block for block in page.build_page(made).blocks.values()}
    ends = {name: (sliders[name].value, sliders[name].maximum) for name in ("steps", "scale")}
    assert ends == {"steps": (500, 500), "scale": (30.0, 40.0)}


def test_a_link_reaches_as_far_as_the_sliders(studio):
    controls = page.Controls(studio, dict.fromkeys(page._SINGLE), {})
    far = form.make_form(NAMES, {"prompt": "a", "num_steps": 500, "guidance_scale": 30.0})
    with pytest.raises(ValueError, match="up to 200 steps at a guidance scale in 0..15; got 500"):
        controls.write(far)
    controls.studio = dataclasses.replace(studio, usual=far)
    assert {500, 30.0} <= set(controls.write(far))


def test_sliders_are_snapped_and_drawn(opened, studio):
    view = opened()
    set_slider(view, "targets-beauty", 0.3)
    view.uncheck("#on-targets-count input")
    set_slider(view, "steps", 7)
    generate(view)
    call = studio.pipe.calls[-1]
    assert call["targets"] == {"beauty": round(0.3 * 63) / 63, "count": None, "colors": 1.0}
    row = view.locator("#result .bars tr").first
    assert "requested 0.30" in row.get_attribute("title")
    assert "beauty 0.30 · count not conditioned" in view.inner_text("#result .quiet")


def test_errors_are_messages(opened):
    view = opened()
    view.fill("#prompt textarea", "fail")
    view.click("#generate")
    view.wait_for_selector("#status .error")
    assert view.inner_text("#status") == "this prompt must not be drawn; got 'fail'."
    view.fill("#prompt textarea", "  ")
    view.click("#generate")
    view.wait_for_function("document.querySelector('#status').innerText.includes('prompt is need')")


def test_numbers_beyond_a_slider_are_messages_or_its_end(opened, studio):
    """And no traceback of the server, which the browser would complain of."""
    view = opened()
    view.fill("#seed input", "-1")
    view.click("#generate")
    view.wait_for_selector("#status .error")
    assert view.inner_text("#status") == "seed must be in 0..4294967295; got -1."
    view.fill("#seed input", "2")
    view.fill("#images input[type=number]", "100")
    view.fill("#targets-beauty input[type=number]", "-3")
    generate(view)
    call = studio.pipe.calls[-1]
    assert call["num_images"] == studio.most_images and call["targets"]["beauty"] == 0


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("num_steps", 201, "up to 200 steps"),
        ("guidance_scale", 16.0, "scale in 0..15"),
        ("guidance_scale", None, "guidance_scale must be"),
        ("num_images", 9, "num_images must be in 1..8"),
        ("seed", "x", "seed must be a whole number; got x"),
        ("solver", "foo", "solver must be one of"),
        ("prompt", None, "prompt must be"),
    ],
)
def test_values_that_no_control_gives_are_refused(studio, name, value, said):
    values = form.to_values(studio.usual) | {"interval_low": 0.0, "interval_high": 1.0}
    controls = page.Controls(studio, dict.fromkeys(page._SINGLE), {})
    with pytest.raises(ValueError, match=said):
        controls.read([(values | {name: value})[key] for key in page._SINGLE])


def test_a_level_that_is_no_number_is_refused():
    emptied: Any = None
    with pytest.raises(ValueError, match="a level must be a number"):
        form.snap(emptied, 64)


def test_two_settings_start_from_the_same_noise(opened, studio):
    view = opened()
    view.fill("#seed input", "3")
    view.click("#pin")
    view.wait_for_function("document.querySelector('#status').innerText.includes('Kept as A')")
    set_slider(view, "targets-beauty", 0)
    view.fill("#seed input", "4")
    generate(view)
    a, b = studio.pipe.calls[-2:]
    assert (a["seed"], b["seed"]) == (4, 4)
    assert (a["targets"]["beauty"], b["targets"]["beauty"]) == (1.0, 0.0)
    assert view.locator("#result .drawn h3").all_inner_texts() == ["A, kept", "B, now"]
    set_slider(view, "targets-count", 0)  # B's words take a line more
    generate(view)
    tops = view.eval_on_selector_all("#result img", "all => all.map(i => i.offsetTop)")
    assert len(set(tops)) == 1
    view.click("#unpin")
    view.wait_for_function("document.querySelector('#status').innerText == 'Ready.'")
    generate(view)
    assert view.locator("#result .drawn").count() == 1


def test_a_link_restores_everything(opened, studio):
    view = opened()
    view.fill("#prompt textarea", 'two <b>blue</b> & "red" squares')
    set_slider(view, "targets-colors", 0.5)
    view.click("#pin")
    view.uncheck("#on-targets-beauty input")
    open_copies(view)
    view.wait_for_function("document.querySelector('#json textarea').value.includes('null')")
    wanted = settings(view)
    view.click("#copy button[role=tab]:has-text('Link')")
    view.wait_for_function("document.querySelector('#link textarea').value.includes('beside=')")
    view.wait_for_function("document.querySelector('#link textarea').value.includes('null')")
    link = view.input_value("#link textarea")
    other = opened(link.partition("/?")[2] and "?" + link.partition("?")[2], width=400)
    other.wait_for_function("document.querySelector('#status').innerText == 'Settings restored.'")
    open_copies(other)
    other.wait_for_function("document.querySelector('#json textarea').value.includes('null')")
    assert settings(other) == wanted
    generate(other)
    assert other.locator("#result .drawn h3").count() == 2
    assert form.to_values(
        form.read_json(json.dumps(wanted), studio.pipe.reward_names)
    ) == wanted | {"guidance_interval": (0.0, 1.0)}


@pytest.mark.parametrize("more, said", [("", "the settings"), (', "num_steps": 900', "200 steps")])
def test_a_foreign_link_is_a_message(opened, more, said):
    prompt = '"x"' if more else "1"
    view = opened("?settings=" + quote(f'{{"prompt": {prompt}{more}}}'))
    view.wait_for_selector("#status .error")
    assert said in view.inner_text("#status")


def test_a_preset_sets_levels_and_guidance(opened, studio):
    view = opened()
    view.click("#preset input")
    view.click("[role=option]:has-text('found')")
    view.wait_for_function(
        "document.querySelector('#targets-beauty input[type=number]').value.startsWith('0.25')"
    )
    generate(view)
    assert studio.pipe.calls[-1]["guidance_scale"] == 3.0


def test_a_drawing_can_be_stopped(opened, studio):
    view = opened()
    assert view.is_disabled("#stop")
    set_slider(view, "steps", 100)
    studio.pipe.gate.clear()
    begun = studio.pipe.steps_done
    view.click("#generate")
    view.wait_for_function("document.querySelector('#status progress')")
    view.click("#stop")
    view.wait_for_function("document.querySelector('#status').innerText == 'Stopped.'")
    view.wait_for_timeout(2000)  # the page says so when it has asked; steps here take no time
    studio.pipe.gate.set()
    assert view.is_disabled("#stop")
    set_slider(view, "steps", 3)
    generate(view)
    assert studio.pipe.steps_done - begun < 100 + 3
    view.wait_for_function("document.querySelector('#stop').disabled")


def test_a_phone_shows_all_of_it(opened):
    view = opened(width=400)
    view.wait_for_selector("#result img")
    assert view.evaluate("document.documentElement.scrollWidth") <= 400
    middles = view.eval_on_selector_all(
        "#targets-beauty input",
        "all => all.map(e => e.getBoundingClientRect()).map(box => box.top + box.height / 2)",
    )
    assert abs(middles[0] - middles[1]) < 1, "the slider and its number stand on one line"
    generate(view)


def test_quiet_text_can_be_read(opened):
    """WCAG 2.2, success criterion 1.4.3: a contrast of at least 4.5."""
    view = opened()
    view.wait_for_selector("#result .bars th")
    for part in (".head p", "#status .status", "#result .quiet", "#result .bars th"):
        text = view.eval_on_selector(part, "e => getComputedStyle(e).color")
        red, green, blue = (int(value) / 255 for value in re.findall(r"\d+", text)[:3])
        linear = [
            c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
        ]
        luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
        assert 1.05 / (luminance + 0.05) >= 4.5, part


def test_the_keyboard_is_enough(opened, studio):
    view = opened()
    view.focus("#prompt textarea")
    view.keyboard.press("Control+A")
    view.keyboard.type("three cyan circles")
    view.keyboard.press("Enter")
    view.wait_for_function("/ in /.test(document.querySelector('#status').innerText)")
    assert studio.pipe.calls[-1]["prompt"] == "three cyan circles"
    view.focus("#targets-beauty input[type=range]")
    view.keyboard.press("Home")
    for _ in range(60):
        view.keyboard.press("Tab")
        if view.evaluate("document.activeElement.closest('#generate, #pin')?.id") == "pin":
            break
    else:
        raise AssertionError("tabbing does not lead to the comparison")
    view.focus("#generate")
    view.keyboard.press("Enter")
    view.wait_for_function("document.querySelector('#result .quiet').innerText.includes('beauty')")
    assert studio.pipe.calls[-1]["targets"]["beauty"] == 0.0


def test_ten_users_take_turns(browser, url, studio):
    views = [browsing.watch(browser, 800) for _ in range(10)]
    for seed, view in enumerate(views):
        view.page.goto(url)
        view.page.wait_for_selector("#generate")
        view.page.fill("#seed input", str(1000 + seed))
    for view in views:
        view.page.click("#generate")
    for view in views:
        view.page.wait_for_function("/ in /.test(document.querySelector('#status').innerText)")
        view.page.context.close()
        assert view.complaints == []
    seeds = {call["seed"] for call in studio.pipe.calls[-10:]}
    assert seeds == set(range(1000, 1010))


def resident() -> float:
    """Megabytes of this process, which serves the page."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_200_random_interactions_leave_no_error_and_memory_flat(opened, studio):
    view, rng = opened(), random.Random(0)
    open_copies(view)
    names = [f"{kind}-{name}" for kind in ("targets",) for name in studio.pipe.reward_names]

    def slide():
        view.focus(f"#{rng.choice(names)} input[type=range]")
        for _ in range(rng.randint(1, 5)):
            view.keyboard.press(rng.choice(["ArrowLeft", "ArrowRight", "PageUp", "Home", "End"]))

    actions = (
        slide,
        lambda: view.click(f"#on-{rng.choice(names)} input"),
        lambda: view.fill("#seed input", str(rng.randrange(1 << 32))),
        lambda: view.fill("#prompt textarea", rng.choice(["a red circle", "fail", "", "<b>x</b>"])),
        lambda: view.click("#pin"),
        lambda: view.evaluate("document.querySelector('#unpin').click()"),  # may be disabled
        lambda: view.click("#generate"),
        lambda: view.evaluate("document.querySelector('#stop').click()"),
        lambda: view.click("#restore"),
        lambda: set_slider(view, "images", rng.randint(1, 8)),
    )
    memory = []
    for _ in range(200):
        rng.choice(actions)()
        memory.append(resident())
    view.fill("#prompt textarea", "a red circle")
    generate(view)
    assert max(memory[150:]) < max(memory[:100]) + 30
