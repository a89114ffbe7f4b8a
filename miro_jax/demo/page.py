"""The page: prompt, sliders, images. Components and events of gradio; all work is the studio's.

The values of the controls travel in one order, that of `Controls.every`; what leaves the page is a
form's JSON. One drawing goes on at a time, the others wait in a queue.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import lazy_loader
from markupsafe import Markup

from miro_jax.data.printable import counted
from miro_jax.demo import figures
from miro_jax.demo.form import (
    make_form,
    read_json,
    snap,
    to_command,
    to_python,
    to_values,
    write_json,
)
from miro_jax.demo.studio import Frame, Studio
from miro_jax.sample.request import Request
from miro_jax.sample.settings import SCHEDULES, SOLVERS

gr = lazy_loader.load("gradio")

MOST_WAITING, MOST_STEPS, MOST_SCALE = 64, 200, 15
MISTAKES = (ValueError, TypeError, ArithmeticError, OSError, RuntimeError)
_SINGLE = ("prompt", "num_images", "seed", "num_steps", "guidance_scale", "interval_low")
_SINGLE += ("interval_high", "guidance_rule", "guidance_schedule", "solver", "negative_prompt")
_LINK = "(s, b) => location.origin + location.pathname + '?settings=' + encodeURIComponent(s)"
_LINK += " + (b ? '&beside=' + encodeURIComponent(b) : '')"
_SEED = "() => Math.floor(Math.random() * 4294967296)"
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto"]
_FONTS += ["Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_LEGEND = Markup(
    '<div class="legend"><span><span class="track"><i style="width:60%"></i></span>measured level'
    '</span><span><span class="track"><b style="left:80%"></b></span>requested level</span></div>'
)


@dataclasses.dataclass
class Controls:
    """The controls of a page, and what they say.

    Attributes:
      single: name -> component, in the order of `_SINGLE`.
      levels: "targets" and "negative_targets" -> for each reward its box and its slider.
    """

    studio: Studio
    single: dict[str, Any]
    levels: dict[str, list[tuple[Any, Any]]]

    @property
    def every(self) -> list[Any]:
        """All components, in one order."""
        pairs = [part for rows in self.levels.values() for pair in rows for part in pair]
        return [*self.single.values(), *pairs]

    def read(self, values: Sequence[Any]) -> Request:
        """Return the form of the values of `every`; ValueError where they make none."""
        said = dict(zip(self.single, values, strict=False))
        said["guidance_interval"] = [said.pop("interval_low"), said.pop("interval_high")]
        for name in ("num_images", "seed", "num_steps"):
            if not isinstance(said[name], int | float) or int(said[name]) != said[name]:
                raise ValueError(f"{name} must be a whole number; got {said[name]}.")
            said[name] = int(said[name])
        rest, names = iter(values[len(self.single) :]), self.studio.pipe.reward_names
        for kind in self.levels:
            pairs = [(next(rest), next(rest)) for _ in names]
            bins = self.studio.num_bins
            levels = [snap(level, bins) if used else None for used, level in pairs]
            said[kind] = dict(zip(names, levels, strict=True))
        form = make_form(names, said, self.studio.most_images)
        self._check_reach(form)
        return form

    def write(self, form: Request) -> list[Any]:
        """Return the values of `every` for a form; ValueError for what no slider reaches."""
        self._check_reach(form)
        values = to_values(form)
        values["interval_low"], values["interval_high"] = values.pop("guidance_interval")
        out = [values[name] for name in self.single]
        for kind, usual in (("targets", 1.0), ("negative_targets", 0.0)):
            for name in self.studio.pipe.reward_names:
                level = values[kind][name]
                out += [level is not None, usual if level is None else round(level, 4)]
        return out

    def _check_reach(self, form: Request) -> None:
        steps, scale = _most(self.studio)
        asked = form.settings
        if asked.num_steps > steps or not 0 <= asked.guidance_scale <= scale:
            raise ValueError(
                f"the page draws up to {steps} steps at a guidance scale in 0..{scale:g}; "
                f"got {asked.num_steps} and {asked.guidance_scale:g}."
            )


def load_components() -> Any:
    """Import gradio, which takes seconds."""
    return gr.Blocks


def build_page(studio: Studio) -> Any:
    """Return the page of a studio, a `gradio.Blocks`."""
    with gr.Blocks(title="miro_jax demo", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_head(studio), padding=False)
        with gr.Row(elem_classes="layout"):
            with gr.Column(elem_classes="ask"):
                buttons = _ask(studio)
            with gr.Column(elem_classes="show"):
                outputs = _outputs(studio)
            with gr.Column(elem_classes="dials"):
                controls = _controls(studio, buttons)
        _connect(page, studio, controls, buttons, outputs)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


def launch(page: Any, host: str, port: int) -> None:
    """Serve a page from threads of its own."""
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", radius_size="md", font=_FONTS, font_mono=_MONO
    )
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=resources.files("miro_jax.demo").joinpath("style.css").read_text("utf-8"),
    )


def _head(studio: Studio) -> Markup:
    step = studio.pipe.trained.step
    facts = [studio.checkpoint, *([studio.variant] if studio.variant else [])]
    facts += [f"step {step:,}"] if step is not None else []
    facts.append(f"conditioned on {', '.join(studio.pipe.reward_names) or 'no rewards'}")
    return Markup('<header class="head"><h1>Turn the dials</h1><p>{}</p></header>').format(
        " · ".join(facts)
    )


def _ask(studio: Studio) -> dict[str, Any]:
    """Lay out prompt and buttons; returns them by name."""
    prompt = gr.Textbox(studio.examples[0], label="Prompt", max_lines=4, elem_id="prompt")
    gr.Examples([[text] for text in studio.examples], [prompt], label="Try")
    with gr.Row():
        draw = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Stop", interactive=False, elem_id="stop")
    return {"prompt": prompt, "draw": draw, "stop": stop}


def _most(studio: Studio) -> tuple[int, float]:
    """Return where the sliders of steps and scale end: no run or preset lies beyond."""
    forms = [to_values(studio.usual), *studio.presets.values()]
    return (
        max([MOST_STEPS, *(form.get("num_steps", 0) for form in forms)]),
        max([MOST_SCALE, *(form.get("guidance_scale", 0) for form in forms)]),
    )


def _controls(studio: Studio, buttons: dict[str, Any]) -> Controls:
    """Lay out the dials and how to sample; adds to the buttons."""
    usual = to_values(studio.usual)
    low, high = usual["guidance_interval"]
    names = ["", *studio.presets]
    buttons["preset"] = gr.Dropdown(names, value="", label="Preset", elem_id="preset")
    levels = {}
    with gr.Tabs():
        for kind, title in (("targets", "Targets"), ("negative_targets", "Negative targets")):
            with gr.Tab(title, elem_id=f"tab-{kind}"):
                rows = usual[kind].items()
                levels[kind] = [_row(studio, kind, name, level) for name, level in rows]
    with gr.Accordion("Sampling", open=True):
        with gr.Row():
            seed = gr.Number(usual["seed"], label="Seed", precision=0, minimum=0, elem_id="seed")
            buttons["dice"] = gr.Button("New", elem_id="dice", min_width=80, scale=0)
        most = studio.most_images
        images = gr.Slider(1, most, usual["num_images"], step=1, label="Images", elem_id="images")
        most = _most(studio)
        steps = gr.Slider(1, most[0], usual["num_steps"], step=1, label="Steps", elem_id="steps")
        scale = gr.Slider(
            0,
            most[1],
            usual["guidance_scale"],
            step=0.25,
            label="Guidance scale",
            elem_id="scale",
        )
    with gr.Accordion("More", open=False):
        begin = gr.Slider(0, 1, low, step=0.05, label="Guidance from time (0 is data)")
        end = gr.Slider(0, 1, high, step=0.05, label="Guidance to time (1 is noise)")
        rule = gr.Textbox(usual["guidance_rule"], label="Guidance rule: cfg, cfg_zero or apg")
        schedule = gr.Dropdown(
            list(SCHEDULES), value=usual["guidance_schedule"], label="Guidance over time"
        )
        solver = gr.Dropdown(list(SOLVERS), value=usual["solver"], label="Solver")
        negative = gr.Textbox(
            usual["negative_prompt"], label="Negative prompt: empty, same, or a text"
        )
    parts = (buttons["prompt"], images, seed, steps, scale, begin, end, rule, schedule)
    parts += (solver, negative)
    return Controls(studio, dict(zip(_SINGLE, parts, strict=True)), levels)


def _row(studio: Studio, kind: str, name: str, level: float | None) -> tuple[Any, Any]:
    """Lay out one reward: a box, whether it is conditioned on, and the slider of its level."""
    title = "target" if kind == "targets" else "negative target"
    value = float(kind == "targets") if level is None else round(level, 4)
    ident = f"{kind}-{name}"
    with gr.Row(elem_classes="reward"):
        used = gr.Checkbox(
            level is not None, label=name, container=False, scale=2, min_width=110,
            elem_id=f"on-{ident}",
        )  # fmt: skip
        slider = gr.Slider(
            0, 1, value, step=1 / max(studio.num_bins - 1, 1), label=f"{name} {title}",
            show_label=False, container=False, scale=5, min_width=150, elem_id=ident, precision=3,
        )  # fmt: skip
    return used, slider


def _outputs(studio: Studio) -> dict[str, Any]:
    """Lay out the right column; returns its components by name."""
    made = {"status": gr.HTML(figures.say("Ready."), elem_id="status", padding=False)}
    made["result"] = gr.HTML("", elem_id="result", padding=False)
    if studio.measures:
        gr.HTML(_LEGEND, padding=False)
    with gr.Row():
        made["pin"] = gr.Button("Compare with these settings", elem_id="pin")
        made["unpin"] = gr.Button("End the comparison", elem_id="unpin", interactive=False)
    # A hidden field and no gr.State: the link is made in the browser, which sees no state.
    made["pinned"] = gr.Textbox("", visible="hidden", elem_id="pinned")
    with gr.Accordion("Copy and restore", open=False, elem_id="copy"):
        with gr.Tab("Python"):
            made["python"] = _code("Draws the same images", "python")
        with gr.Tab("Command"):
            made["command"] = _code("Draws the same images into a folder", "command")
        with gr.Tab("Link", elem_id="tab-link"):
            made["link"] = _code("Opens the page with these settings", "link")
        with gr.Tab("JSON", elem_id="tab-json"):
            made["json"] = gr.Textbox(
                label="The settings; paste others and restore", lines=4, elem_id="json",
                buttons=["copy"],
            )  # fmt: skip
            made["restore"] = gr.Button("Restore", elem_id="restore")
    if studio.dials is not None:
        with gr.Accordion("Dial curves of this checkpoint", open=False, elem_id="curves"):
            gr.HTML(figures.show_dials(studio.dials), padding=False)
    return made


def _code(label: str, ident: str) -> Any:
    return gr.Textbox(label=label, lines=2, interactive=False, buttons=["copy"], elem_id=ident)


def _connect(
    page: Any, studio: Studio, controls: Controls, buttons: dict[str, Any], out: dict[str, Any]
) -> None:
    """Connect events; whatever is no drawing is answered at once, outside of the queue."""
    every, names = controls.every, studio.pipe.reward_names
    texts = [out["python"], out["command"], out["json"]]
    # `controls.read` checks all values; gradio's own checks end in a traceback.
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "preprocess": False}

    # Stop waits for the first answer: before it, the page cannot say what is to be stopped.
    going_on, idle = gr.update(interactive=True), gr.update(interactive=False)

    def draw(pinned: str, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        try:
            form = controls.read(values)
            for status, result in _draw(studio, form, pinned):
                yield status, result, going_on
            yield gr.skip(), gr.skip(), idle
        except MISTAKES as error:
            yield figures.say(str(error), error=True), gr.skip(), idle

    def write(*values: Any) -> list[Any]:
        try:
            form = controls.read(values)
        except MISTAKES:
            return ["", "", ""]
        where = studio.checkpoint, studio.variant, studio.usual, studio.loading
        return [to_python(form, *where), to_command(form, *where), write_json(form)]

    def choose(name: str, *values: Any) -> list[Any]:
        if name not in studio.presets:
            return [gr.skip()] * len(every)
        try:
            changed = to_values(controls.read(values)) | studio.presets[name]
            return controls.write(make_form(names, changed, studio.most_images))
        except MISTAKES:
            return [gr.skip()] * len(every)

    def restore(text: str) -> list[Any]:
        try:
            values = controls.write(read_json(text, names, studio.most_images))
        except MISTAKES as error:
            return [figures.say(str(error), error=True), *[gr.skip()] * len(every)]
        return [figures.say("Settings restored."), *values]

    def pin(*values: Any) -> list[Any]:
        try:
            text = write_json(controls.read(values))
        except MISTAKES as error:
            return [figures.say(str(error), error=True), "", gr.skip()]
        said = "Kept as A. Change something and generate: A and B start from the same noise."
        return [figures.say(said), text, gr.update(interactive=True)]

    def begin(request: gr.Request) -> list[Any]:
        asked = request.query_params
        first = figures.show_drawn(studio.first) if studio.first else ""
        if "settings" not in asked:
            return [gr.skip(), *[gr.skip()] * len(every), first, "", gr.skip()]
        status, *values = restore(asked["settings"])
        beside = asked.get("beside", "")
        try:
            beside = beside and write_json(read_json(beside, names, studio.most_images))
        except MISTAKES as error:
            status, beside = figures.say(str(error), error=True), ""
        return [status, *values, "", beside, gr.update(interactive=bool(beside))]

    going = gr.on(
        [buttons["draw"].click, controls.single["prompt"].submit],
        draw,
        [out["pinned"], *every],
        [out["status"], out["result"], buttons["stop"]],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=out["status"],
        concurrency_limit=1,
    )
    buttons["stop"].click(
        lambda: [figures.say("Stopped."), idle],
        None,
        [out["status"], buttons["stop"]],
        cancels=[going],
        **quick,
    )
    link = {"fn": None, "inputs": [out["json"], out["pinned"]], "outputs": out["link"]}
    gr.on([part.change for part in every], write, every, texts, trigger_mode="always_last", **quick)
    gr.on([out["json"].change, out["pinned"].change], js=_LINK, **link, **quick)
    buttons["preset"].input(choose, [buttons["preset"], *every], every, **quick)
    buttons["dice"].click(None, None, controls.single["seed"], js=_SEED, **quick)
    out["restore"].click(restore, out["json"], [out["status"], *every], **quick)
    out["pin"].click(pin, every, [out["status"], out["pinned"], out["unpin"]], **quick)
    unpin = [out["status"], out["pinned"], out["unpin"]]
    out["unpin"].click(
        lambda: [figures.say("Ready."), "", gr.update(interactive=False)], None, unpin, **quick
    )
    shown = [out["status"], *every, out["result"], out["pinned"], out["unpin"]]
    page.load(begin, None, shown, **quick).then(write, every, texts, **quick)


def _draw(studio: Studio, form: Request, pinned: str) -> Iterator[tuple[Any, Any]]:
    """Yield (status, result) while a form is drawn, and what it is compared with before it."""
    forms = [form]
    if pinned:
        # The same noise: that of now, for both.
        same = {"seed": form.seed, "num_images": form.num_images}
        values = to_values(read_json(pinned, studio.pipe.reward_names, studio.most_images)) | same
        forms = [make_form(studio.pipe.reward_names, values, studio.most_images), form]
    done, seconds = [], 0.0
    titles = ("A, kept", "B, now") if pinned else ("",)
    for one, title in zip(forms, titles, strict=True):
        for shown in studio.draw(one):
            if isinstance(shown, Frame):
                status = figures.show_progress(shown)
                part = figures.show_frame(shown, one, title) if shown.images is not None else None
                yield status, gr.skip() if part is None else _pair([*done, part])
            else:
                done.append(figures.show_drawn(shown, title))
                seconds += shown.seconds
    count = sum(one.num_images for one in forms)
    said = f"{counted(count, 'image')} in {seconds:.2f} s"
    yield figures.say(said), _pair(done)


def _pair(parts: Sequence[Markup]) -> Markup:
    return (
        Markup('<div class="pair">{}</div>').format(Markup("").join(parts))
        if parts[1:]
        else parts[0]
    )
