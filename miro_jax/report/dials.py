"""The sections on reward targets: each dial, what it does to the other rewards, the conflict."""

import html
from typing import Any

from miro_jax.report.charts import Chart, fit_axis, unit_axis
from miro_jax.report.facts import Facts
from miro_jax.report.page import Section, figure, missing, percent, pictures

_MINUS = "\N{MINUS SIGN}"


def dials(facts: Facts) -> Section:
    """Show achieved against asked levels, one small chart a reward."""
    found = facts.result("dials")
    title = "Dials"
    lead = (
        "One reward is asked for at rising levels while all others stay at 1. A dial that works "
        "rises; on the dashed line it achieves exactly what was asked for."
    )
    if found is None:
        return Section("dials", title, lead, missing("dials"))
    if not found["dials"]:
        return Section("dials", title, lead, _no_rewards())
    cells = [
        _dial(name, found["dials"][name], found["asked_levels"]) for name in found["cross"]["asked"]
    ]
    caption = (
        f"Mean achieved level of {pictures(found['images_per_level'])} a point, same prompts and "
        "noise at each; bars are 95 % bootstrap intervals. The achieved level is the share of the "
        "training data that the picture's score passes. \N{GREEK SMALL LETTER RHO} is Spearman's "
        "rank correlation of asked level and score: of the means, and in brackets of the single "
        "pictures."
    )
    body = figure(f'<div class="multiples">{"".join(cells)}</div>', caption)
    return Section("dials", title, lead, body + _score_table(found))


def _no_rewards() -> str:
    return '<p class="missing">This network was trained without rewards; it has no dials.</p>'


def _rank(value: float | None) -> str:
    return "undefined" if value is None else _signed(f"{value:.2f}")


def _signed(text: str) -> str:
    """Write a true minus, and no sign before a rounded zero."""
    if float(text) == 0:
        return text.lstrip("+-")
    return text.replace("-", _MINUS)


def _dial(name: str, dial: dict[str, Any], asked: list[float]) -> str:
    chart = Chart(unit_axis("level asked"), unit_axis("level achieved"), width=260, height=250)
    chart.line([0, 1], [0, 1], "ideal")
    means = [value["mean"] for value in dial["level"]]
    chart.line(asked, means, "series a")
    titles = [
        f"asked {level:g}: achieved {a['mean']:.2f} ({a['low']:.2f} to {a['high']:.2f}), "
        f"score {s['mean']:.3f}"
        for level, a, s in zip(asked, dial["level"], dial["score"], strict=True)
    ]
    chart.points(asked, dial["level"], "a", titles)
    alt = f"Dial of {name}: " + "; ".join(
        f"asked {level:g}, achieved {mean:.2f}" for level, mean in zip(asked, means, strict=True)
    )
    return (
        f'<div class="cell"><h4>{html.escape(name)} <span>\N{GREEK SMALL LETTER RHO} '
        f"{_rank(dial['rank_of_means'])} ({_rank(dial['rank_of_samples'])})</span></h4>"
        f"{chart.svg(alt)}</div>"
    )


def _score_table(found: dict[str, Any]) -> str:
    """Return the mean scores of all points as a table that can be unfolded."""
    heads = "".join(f'<th scope="col">{level:g}</th>' for level in found["asked_levels"])
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(
            f"<td>{s['mean']:.3f}<small>{s['low']:.3f}\N{EN DASH}{s['high']:.3f}</small></td>"
            for s in found["dials"][name]["score"]
        )
        + "</tr>"
        for name in found["cross"]["asked"]
    )
    return (
        "<details><summary>Mean scores as numbers</summary>"
        '<div class="scroll" tabindex="0"><table class="numbers">'
        "<caption>Mean score by level asked, with 95 % intervals</caption>"
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        "</div></details>"
    )


def cross_effects(facts: Facts) -> Section:
    """Show what turning one dial does to every reward, as a heat map with numbers."""
    title = "Cross effects"
    lead = (
        "What happens to every reward when one dial is turned from its lowest to its highest "
        "level. The diagonal is the dial itself; the rest is what comes with it."
    )
    found = facts.result("dials")
    if found is None:
        return Section("cross", title, lead, missing("dials"))
    if not found["dials"]:
        return Section("cross", title, lead, _no_rewards())
    cross, training = found["cross"], facts.evaluation["training"]["rewards"]
    heads = "".join(f'<th scope="col">{html.escape(n)}</th>' for n in cross["measured"])
    rows = []
    for i, asked in enumerate(cross["asked"]):
        cells = []
        for j, measured in enumerate(cross["measured"]):
            value, low, high = (cross[k][i][j] for k in ("difference", "low", "high"))
            spread = training[measured]["std"]
            cells.append(_heat_cell(value, low, high, spread, own=asked == measured))
        rows.append(f'<tr><th scope="row">{html.escape(asked)}</th>{"".join(cells)}</tr>')
    table = (
        '<div class="scroll" tabindex="0"><table class="heat">'
        '<caption class="hidden">Change of the mean score of each measured reward (columns) when '
        "the asked reward (rows) is turned from lowest to highest</caption>"
        '<thead><tr><th scope="col" class="corner">turned \N{DOWNWARDS ARROW} '
        f"measured \N{RIGHTWARDS ARROW}</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    caption = (
        "Change of the mean score from the lowest to the highest level asked. The tint is the same "
        "change in standard deviations of the training data: blue up, orange down, full at 2. Grey "
        "numbers: the 95 % interval of the change includes 0."
    )
    return Section("cross", title, lead, figure(table, caption))


def _heat_cell(value: float, low: float, high: float, spread: float, own: bool) -> str:
    strength = min(abs(value) / (2 * spread), 1.0) if spread > 0 else 0.0
    sign = "up" if value >= 0 else "down"
    kinds = [sign, *(["own"] if own else []), *(["unsure"] if low <= 0 <= high else [])]
    return (
        f'<td class="{" ".join(kinds)}" style="--strength:{strength:.2f}" '
        f'title="{low:+.3f} to {high:+.3f}">{_signed(f"{value:+.2f}")}</td>'
    )


def conflict(facts: Facts) -> Section:
    """Show agreement with the prompt against the level of the chased reward."""
    found = facts.result("conflict")
    title = "The built-in conflict"
    lead = (
        "In the training data the most beautiful pictures have the most wrong captions. Chasing "
        "one reward alone should cost agreement with the prompt; asking for all rewards at once "
        "should not."
    )
    if found is None:
        return Section("conflict", title, lead, missing("conflict"))
    if "not_measured" in found:
        text = html.escape(found["not_measured"])
        return Section("conflict", title, lead, f'<p class="missing">{text}</p>')
    chased, asked = found["chased"], found["asked_levels"]
    ways = (
        ("others_asked", "all others asked at 1", "a", "disc", -3.0),
        ("others_not_asked", "others not asked", "b", "box", 3.0),
    )
    charts = []
    for key, label, center in (
        ("agreement", "mean score of caption rewards", "mean"),
        ("correct", "share of pictures that are right", "accuracy"),
    ):
        values = [v[k] for way, *_ in ways for v in found[way][key] for k in ("low", "high")]
        chart = Chart(unit_axis(f"level of {chased} asked"), fit_axis(values, label))
        said = []
        for way, name, kind, marker, shift in ways:
            means = [value[center] for value in found[way][key]]
            chart.line(asked, means, f"series {kind}")
            titles = [
                f"{chased} {x:g}, {name}: {v[center]:.2f} ({v['low']:.2f} to {v['high']:.2f})"
                for x, v in zip(asked, found[way][key], strict=True)
            ]
            chart.points(asked, found[way][key], kind, titles, shift, marker)
            said.append(f"{name}: from {means[0]:.2f} to {means[-1]:.2f}")
        alt = f"{label} as the level of {chased} asked rises; {'; '.join(said)}."
        charts.append(figure(chart.svg(alt), _conflict_caption(key, found)))
    legend = "".join(
        f'<li><span class="key {kind} {marker}"></span>{name}</li>'
        for _, name, kind, marker, _ in ways
    )
    body = f'<ul class="legend">{legend}</ul><div class="pair">{"".join(charts)}</div>'
    return Section("conflict", title, lead, body + _conflict_verdict(found))


def _conflict_caption(key: str, found: dict[str, Any]) -> str:
    count = pictures(found["images_per_level"])
    if key == "agreement":
        return (
            f"Mean of {', '.join(found['agreement_of'])}; {count} a point, bars are 95 % "
            "bootstrap intervals."
        )
    return (
        "A detector reads the picture back and compares it with the prompt; bars are 95 % Wilson "
        "intervals."
    )


def _conflict_verdict(found: dict[str, Any]) -> str:
    """Say in numbers what the charts show, whichever way it came out."""
    together, alone = (
        found[way]["correct"][-1]["accuracy"] for way in ("others_asked", "others_not_asked")
    )
    return (
        f'<p class="verdict">At {html.escape(found["chased"])} '
        f"{found['asked_levels'][-1]:g}, {percent(together)} of the pictures are right when all "
        f"rewards are asked for, {percent(alone)} when it is asked for alone.</p>"
    )
