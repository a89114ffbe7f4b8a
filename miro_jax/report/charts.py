"""Line and point charts as inline SVG: no script, no font, no colour of their own.

Colours, strokes and text sizes are classes of `style.css`, so that charts turn dark with the page.
A chart is a plot area with axes; data are drawn on it in data units; `templates/svg.html` has the
elements.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from miro_jax.report import page

_ROOM = {"left": 44, "right": 12, "top": 26, "bottom": 36}  # around the plot area, in SVG units


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


def fit_axis(
    values: Iterable[float],
    label: str,
    log: bool = False,
    zero: bool = False,
    most: float | None = None,
) -> Axis:
    """Return an axis with round ticks that holds all finite values.

    Args:
      values: data; on a logarithmic axis those above 0 count.
      label: see `Axis`.
      log: logarithmic.
      zero: the axis starts at 0, if no value is below.
      most: of a share, 1 or 100 %: the axis of equal shares goes from 0 to this, not beyond it.
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
        low, high = (low, high) if most is None else (0.0, most)
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


class Chart:
    """A plot area with axes, and what is drawn on it.

    Args:
      x, y: axes. width, height: of the whole image in SVG units; it scales with the page.
    """

    def __init__(self, x: Axis, y: Axis, width: int = 420, height: int = 250):
        self.x, self.y, self.width, self.height = x, y, width, height
        self.marks: list[dict[str, Any]] = []  # in SVG units, see `chart` of svg.html

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return SVG coordinates of a point in data units."""
        across = self.width - _ROOM["left"] - _ROOM["right"]
        up = self.height - _ROOM["top"] - _ROOM["bottom"]
        x, y = self.x.position(x), self.y.position(y)
        return _ROOM["left"] + across * x, _ROOM["top"] + up * (1 - y)

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> None:
        """Draw a line through points; those that the axis cannot show are dropped.

        Args:
          kind: class of the style sheet, as "raw", "series a", "ideal".
        """
        pairs = zip(xs, ys, strict=True)
        shown = [(x, y) for x, y in pairs if math.isfinite(y) and (y > 0 or not self.y.log)]
        if shown:
            self.marks.append(
                {"shape": "line", "kind": kind, "points": [self.at(*p) for p in shown]}
            )

    def level(self, y: float, kind: str) -> None:
        """Draw a horizontal line over the whole width."""
        if self.y.low <= y <= self.y.high:
            self.line([self.x.low, self.x.high], [y, y], kind)

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
          marker: "disc", "box", "diamond" or "triangle".
        """
        for position, value, title in zip(xs, values, titles, strict=True):
            x, y = self.at(position, value.get("mean", value.get("accuracy")))
            low, high = (self.at(position, value[end])[1] for end in ("low", "high"))
            place = {"x": x + shift, "y": y, "low": low, "high": high}
            self.marks.append({"shape": marker, "kind": kind, "title": title, **place})

    def bars(self, edges: Sequence[float], heights: Sequence[float]) -> None:
        """Draw a bar from 0 between each two edges that follow each other."""
        for start, end, value in zip(edges[:-1], edges[1:], heights, strict=True):
            (x, bottom), (right, y) = self.at(start, self.y.low), self.at(end, value)
            size = {"width": max(right - x - 0.5, 0.5), "height": bottom - y}
            self.marks.append({"shape": "bar", "x": x, "y": y, **size})

    def arrow(self, y: float, start: float, end: float) -> None:
        """Draw a horizontal arrow between two positions, in data units."""
        (x, level), (tip, _) = self.at(start, y), self.at(end, y)
        side = 6 if tip > x else -6
        self.marks.append({"shape": "arrow", "x": x, "tip": tip, "y": level, "side": side})

    def svg(self, alt: str) -> Markup:
        """Return the whole chart as an SVG element.

        Args:
          alt: what the chart shows, in words, for those who cannot see it.
        """
        return page.draw("chart", self, _ROOM, alt)


def histogram(
    name: str, facts: Mapping, x_label: str, width: int = 420, height: int = 230
) -> Markup:
    """Draw what `statistics.describe` returns: bars, median (solid), 5th and 95th percentile."""
    counts, edges = facts["histogram"]["counts"], facts["histogram"]["edges"]
    chart = Chart(fit_axis(edges, x_label), fit_axis(counts, "images", zero=True), width, height)
    chart.bars(edges, counts)
    for percentile, kind in (("5", "side"), ("50", "middle"), ("95", "side")):
        chart.line([facts["percentiles"][percentile]] * 2, [chart.y.low, chart.y.high], kind)
    mean, std = page.format_number(facts["mean"]), page.format_number(facts["std"])
    return chart.svg(f"{name}: {facts['count']} scores, mean {mean}, standard deviation {std}")


def file_style() -> Markup:
    """Return the rules for charts in light colours: viewers of SVG files know no variables."""
    sheet = page.style()
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
    columns = min(columns, max(len(panels), 1))
    return page.draw("file", title, panels, file_style(), 24, 46, columns, width, height)


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
