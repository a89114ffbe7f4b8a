"""Radars: rewards, GenEval by category, both with synthetic captions.

The radius is the paper's, r = 5 (v - low) / (high - low) with its published ends: a value above is
drawn outside of the ring, at r = 5.3 where it is farther; one below at the centre, not on the
opposite axis; all with a warning.
`--ends=data` takes the ends of the shown models. An axis states its ends; the area has no meaning
and is not reported.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from miro_jax.evaluate.plots import facts
from miro_jax.evaluate.plots.facts import Source, measure
from miro_jax.evaluate.plots.figure import KINDS, MARKERS, Figure, Panel, legend_of
from miro_jax.report.page import format_number
from miro_jax.report.radar import INNER, Spoke, radar

PUBLISHED, DATA = "published", "data"
ENDS = (PUBLISHED, DATA)
_FARTHEST = 1.06  # radius where the outer ring has 1; labels begin beyond
# ends -> radii of both rings, and what they are
_RINGS = {
    PUBLISHED: (
        (0.2, 1.0),  # the first and the fifth
        "those of the paper, or of the shown models where it has none; the inner ring: a fifth",
    ),
    DATA: ((INNER, 1.0), "so that the worst model is on the inner ring and the best on the outer"),
}
# model -> axis -> value, low, high
Models = dict[str, dict[str, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """What one radar shows. axes: in order. models: in order of the legend."""

    heading: str
    axes: tuple[str, ...]
    models: Models


def rewards(sources: Sequence[Source], chosen: Sequence[str] = (), ends: str = PUBLISHED) -> Figure:
    """Draw rewards of models. chosen: models, in order; see `_choose`."""
    table = _read(sources, "radar", "rewards", chosen)
    return _figure("radar", "Rewards", [table], ends)


def geneval(sources: Sequence[Source], chosen: Sequence[str] = (), ends: str = PUBLISHED) -> Figure:
    """Draw the categories of GenEval of models."""
    table = _read(sources, "geneval", "GenEval by category", chosen)
    return _figure("geneval", "GenEval", [table], ends)


def synthetic(
    sources: Sequence[Source], chosen: Sequence[str] = (), ends: str = PUBLISHED
) -> Figure:
    """Draw both radars for models trained on real and on synthetic captions.

    Of numbers and evaluations together the last models of the numbers, of synthetic captions, stay.
    """
    parts = [source.section("synthetic.rewards") for source in sources]
    known = [name for part in parts if part for name in part["models"]]
    own = [source.label for source in sources if source.evaluations]
    if known and own and not chosen:
        chosen = [*known, *own][-len(KINDS) :]
    sections = ("synthetic.rewards", "synthetic.geneval") if known else ("radar", "geneval")
    headings = ("rewards", "GenEval by category")
    tables = [_read(sources, *pair, chosen) for pair in zip(sections, headings, strict=True)]
    return _figure("synthetic", "Synthetic captions", tables, ends)


def _points(row: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {axis: dict.fromkeys(("mean", "low", "high"), value) for axis, value in row.items()}


def _choose(models: Models, chosen: Sequence[str], own: Sequence[str] = ()) -> Models:
    """Return the chosen models in their order; or all, of too many the first and `own`.

    Raises:
      ValueError: one of them is not there.
    """
    if not chosen:
        first = [name for name in ("baseline", "MIRO") if name in models]
        named = dict.fromkeys((*first, *own))
        chosen = [*first, *(name for name in models if name not in first)]
        if len(models) > len(KINDS):
            chosen = list(named) or chosen[:2]
    if unknown := [name for name in chosen if name not in models]:
        raise ValueError(f"models must be of {', '.join(models)}; got {', '.join(unknown)}.")
    return {name: models[name] for name in chosen}


def _read(sources: Sequence[Source], section: str, heading: str, chosen: Sequence[str]) -> Table:
    models: Models = {}
    axes: list[str] = []
    facts.check_alike([one for source in sources for one in source.evaluations])
    facts.check_labels(sources, section)
    for source in sources:
        if found := source.section(section):
            axes += found["axes"]
            models |= {model: _points(row) for model, row in found["models"].items()}
        if source.evaluations:
            names = dict.fromkeys(name for one in source.latest for name in facts.values(one))
            benchmarks = [one.manifest["benchmark"] for one in source.latest]
            tags = {tag for one in benchmarks if one.get("score") for tag in one["tags"]}
            scores = {facts.suite_of(one).partition("@")[0] for one in source.latest}
            rewards = [name for name in names if name not in tags | scores]
            if section.endswith("geneval"):
                _check_geneval(sources, section, source)
            own = (
                [name for name in names if name in tags] if section.endswith("geneval") else rewards
            )
            found = {name: facts.value_of(name, source, sources) for name in own}
            models[source.label] = {name: one for name, one in found.items() if one is not None}
            axes += models[source.label]
    shown = _choose(models, chosen, [one.label for one in sources if one.evaluations])
    names = [a for a in dict.fromkeys(axes) if all(a in row for row in shown.values())]
    if len(names) < 3:
        raise ValueError(
            f"a radar needs three measures that all models have; {', '.join(shown) or 'none'} "
            f"share {', '.join(names) or 'none'}. Evaluate them with the same rewards."
        )
    return Table(heading, tuple(names), shown)


def _check_geneval(sources: Sequence[Source], section: str, source: Source) -> None:
    """Raise ValueError where categories of another suite would stand beside GenEval's numbers."""
    others = [
        facts.suite_of(one)
        for one in source.latest
        if one.manifest["benchmark"].get("score") and not facts.suite_of(one).startswith("geneval@")
    ]
    known = [one.label for one in sources if one.section(section)]
    if others and known:
        raise ValueError(
            f"categories on one axis must be of one suite; those of {known[0]} are of GenEval, "
            f"{source.label} has those of {', '.join(others)}. Give evaluations by --suite=geneval."
        )


def _spoke(table: Table, axis: str, ends: str) -> Spoke:
    ring = measure(axis).ring
    if ends == DATA or ring is None:
        values = [row[axis]["mean"] for row in table.models.values()]
        low, high = min(values), max(values)
        room = (high - low) or abs(high) or 1.0
        # The worst model stands on the inner ring, the best on the outer one.
        return Spoke(axis, low - INNER * room / (1 - INNER), low + room)
    return Spoke(axis, *ring)


def _write_ends(low: float, high: float) -> list[str]:
    """Write both ends of an axis, with as many digits as tell them apart."""
    text = [format_number(end) for end in (low, high)]
    for digits in range(5, 17):
        if text[0] != text[1]:
            break
        text = [f"{end:.{digits}g}" for end in (low, high)]
    return text


def _figure(kind: str, title: str, tables: Sequence[Table], ends: str) -> Figure:
    models = list(dict.fromkeys(model for table in tables for model in table.models))
    legend, kinds = legend_of(models)
    panels, rows, warnings, numbers = [], [], [], {}
    rings, how = _RINGS[ends]
    for table in tables:
        spokes = [_spoke(table, axis, ends) for axis in table.axes]
        lines = {
            f"series {kinds[model]}": [
                min(max(s.radius(row[s.name]["mean"]), 0), _FARTHEST) for s in spokes
            ]
            for model, row in table.models.items()
        }
        for model, row in table.models.items():
            for spoke in spokes:
                value, radius = row[spoke.name], spoke.radius(row[spoke.name]["mean"])
                point = {"panel": table.heading, "series": model, "x": spoke.name}
                rows.append(point | value | {"r": 5 * radius})
                if not 0 <= radius <= 1:
                    far = "there" if radius <= _FARTHEST else f"at r = {5 * _FARTHEST:g}"
                    where = far if radius > 1 else "at the centre"
                    warnings.append(
                        f"{measure(spoke.name).label} of {model}, {value['mean']:.5g}, lies "
                        f"outside of the axis {spoke.low:g} to {spoke.high:g} "
                        f"(r = {5 * radius:.2f}); it is drawn {where}."
                    )
        names = [
            f"{measure(s.name).label}\n({' to '.join(_write_ends(s.low, s.high))})" for s in spokes
        ]
        alt = "; ".join(
            f"{model}: " + ", ".join(f"{a} {row[a]['mean']:.4g}" for a in table.axes)
            for model, row in table.models.items()
        )
        markers = {f"series {kind}": shape for kind, shape in MARKERS.items()}
        drawing = radar(names, lines, f"Radar of {table.heading}. {alt}.", rings, markers)
        panels.append(Panel(table.heading, drawing))
        numbers[table.heading] = {
            "axes": {s.name: [s.low, s.high] for s in spokes},
            "models": {
                m: {a: v["mean"] for a, v in row.items()} for m, row in table.models.items()
            },
        }
    return Figure(
        kind,
        f"{title}: {' and '.join(models) if len(models) < 3 else 'models beside each other'}",
        f"Each axis runs from the centre to the outer ring between the ends in brackets, {how}. "
        "Further out is better. Areas have no meaning.",
        panels,
        legend,
        rows,
        numbers,
        tuple(warnings),
        width=560,
        height=340,
        columns=2,
    )
