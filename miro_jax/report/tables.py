"""The sections of tables: accuracy by category, and mean rewards beside the training data."""

import html
from typing import Any

from miro_jax.report.facts import Facts
from miro_jax.report.page import Section, figure, missing, percent, pictures

_STRIP = 3.0  # standard deviations to either side that a strip shows


def _guidance(scale: float) -> str:
    return f"guidance {scale:g}" if scale else "no guidance"


def geneval(facts: Facts) -> Section:
    """Show the share of right pictures by category."""
    found = facts.result("geneval")
    title = "Does it follow the prompt?"
    lead = (
        "The share of pictures in which a detector finds what the prompt asks for, by GenEval's "
        "categories."
    )
    if found is None:
        return Section("geneval", title, lead, missing("geneval"))
    rows = found["rows"]
    known = facts.config["evaluate"]["categories"]  # for their order; a table has its own
    names = sorted(rows[0]["categories"], key=lambda n: (n not in known, [*known, n].index(n)))
    colored = rows[0]["named_color"] is not None
    heads = [n.replace("_", " ") for n in names] + ["overall"] + ["named colour"] * colored
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in heads)
    lines = []
    for row in rows:
        cells = [_share_cell(row["categories"][n]) for n in names]
        cells.append(_share_cell(row["overall"], "overall"))
        if colored:
            cells.append(_share_cell(row["named_color"]))
        label = _guidance(row["guidance_scale"])
        lines.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    table = (
        '<div class="scroll" tabindex="0"><table class="shares">'
        f'<caption class="hidden">Share of right pictures by category and guidance</caption>'
        f"<thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    totals = ", ".join(f"{rows[0]['categories'][n]['total']} {n.replace('_', ' ')}" for n in names)
    caption = (
        f"Pictures a row: {totals}. Small print: 95 % Wilson intervals, taking pictures as "
        "independent. Overall is the mean of the categories, whatever their sizes."
        + (
            " Named colour: the largest thing found has the colour that the prompt names, whatever "
            "its shape."
            if colored
            else ""
        )
    )
    return Section("geneval", title, lead, figure(table, caption))


def _share_cell(share: dict[str, Any], kind: str = "") -> str:
    return (
        f'<td class="{kind}"><b>{percent(share["accuracy"])}</b>'
        f'<span class="bar" style="--share:{share["accuracy"]:.3f}"></span>'
        f"<small>{100 * share['low']:.0f}\N{EN DASH}{100 * share['high']:.0f}</small></td>"
    )


def reward_means(facts: Facts) -> Section:
    """Show the mean rewards of pictures beside those of the training data."""
    found = facts.result("reward_scores")
    title = "Better than its data?"
    lead = (
        "Mean rewards of pictures with all targets at 1, beside the mean of the pictures that the "
        "network was trained on."
    )
    if found is None:
        return Section("rewards", title, lead, missing("reward_scores"))
    rows = found["rows"]
    kinds = ["b", "a"][-len(rows) :]
    heads = ["training data", *(_guidance(row["guidance_scale"]) for row in rows)]
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    lines = []
    for name in facts.rewards:
        training = found["training"][name]
        scores = [row["rewards"][name]["score"] for row in rows]
        cells = "".join(
            f"<td>{s['mean']:.3f}<small>{s['low']:.3f}\N{EN DASH}{s['high']:.3f}</small></td>"
            for s in scores
        )
        lines.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{training["mean"]:.3f}'
            f"<small>\N{PLUS-MINUS SIGN}{training['std']:.3f}</small></td>{cells}"
            f'<td class="strip">{_strip(name, training, scores, kinds)}</td></tr>'
        )
    markers = {"a": "disc", "b": "box"}
    legend = "".join(
        f'<li><span class="key {k} {markers[k]}"></span>{_guidance(row["guidance_scale"])}</li>'
        for k, row in zip(kinds, rows, strict=True)
    )
    table = (
        f'<ul class="legend">{legend}</ul>'
        '<div class="scroll" tabindex="0"><table class="numbers means">'
        '<caption class="hidden">Mean rewards of pictures and of the training data</caption>'
        f'<thead><tr><th></th>{head}<th scope="col">in deviations of the data</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    caption = (
        f"{pictures(found['num_images'])} a column; small print: 95 % bootstrap intervals, for the "
        "training data the standard deviation. In the strips the centre line is the mean of the "
        "training data, the shaded band one standard deviation to either side, the ends three."
    )
    return Section("rewards", title, lead, figure(table, caption))


def _strip(name: str, training: dict[str, float], scores: list[dict], kinds: list[str]) -> str:
    """Return one reward's means as marks on a line, in standard deviations of the data."""
    width, height = 320, 34
    spread = training["std"] or 1.0

    def place(score: float) -> float:
        deviation = (score - training["mean"]) / spread
        return width * (0.5 + max(-_STRIP, min(_STRIP, deviation)) / (2 * _STRIP))

    low, high = place(training["mean"] - spread), place(training["mean"] + spread)
    marks = []
    for score, kind in zip(scores, kinds, strict=True):
        x, y = place(score["mean"]), height / 2 + (4 if kind == "a" else -4)
        shape = (
            f'<circle cx="{x:.1f}" cy="{y}" r="4.5"/>'
            if kind == "a"
            else f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8"/>'
        )
        marks.append(f'<g class="point {kind}">{shape}</g>')
    alt = f"{name}: " + ", ".join(
        f"{(s['mean'] - training['mean']) / spread:+.1f} deviations" for s in scores
    )
    return (
        f'<svg class="mini" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(alt)}">'
        f'<rect class="band" x="{low:.1f}" y="6" width="{high - low:.1f}" height="{height - 12}"/>'
        f'<line class="grid" x1="0" y1="{height / 2}" x2="{width}" y2="{height / 2}"/>'
        f'<line class="axis" x1="{width / 2}" y1="2" x2="{width / 2}" y2="{height - 2}"/>'
        f"{''.join(marks)}</svg>"
    )
