"""What all pages share: templates with autoescape, filters, and the numbers at their top.

A page is one HTML file that needs nothing but itself: images are data URIs, the style sheet is
inlined, there is no script, so it works offline and in mail.
"""

import base64
import dataclasses
import functools
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from miro_jax.data.printable import counted


@dataclasses.dataclass(frozen=True)
class Tile:
    """One large number at the top of a page. what: it is. note: in small print."""

    value: str
    what: str
    note: str = ""


def render(template: str, **values: Any) -> bytes:
    """Return the file of a page.

    Args:
      template: name of a file in `templates`.
      **values: what it reads; a missing one is an error. Strings are escaped, `Markup` is not.
    """
    return _environment().get_template(template).render(**values).encode("utf-8")


def draw(macro: str, *values: Any) -> Markup:
    """Return what a macro of `templates/svg.html` draws."""
    return getattr(_environment().get_template("svg.html").module, macro)(*values)


@functools.cache
def style() -> Markup:
    """Return the style sheet of all pages and charts, to be inlined."""
    return Markup(resources.files("miro_jax.report").joinpath("style.css").read_text("utf-8"))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("miro_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "percent": percent,
        "images": functools.partial(counted, noun="image"),
        "signed": signed,
        "data_uri": data_uri,
        "px": lambda value: f"{value:.1f}",
    }
    environment.globals["style"] = style()
    return environment


def format_number(value: float) -> str:
    """Write a number as short as a tick or a table allows: 0.25, 12, 1.5k, 2M, 3e-5."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    text = f"{value:.0e}".replace("e-0", "e-") if size < 1e-3 else f"{value:.4g}"
    for limit, scale, unit in ((1e4, 1e3, "k"), (1e6, 1e6, "M"), (1e9, 1e9, "G")):
        if size >= limit:
            text = f"{value / scale:.3g}{unit}"
    return text.replace("-", "\N{MINUS SIGN}")


def percent(value: float) -> str:
    """Write a share as a whole percentage."""
    return f"{100 * value:.0f}\N{NARROW NO-BREAK SPACE}%"


def signed(value: float | None, form: str = "+.2f") -> str:
    """Write a number with a true minus, and no sign before a rounded zero."""
    if value is None:
        return "undefined"
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def data_uri(image: bytes) -> Markup:
    """Return a PNG, WebP or JPEG file as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "webp" if image[8:12] == b"WEBP" else "jpeg"
    return Markup(f"data:image/{kind};base64,") + base64.b64encode(image).decode("ascii")
