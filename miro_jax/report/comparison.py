"""The page of two networks side by side; `templates/compare.html` has the words."""

from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.data.printable import counted
from miro_jax.report import page
from miro_jax.report.page import Tile, signed

_DIGITS, _MOST_DIGITS = 3, 9
SECTIONS = {
    "all": "All rewards at their defaults",
    "old": "Without the new reward",
    "none": "Nothing requested",
    "dials": "Dials",
    "alone": "One reward alone",
}


def render(result: Mapping[str, Any]) -> bytes:
    """Return the page of what `evaluate.compare` has measured."""
    tables = result["requests"] | {key: result[key] for key in ("dials", "alone")}
    return page.render(
        "compare.html",
        title="miro_jax comparison",
        kind="two networks side by side",
        name=f"{_name(result['before'])} and {_name(result['after'])}",
        sections={key: heading for key, heading in SECTIONS.items() if key in tables},
        tiles=_tiles(result),
        tables=tables,
        result=result,
        images=counted(result["images"], "image"),
        is_beyond_chance=is_beyond_chance,
        form_of=form_of,
    )


def is_beyond_chance(difference: Mapping[str, float] | None) -> bool:
    """Return whether the interval of a difference does not hold 0."""
    return difference is not None and not difference["low"] <= 0 <= difference["high"]


def form_of(difference: Mapping[str, float]) -> str:
    """Return the format of a difference: one beyond chance shows no end as 0."""
    digits = _DIGITS
    if is_beyond_chance(difference):
        least = min(abs(difference[end]) for end in ("low", "high"))
        while digits < _MOST_DIGITS and round(least, digits) == 0:
            digits += 1
    return f"+.{digits}f"


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the page's tables as lines of text."""
    tables = result["requests"] | {key: result[key] for key in ("dials", "alone")}
    sides = f"{_name(result['before'])} -> {_name(result['after'])}"
    text = [f"{sides}, {counted(result['images'], 'image')}:"]
    for key, heading in SECTIONS.items():
        if key not in tables:
            continue
        text.append(f"  {heading}{', from lowest to highest' if key in ('dials', 'alone') else ''}")
        for name, row in tables[key].items():
            cells = [_cell(row[side]) for side in ("before", "after")]
            change = row["difference"]
            mark = " *" if is_beyond_chance(change) else ""
            text.append(f"    {name:16}{cells[0]:>8} {cells[1]:>8}  {_change(change)}{mark}")
    return text


def _name(network: Mapping[str, Any]) -> str:
    step = network["step"]
    return network["name"].partition(" sha256:")[0] + (f" (step {step:,})" if step else "")


def _cell(mean: Mapping[str, float] | None) -> str:
    return "-" if mean is None else signed(mean["mean"], ".3f")


def _change(mean: Mapping[str, float] | None) -> str:
    if mean is None:
        return "new"
    form = form_of(mean)
    return "{}  ({} to {})".format(*(signed(mean[key], form) for key in ("mean", "low", "high")))


def _tiles(result: Mapping[str, Any]) -> list[Tile]:
    tiles = []
    for name in result["new"]:
        rise = result["dials"][name]["after"]
        note = f"{signed(rise['low'])} to {signed(rise['high'])}, from level 0 to 1"
        tiles.append(Tile(signed(rise["mean"]), f"rise of the new dial {name}", note))
    for key, what in (("all", "mean rewards"), ("dials", "dials"), ("alone", "rewards alone")):
        rows = result["requests"][key] if key == "all" else result[key]
        changed = [row["difference"] for row in rows.values() if row["difference"]]
        tiles.append(_count(changed, what))
    return tiles


def _count(differences: Sequence[Mapping[str, float]], what: str) -> Tile:
    beyond = [one["mean"] for one in differences if is_beyond_chance(one)]
    up, down = sum(mean > 0 for mean in beyond), sum(mean < 0 for mean in beyond)
    return Tile(f"{up} up, {down} down", f"of {len(differences)} {what}", "beyond chance")
