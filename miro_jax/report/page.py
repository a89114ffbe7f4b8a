"""Skeleton, style sheet and header of the report."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.report.charts import format_number
from miro_jax.report.facts import Facts
from miro_jax.report.style import STYLE

RISING = 0.9  # rank correlation of a dial that rises
_ROUNDING = 1e-9  # ranks of five levels that make 0.9 give 0.8999999999999998


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      name: anchor. title: heading. lead: a sentence or two, plain text, that say what to see.
      body: HTML.
    """

    name: str
    title: str
    lead: str
    body: str


def figure(body: str, caption: str, kind: str = "") -> str:
    """Return a figure; `body` is HTML, `caption` plain text."""
    return f'<figure class="{kind}">{body}<figcaption>{html.escape(caption)}</figcaption></figure>'


def missing(evaluator: str) -> str:
    """Say that an evaluator did not run, and how to run it."""
    return (
        f'<p class="missing">Not measured: <code>{evaluator}</code> was not among '
        "<code>config.evaluate.evaluators</code>. Run the evaluate stage with it.</p>"
    )


def pictures(count: int) -> str:
    """Write a number of pictures."""
    return f"{count:,} picture{'s' * (count != 1)}"


def percent(value: float) -> str:
    """Write a share as a whole percentage."""
    return f"{100 * value:.0f}\N{NARROW NO-BREAK SPACE}%"


def render(facts: Facts, sections: list[Section]) -> str:
    """Return the whole page."""
    places = [*((s.name, s.title) for s in sections), ("run", "The run")]
    nav = "".join(f'<a href="#{name}">{html.escape(title)}</a>' for name, title in places)
    body = sections_of(sections)
    name = facts.folder.resolve().name
    return document(
        f"miro_jax run: {name}",
        "report of a run",
        name,
        _introduction(facts) + _headline(facts),
        nav,
        f"{body}\n{_colophon(facts)}",
    )


def document(title: str, kind: str, name: str, head: str, nav: str, body: str) -> str:
    """Return a page of its own.

    Args:
      title: of the window. kind, name: the small and the large words at the top. All plain text.
      head: HTML below them. nav: HTML, links to the sections. body: HTML of the sections.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header><p class="eyebrow">miro_jax &middot; {html.escape(kind)}</p>'
        f"<h1>{html.escape(name)}</h1>{head}</header>\n"
        f'<nav aria-label="Sections">{nav}</nav>\n<main>\n{body}\n</main>\n'
        "</body>\n</html>\n"
    )


def sections_of(sections: Sequence[Section]) -> str:
    """Return the HTML of sections."""
    return "".join(
        f'<section id="{s.name}" aria-labelledby="{s.name}-title">'
        f'<h2 id="{s.name}-title">{html.escape(s.title)}</h2>'
        f'<p class="lead">{html.escape(s.lead)}</p>{s.body}</section>'
        for s in sections
    )


def _introduction(facts: Facts) -> str:
    told = len(facts.config["data"]["train_rewards"])
    if not told:
        return (
            '<p class="lead">A text-to-image network trained without rewards: the baseline that '
            "networks with rewards are compared with.</p>"
        )
    return (
        '<p class="lead">A text-to-image network that was told, with every training picture, how '
        f"highly {told} reward{'s' * (told > 1)} rank it among all training pictures, from 0 "
        "(worst) to 1 (best). When it makes pictures, these levels are dials that can be set. This "
        "page shows what it learned, and whether the dials work.</p>"
    )


def _headline(facts: Facts) -> str:
    """The few numbers that matter most."""
    tiles = []
    if table := facts.result("geneval"):
        first, last = table["rows"][0]["overall"], table["rows"][-1]["overall"]
        note = f"without guidance {percent(first['accuracy'])}" if len(table["rows"]) > 1 else ""
        tiles.append((percent(last["accuracy"]), "of pictures show what was asked for", note))
    if (found := facts.result("dials")) and found["dials"]:
        good = sum(works(found, name) for name in found["dials"])
        note = "rank correlation 0.9 or more, and beyond chance"
        tiles.append((f"{good} of {len(found['dials'])}", "dials rise when turned up", note))
    if found := facts.result("reward_scores"):
        row = found["rows"][-1]["rewards"]
        above = sum(row[n]["score"]["mean"] > t["mean"] for n, t in found["training"].items())
        tiles.append(
            (f"{above} of {len(row)}", "rewards above the training data", "all targets at 1")
        )
    _, values = facts.series("mse")
    if values:
        last = values[-max(1, len(values) // 10) :]
        final = sum(last) / len(last)
        tiles.append(
            (format_number(float(f"{final:.3g}")), "velocity error at the end", "mean square")
        )
    return tiles_of(tiles)


def tiles_of(tiles: Sequence[tuple[str, str, str]]) -> str:
    """Return large numbers side by side: (value, what it is, a note), plain text each."""
    items = "".join(
        f"<li><strong>{html.escape(value)}</strong><span>{html.escape(what)}</span>"
        f"<small>{html.escape(note)}</small></li>"
        for value, what, note in tiles
    )
    return f'<ul class="tiles">{items}</ul>' if items else ""


def works(found: dict[str, Any], name: str) -> bool:
    """Return whether a dial rises: by rank, and from its lowest to its highest beyond chance."""
    cross = found["cross"]
    low = cross["low"][cross["asked"].index(name)][cross["measured"].index(name)]
    rank = found["dials"][name]["rank_of_means"]
    return rank is not None and rank >= RISING - _ROUNDING and low > 0


def _colophon(facts: Facts) -> str:
    """How the run was made, so that it can be made again."""
    listed = list_facts(_facts(facts))
    return (
        '<section id="run" aria-labelledby="run-title"><h2 id="run-title">The run</h2>'
        f'<p class="lead">All settings stand in <code>config.json</code> beside this page.</p>'
        f"{listed}</section>"
    )


def list_facts(rows: Mapping[str, str]) -> str:
    """Return names with their values, both plain text; empty values are left out."""
    listed = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in rows.items()
        if value
    )
    return f'<dl class="facts">{listed}</dl>'


def _facts(facts: Facts) -> dict[str, str]:
    run, train, sample = facts.run, facts.config["train"], facts.config["sample"]
    evaluation = facts.evaluation or {}
    seconds = facts.training_seconds
    _, speeds = facts.series("images_per_second")
    records = evaluation.get("training", {}).get("num_records")
    return {
        "Steps": f"{facts.step:,} of batch {train['batch_size']}",
        "Parameters": f"{evaluation['num_parameters']:,}" if evaluation else "",
        "Training time": _duration(seconds) if seconds else "",
        "Throughput": f"{sorted(speeds)[len(speeds) // 2]:,.0f} pictures/s" if speeds else "",
        "Training set": pictures(records) if records else "",
        "Sampling": f"{sample['num_steps']} {sample['solver']} steps, guidance "
        f"{sample['guidance_scale']:g}, negative prompt {sample['negative']!r}",
        "Command": run.get("command", ""),
        "Revision": run.get("git_revision", ""),
        "Devices": _devices(run.get("devices", [])),
        "Versions": ", ".join(f"{k} {v}" for k, v in run.get("packages", {}).items()),
        "Rewards": ", ".join(evaluation.get("rewards", facts.rewards)),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s in steps"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min in steps"
    return f"{seconds / 3600:.1f} h in steps"


def _devices(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)}, {names[0]} to {names[-1]}" * bool(names)
