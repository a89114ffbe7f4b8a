"""What was drawn, as HTML: images with measured levels beside the requested ones; dial curves."""

import io
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from miro_jax.demo.studio import Drawn, Frame
from miro_jax.report.charts import svg_file
from miro_jax.report.page import data_uri
from miro_jax.report.results import Dials
from miro_jax.report.sections import dial_chart
from miro_jax.sample.request import Request

SMALL = 128  # pixels of a side up to which an image is shown with sharp pixels


def show_frame(frame: Frame, form: Request, title: str = "") -> Markup:
    """Return the images of a drawing that goes on, where `show_drawn` will have them."""
    images = () if frame.images is None else frame.images
    return _section(
        form, title, _grid([_picture(image, "being drawn", "webp") for image in images])
    )


def show_progress(frame: Frame) -> Markup:
    """Return a bar and words for the steps done."""
    return Markup(
        '<div class="status" role="status"><progress value="{}" max="{}"></progress>'
        "step {} of {}</div>"
    ).format(frame.step, frame.num_steps, frame.step, frame.num_steps)


def say(text: str, error: bool = False) -> Markup:
    """Return a message; an error is announced."""
    kind, role = ("status error", "alert") if error else ("status", "status")
    return Markup('<div class="{}" role="{}">{}</div>').format(kind, role, text)


def show_drawn(drawn: Drawn, title: str = "") -> Markup:
    """Return images with the requested and the measured level of each reward below each."""
    (prompt,) = drawn.form.prompts
    requested = drawn.form.positive(prompt)
    cells = []
    for n, image in enumerate(drawn.images):
        rows = Markup("").join(_bar(drawn, name, n, requested.get(name)) for name in drawn.scores)
        bars = Markup('<table class="bars"><tbody>{}</tbody></table>').format(rows) if rows else ""
        cells.append(_picture(image, f"{prompt.text}, image {n + 1}") + bars)
    return _section(drawn.form, title, _grid(cells) + _summary(drawn, requested), drawn.notes)


def _section(form: Request, title: str, content: Markup, notes: Sequence[str] = ()) -> Markup:
    heading = Markup("<h3>{}</h3>").format(title) if title else Markup("")
    words = Markup('<p class="quiet">{}</p>').format(Markup("<br>").join([describe(form), *notes]))
    return Markup('<section class="drawn">{}{}{}</section>').format(heading, words, content)


def describe(form: Request) -> str:
    """Return a form in words: how it is sampled, and the levels that are not the usual ones."""
    (prompt,) = form.prompts
    words = [f"seed {form.seed}", form.settings.describe()]
    pairs = (("", form.positive(prompt), 1.0), ("negative ", form.negative(prompt), 0.0))
    for kind, targets, usual in pairs:
        for name, level in targets.items():
            if level != usual:
                words.append(
                    f"{kind}{name} {'not conditioned' if level is None else f'{level:.2f}'}"
                )
    return " · ".join(words)


def _grid(cells: Sequence[Markup]) -> Markup:
    figures = Markup("").join(Markup("<figure>{}</figure>").format(cell) for cell in cells)
    return Markup('<div class="images">{}</div>').format(figures)


def _picture(image: np.ndarray, alt: str, kind: str = "png") -> Markup:
    sharp = "sharp" if max(image.shape[:2]) <= SMALL else ""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    uri = data_uri(file.getvalue())
    return Markup('<img class="{}" alt="{}" src="{}">').format(sharp, alt, uri)


def _bar(drawn: Drawn, name: str, row: int, requested: float | None) -> Markup:
    """Return the row of one reward: its bar from 0 to 1, a mark where it was requested, a score."""
    score = drawn.scores[name][row]
    text = f"{name}: score {score:.3f}"
    track = Markup("")
    if name in drawn.levels:
        level = drawn.levels[name][row]
        text += f", level {level:.2f}"
        track = Markup('<i style="width:{:.1f}%"></i>').format(100 * level)
        if requested is not None:
            text += f", requested {requested:.2f}"
            track += Markup('<b style="left:{:.1f}%"></b>').format(100 * requested)
    number = f"{drawn.levels[name][row]:.2f}" if name in drawn.levels else f"{score:.3f}"
    return Markup(
        '<tr title="{}"><th scope="row">{}</th><td><span class="track">{}</span></td>'
        "<td>{}</td></tr>"
    ).format(text, name, track, number)


def _summary(drawn: Drawn, requested: dict[str, float | None]) -> Markup:
    """Return the table of means over the images."""
    if not drawn.scores:
        return Markup("")
    rows = Markup("")
    for name, scores in drawn.scores.items():
        level = requested.get(name)
        wanted = "–" if level is None else f"{level:.2f}"
        achieved = f"{np.mean(drawn.levels[name]):.2f}" if name in drawn.levels else "–"
        rows += Markup(
            '<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td>{:.3f}</td></tr>'
        ).format(name, wanted, achieved, np.mean(scores))
    return Markup(
        '<details class="means"><summary>Means over the images</summary><table><thead><tr>'
        '<th scope="col">reward</th><th scope="col">requested</th><th scope="col">achieved</th>'
        '<th scope="col">score</th></tr></thead><tbody>{}</tbody></table></details>'
    ).format(rows)


def show_dials(dials: Dials) -> Markup:
    """Return the dial curves of an evaluation, each an image of its own style."""
    pictures = Markup("")
    for name in dials.cross["asked"]:
        text = svg_file(name, [dial_chart(dials, name)], 260, 250, 1)
        pictures += Markup('<img alt="Dial of {}" src="data:image/svg+xml,{}">').format(
            name, quote(text)
        )
    return Markup('<div class="curves">{}</div>').format(pictures)
