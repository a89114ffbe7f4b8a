"""Line and point charts as inline SVG: no script, no font, no colour of their own.

Colours, strokes and text sizes are classes of `style.css`, so that charts turn dark with the page.
A chart is a plot area with axes; data are drawn on it in data units. Texts are escaped by `Markup`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 26, 36  # room around the plot area, in SVG units


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its range in data units, where its ticks are, and what it shows.

    Attributes:
      low, high: ends, low < high; both above 0 if `log`.
      ticks: data values. label: quantity, with its unit if it has one. log: logarithmic.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    label: str
    log: bool = False

    def position(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def fit_axis(values: Iterable[float], label: str, log: bool = False, zero: bool = False) -> Axis:
    """Return an axis with round ticks that holds all finite values.

    Args:
      values: data; on a logarithmic axis those above 0 count.
      label: see `Axis`.
      log: logarithmic.
      zero: the axis starts at 0, if no value is below.
    """
    finite = [float(v) for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
        steps = (1, 2, 5) if len(decades) < 6 else (1,)
        every = [m * 10.0**d for d in decades for m in steps]
        start = max(t for t in every if t <= low)
        end = min(t for t in every if t >= high and t > start)
        return Axis(start, end, tuple(t for t in every if start <= t <= end), label, True)
    if zero and low >= 0:
        low = 0.0
    if high - low < 1e-9 * max(abs(high), 1e-3):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    step = _round_step((high - low) / 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    ticks = tuple(low + step * i for i in range(round((high - low) / step) + 1))
    return Axis(low, high, ticks, label)


def unit_axis(label: str) -> Axis:
    """Return an axis from 0 to 1 with some room at its ends, for points that stand there."""
    return Axis(-0.04, 1.04, (0.0, 0.25, 0.5, 0.75, 1.0), label)


def _round_step(raw: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def format_number(value: float) -> str:
    """Write a number as short as a tick or a table allows: 0.25, 12, 1.5k, 2M, 3e-5."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}".replace(
                "-", "\N{MINUS SIGN}"
            )
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


class Chart:
    """A plot area with axes, and what is drawn on it.

    Args:
      x, y: axes. width, height: of the whole image in SVG units; it scales with the page.
    """

    def __init__(self, x: Axis, y: Axis, width: int = 420, height: int = 250):
        self.x, self.y, self.width, self.height = x, y, width, height
        self._marks: list[Markup] = []

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Return SVG coordinates of a point in data units."""
        across = self.width - _LEFT - _RIGHT
        up = self.height - _TOP - _BOTTOM
        return _LEFT + across * self.x.position(x), _TOP + up * (1 - self.y.position(y))

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> None:
        """Draw a line through points; those that the axis cannot show are dropped.

        Args:
          kind: class of the style sheet, as "raw", "series a", "ideal".
        """
        pairs = zip(xs, ys, strict=True)
        shown = [(x, y) for x, y in pairs if math.isfinite(y) and (y > 0 or not self.y.log)]
        points = " ".join("{:.1f},{:.1f}".format(*self._at(x, y)) for x, y in shown)
        if points:
            self._marks.append(Markup('<polyline class="{}" points="{}"/>').format(kind, points))

    def level(self, y: float, kind: str) -> None:
        """Draw a horizontal line over the whole width."""
        if self.y.low <= y <= self.y.high:
            self.line([self.x.low, self.x.high], [y, y], kind)

    def mark(self, x: float, kind: str) -> None:
        """Draw a vertical line over the whole height."""
        self.line([x, x], [self.y.low, self.y.high], kind)

    def points(
        self,
        xs: Sequence[float],
        values: Sequence[Mapping[str, Any]],
        kind: str,
        titles: Sequence[str],
        shift: float = 0.0,
        marker: str = "disc",
    ) -> None:
        """Draw points with interval bars.

        Args:
          xs: positions.
          values: for each mean (or accuracy), low, high.
          kind: class of the style sheet.
          titles: what a pointer resting on a point shows.
          shift: SVG units to the right, so that two series do not hide each other.
          marker: "disc" or "box".
        """
        for x, value, title in zip(xs, values, titles, strict=True):
            px, py = self._at(x, value.get("mean", value.get("accuracy")))
            (_, low), (_, high) = self._at(x, value["low"]), self._at(x, value["high"])
            px += shift
            self._marks.append(
                Markup(
                    '<g class="point {}"><title>{}</title>'
                    '<line x1="{px:.1f}" y1="{low:.1f}" x2="{px:.1f}" y2="{high:.1f}"/>{}</g>'
                ).format(kind, title, draw_marker(px, py, marker), px=px, low=low, high=high)
            )

    def bars(self, edges: Sequence[float], heights: Sequence[float]) -> None:
        """Draw a bar from 0 between each two edges that follow each other."""
        for low, high, height in zip(edges[:-1], edges[1:], heights, strict=True):
            (left, bottom), (right, top) = self._at(low, self.y.low), self._at(high, height)
            self._marks.append(
                Markup(
                    '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
                ).format(left, top, max(right - left - 0.5, 0.5), bottom - top)
            )

    def svg(self, alt: str) -> Markup:
        """Return the whole chart as an SVG element.

        Args:
          alt: what the chart shows, in words, for those who cannot see it.
        """
        left, right = _LEFT, self.width - _RIGHT
        bottom = self.height - _BOTTOM
        parts = []
        for tick in self.y.ticks:
            _, py = self._at(self.x.low, tick)
            parts.append(
                Markup(
                    '<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
                    '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
                ).format(left - 7, py + 4, format_number(tick), left=left, right=right, y=py)
            )
        for tick in self.x.ticks:
            px, _ = self._at(tick, self.y.low)
            parts.append(
                Markup(
                    '<line class="tick" x1="{x:.1f}" y1="{}" x2="{x:.1f}" y2="{}"/>'
                    '<text x="{x:.1f}" y="{}" text-anchor="middle">{}</text>'
                ).format(bottom, bottom + 4, bottom + 17, format_number(tick), x=px)
            )
        parts.append(
            Markup(
                '<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
                '<text class="label" x="2" y="13">{}</text>'
                '<text class="label" x="{right}" y="{}" text-anchor="end">{}</text>'
            ).format(
                self.y.label, self.height - 3, self.x.label, left=left, right=right, bottom=bottom
            )
        )
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        ).format(self.width, self.height, alt, Markup("").join([*parts, *self._marks]))


def draw_marker(x: float, y: float, marker: str) -> Markup:
    """Return a "disc" or a "box" around a point in SVG units."""
    if marker == "disc":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>').format(x, y)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="8" height="8"/>').format(x - 4, y - 4)


def histogram(
    facts: Mapping, x_label: str, y_label: str = "images", width: int = 420, height: int = 230
) -> Chart:
    """Draw what `statistics.describe` returns: bars, median (solid), 5th and 95th percentile."""
    counts, edges = facts["histogram"]["counts"], facts["histogram"]["edges"]
    chart = Chart(fit_axis(edges, x_label), fit_axis(counts, y_label, zero=True), width, height)
    chart.bars(edges, counts)
    for percentile, kind in (("5", "side"), ("50", "middle"), ("95", "side")):
        chart.mark(facts["percentiles"][percentile], kind)
    return chart


@functools.cache
def style() -> Markup:
    """Return the style sheet of all pages and charts, to be inlined."""
    return Markup(resources.files("miro_jax.report").joinpath("style.css").read_text("utf-8"))


def _file_style() -> Markup:
    """Return the rules for charts in light colours: viewers of SVG files know no variables."""
    sheet = style()
    colors = dict(re.findall(r"--([\w-]+): ([^;]+);", sheet.partition("@media")[0]))
    rules = "\n".join(re.findall(r"^svg[^{]*\{[^}]*\}", sheet, re.MULTILINE))
    return Markup(re.sub(r"var\(--([\w-]+)\)", lambda match: colors[match[1]], rules))


def svg_file(
    title: str, panels: Sequence[Markup], width: int, height: int, columns: int = 2
) -> str:
    """Return an SVG file of its own with charts side by side below a title.

    Args:
      panels: charts or SVG texts. width, height: of each, in SVG units. columns: at most.
    """
    gap, top = 24, 46
    columns = min(columns, max(len(panels), 1))
    whole = (columns * (width + gap) + gap, top + -(-len(panels) // columns) * (height + gap))
    placed = [
        Markup('<svg x="{}" y="{}" width="{}" height="{}">{}</svg>').format(
            gap + number % columns * (width + gap),
            top + number // columns * (height + gap),
            *(width, height, panel),
        )
        for number, panel in enumerate(panels)
    ]
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="file" width="{w}" height="{h}" '
        'viewBox="0 0 {w} {h}"><style>{}</style><rect class="paper" width="{w}" height="{h}"/>'
        '<text class="heading" x="{}" y="28">{}</text>{}</svg>\n'
    ).format(_file_style(), gap, title, Markup("").join(placed), w=whole[0], h=whole[1])


def thin(xs: Sequence[float], ys: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Return at most `most` points: means of neighbours, so that a long run stays a small page."""
    size = -(-len(xs) // most)
    groups = [slice(i, i + size) for i in range(0, len(xs), size)]
    return [_mean(xs[g]) for g in groups], [_mean(ys[g]) for g in groups]


def smooth(ys: Sequence[float], width: int) -> list[float]:
    """Return the mean over `width` neighbours around each value (fewer at the ends)."""
    half = width // 2
    return [_mean(ys[max(0, i - half) : i + half + 1]) for i in range(len(ys))]


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan
