"""Radars: one axis a measure, its ends stated, nothing clipped. The area has no meaning."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from miro_jax.report import page

INNER = 0.25  # radius of the worst of an axis where the best has 1
CENTRE, RADIUS, _LINE = (230, 140), 110, 14  # SVG units
_WIDE, _LETTER = 460, 6.0  # of the drawing, and of a letter of a label on average


@dataclasses.dataclass(frozen=True)
class Spoke:
    """An axis of a radar. low, high: its values at the centre and at the outer ring."""

    name: str
    low: float
    high: float

    def radius(self, value: float) -> float:
        """Return r / 5 with the paper's r = 5 (v - low) / (high - low), not clipped."""
        return (value - self.low) / (self.high - self.low)


def radar(
    names: Sequence[str],
    lines: Mapping[str, Sequence[float]],
    alt: str,
    rings: Sequence[float] = (INNER, 1.0),
    markers: Mapping[str, str] | None = None,
) -> Markup:
    """Draw a radar.

    Args:
      names: of the axes, clockwise from the top; may have several lines.
      lines: class of the style sheet -> a radius for each axis, 1 at the outer ring.
      alt: what it shows, in words.
      rings: radii that are drawn. markers: class -> marker of its corners, see `Chart.points`.
    """
    angles = [2 * math.pi * i / len(names) for i in range(len(names))]

    def at(radius: float, angle: float) -> tuple[float, float]:
        (x, y), r = CENTRE, RADIUS * radius
        return x + r * math.sin(angle), y - r * math.cos(angle)

    circles = [[at(r, a) for a in angles] for r in rings]
    shapes = {k: [at(*p) for p in zip(row, angles, strict=True)] for k, row in lines.items()}
    labels = []
    for name, angle in zip(names, angles, strict=True):
        across = math.sin(angle)
        anchor = "middle" if abs(across) < 0.2 else "start" if across > 0 else "end"
        x, y = at(1.12, angle)
        room = 2 * min(x, _WIDE - x) if anchor == "middle" else x if anchor == "end" else _WIDE - x
        texts = [t for line in name.replace("_", " ").split("\n") for t in _fold(line, room)]
        up = _LINE * (len(texts) - 1) * (1 + math.cos(angle)) / 2  # away from the outer ring
        labels += [(text, x, y - up + _LINE * i, anchor) for i, text in enumerate(texts)]
    ends = [at(1.0, a) for a in angles]
    return page.draw("radar", circles, ends, shapes, labels, alt, markers or {})


def _fold(text: str, room: float) -> list[str]:
    """Return a label as lines that fit, broken before a version, such as that of an own reward."""
    most = int(room / _LETTER)
    if len(text) <= most:
        return [text]
    name, at, version = text.partition("@")
    return [*textwrap.wrap(name, most), *textwrap.wrap(at + version, most)]
