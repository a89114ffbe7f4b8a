"""Bars against other models, with the convention by which operations are counted.

The paper's 4.16 TFLOP of an image are multiply-adds of one branch in 50 steps: one call of its
network takes 83.8 G of them. Counted as two operations each, in both branches of guidance, an image
takes 16.8 TFLOP.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.evaluate.plots import facts
from miro_jax.evaluate.plots.facts import Source
from miro_jax.evaluate.plots.figure import Figure, Panel
from miro_jax.report import page
from miro_jax.report.page import format_number

MULTIPLY_ADDS, STEPS, BRANCHES, OPERATIONS = 83.8e9, 50, 2, 2
OWN_TFLOP = MULTIPLY_ADDS * STEPS * BRANCHES * OPERATIONS / 1e12
CONVENTION = (
    "TFLOP as the paper prints them: most likely multiply-adds, one branch a step. With two "
    "operations a multiply-add, in both branches of guidance, an image of MIRO takes "
    f"{OWN_TFLOP:.1f} TFLOP; other models' numbers are quoted as they are."
)
READING = (
    "Longer is better above; shorter is cheaper below, on logarithmic axes. MIRO is blue, and dark "
    "in grey."
)
# measure -> heading, largest value of the axis or more, smallest of a logarithmic one
PANELS = {
    "geneval": ("GenEval, %", 80.0, None),
    "image_reward": ("ImageReward", 1.7, None),
    "parameters_billion": ("parameters, billions (log scale)", 15.0, 0.1),
    "tflop": ("inference, TFLOP an image (log scale)", 2000.0, 1.0),
}
_EVALUATED = ("geneval", "image_reward")  # by `miro-jax evaluate`; the others are stated
_LEFT, _STEP, _WIDTH = 118, 19, 420


def bars(sources: Sequence[Source]) -> Figure:
    """Draw the models of a table of numbers, and evaluations beside them.

    Raises:
      ValueError: there is no model.
    """
    rows: list[dict[str, Any]] = []
    evaluated: list[int] = []  # rows of evaluations, which lack what was not evaluated
    notes: list[str] = []
    facts.check_alike([one for source in sources for one in source.evaluations])
    for source in sources:
        section = source.section("bars") or {}
        rows += section.get("models", [])
        if note := section.get("note"):
            notes.append(f"{note[0].upper()}{note[1:]}.")
        if source.evaluations:
            measured = {name for one in source.latest for name in facts.values(one)}
            values = {
                name: facts.value_of(name, source, sources) for name in PANELS if name in measured
            }
            parameters = _billions(source.latest[-1].manifest["model"].get("parameters"))
            evaluated.append(len(rows))
            rows.append(
                {name: one["mean"] for name, one in values.items() if one is not None}
                | {"model": source.label, "parameters_billion": parameters}
            )
    if not rows:
        raise ValueError("bars needs a table of models, such as published; got none.")
    panels, points = [], []
    for name, (heading, high, low) in PANELS.items():
        drawn = []
        high = max(high, *(row.get(name) or 0 for row in rows))
        for number, row in enumerate(rows):
            value = row.get(name)
            own = "bar" if "MIRO" in row["model"] else "bar other"
            lacks = number in evaluated and name in _EVALUATED
            unknown = "not evaluated" if lacks else "not stated"
            text = unknown if value is None else format_number(value)
            drawn.append((row["model"], _length(value, low, high), text, own))
            points.append({"panel": name, "series": row["model"], "value": value})
        alt = f"{heading}: " + ", ".join(f"{label} {text}" for label, _, text, _ in drawn)
        height = _STEP * len(drawn)
        drawing = page.draw("bars", drawn, _LEFT, _STEP, _WIDTH, height, alt)
        panels.append(Panel(heading, drawing))
    return Figure(
        "bars",
        "MIRO beside other models",
        " ".join((READING, *notes)),
        panels,
        {},
        points,
        {"models": rows, "ratios": _ratios(rows), "tflop_of_both_branches": OWN_TFLOP},
        (CONVENTION,),
        width=_WIDTH,
        height=_STEP * len(rows),
    )


def _billions(parameters: Any) -> float | None:
    """Return a number of parameters in billions: counted, or a text that was declared."""
    try:
        number = float(parameters)
    except (TypeError, ValueError):  # not known
        return None
    return number / 1e9 if 0 < number < math.inf else None


def _length(value: float | None, low: float | None, high: float) -> float | None:
    if value is None:
        return None
    room = _WIDTH - _LEFT - 60
    if low is None:
        return room * max(value, 0) / high
    return room * math.log(max(value / low, 1)) / math.log(high / low)


def _ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how much larger and costlier the costliest model is than MIRO."""
    costly = [row for row in rows if row.get("tflop")]
    known = {row["model"]: row for row in costly}  # an evaluation may be called MIRO, too
    if "MIRO" not in known or not costly:
        return {}
    most, own = max(costly, key=lambda row: row["tflop"]), known["MIRO"]
    names = {
        "tflop": f"tflop of {most['model']} over MIRO's, as printed",
        "parameters_billion": f"parameters of {most['model']} over MIRO's",
    }
    both = [key for key in names if most.get(key) and own.get(key)]
    return {names[key]: most[key] / own[key] for key in both}
