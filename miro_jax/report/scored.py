"""The report of an annotated data set: what a person looks at before paying for training.

    distributions   a histogram of each reward, with percentiles
    levels          how full each level is
    correlations    of every two rewards
    extremes        the best and the worst pictures of each reward
    failures        by cause

The page is one HTML file like the report of a run; nothing on it depends on where or when the set
was made.
"""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

from miro_jax.data.records import bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.sources import causes
from miro_jax.report.charts import Axis, Chart, fit_axis, format_number
from miro_jax.report.page import (
    Section,
    document,
    figure,
    list_facts,
    percent,
    pictures,
    sections_of,
    tiles_of,
)

FILE = "report.html"
_MARKED = {"5": "side", "50": "middle", "95": "side"}  # percentile -> class of its line
_SHOWN = ("1", "5", "25", "50", "75", "95", "99")


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture of the set. image: a PNG or JPEG file. score: of the reward it is shown for."""

    image: bytes
    key: str
    caption: str
    score: float


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the page is made of.

    manifest, bins: of the set. stats, coverage: what stands in the files of these names.
    scores: [N, 2, R] float32. failures: as in failures.jsonl. best, worst: identity of a reward ->
    pictures. searched: what was searched for them, a sentence.
    """

    manifest: Manifest
    bins: bins.Bins
    stats: Mapping
    coverage: Mapping
    scores: np.ndarray
    failures: Sequence[Mapping]
    best: Mapping[str, Sequence[Thumbnail]]
    worst: Mapping[str, Sequence[Thumbnail]]
    searched: str


def render(scored: Scored) -> bytes:
    """Return the page."""
    sections = [
        extremes(scored),
        distributions(scored),
        levels(scored),
        correlations(scored),
        failed(scored),
    ]
    places = [*((s.name, s.title) for s in sections), ("set", "The set")]
    nav = "".join(f'<a href="#{name}">{html.escape(title)}</a>' for name, title in places)
    kind = scored.manifest.configuration["source"].get("kind", "")
    text = document(
        "miro_jax records",
        "report of annotated records",
        f"{scored.manifest.num_records:,} records of a {kind} source",
        _head(scored),
        nav,
        f"{sections_of(sections)}\n{_colophon(scored)}",
    )
    return text.encode("utf-8")


def _head(scored: Scored) -> str:
    coverage, rewards = scored.coverage, scored.manifest.rewards
    synthetic, lost = coverage["records_with_synthetic_caption"], coverage["lost_about"]
    read = f"of {pictures(coverage['samples'])} read"
    tiles = [
        (
            f"{coverage['records']:,}",
            "records",
            f"{read}, about {lost:,} lost to damage" if lost else read,
        ),
        (
            f"{100 * coverage['share']:.2f} %",
            "of the source",
            "the rest failed, by cause below" if coverage["causes"] else "nothing failed",
        ),
        (str(len(rewards)), "rewards", f"{scored.bins.num_bins} levels each"),
        (
            percent(synthetic / max(coverage["records"], 1)),
            "of the records",
            "have a synthetic caption too",
        ),
    ]
    return (
        '<p class="lead">Pictures with captions, each scored by every reward. Training tells the '
        "network these scores as levels, so whatever is wrong here is learned: look before paying "
        f"for it.</p>{tiles_of(tiles)}"
    )


def distributions(scored: Scored) -> Section:
    """Show a histogram of each reward with its percentiles."""
    charts, rows = [], []
    for name in scored.manifest.rewards:
        facts = scored.stats["captions"]["rewards"][name]
        if not facts["count"]:
            charts.append(f"<div><h4>{html.escape(name)}</h4><p>no scores</p></div>")
            continue
        counts, edges = facts["histogram"]["counts"], facts["histogram"]["edges"]
        chart = Chart(fit_axis(edges, "score"), fit_axis(counts, "pictures", zero=True), 420, 230)
        chart.bars(edges, counts)
        for percentile, kind in _MARKED.items():
            chart.mark(facts["percentiles"][percentile], kind)
        mean, std = format_number(facts["mean"]), format_number(facts["std"])
        alt = f"{name}: {facts['count']} scores, mean {mean}, standard deviation {std}"
        charts.append(f"<div><h4>{html.escape(name)}</h4>{chart.svg(alt)}</div>")
        rows += _percentile_rows(scored, name)
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("captions", "mean", "std", *(f"{p} %" for p in _SHOWN), "scores")
    )
    table = (
        '<div class="scroll" tabindex="0"><table class="dense"><caption class="hidden">Percentiles '
        f"of the scores</caption><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    caption = (
        "Scores on the scale that records keep, of the pictures with their own captions. Lines: "
        "median (solid), 5th and 95th percentile (dashed)."
    )
    body = figure(f'<div class="pair">{"".join(charts)}</div>', caption) + table
    lead = (
        "A spike or a cliff is a reward that cannot tell pictures apart there, or a model that was "
        "not fed as it should be."
    )
    return Section("distributions", "How scores are spread", lead, body)


def _percentile_rows(scored: Scored, name: str) -> list[str]:
    rows = []
    for kind, label in (("captions", "own"), ("synthetic_captions", "synthetic")):
        facts = scored.stats[kind]["rewards"][name]
        if not facts["count"]:
            continue
        values = [facts["mean"], facts["std"], *(facts["percentiles"][p] for p in _SHOWN)]
        cells = "".join(f"<td>{format_number(float(f'{value:.4g}'))}</td>" for value in values)
        head = html.escape(name) if kind == "captions" else ""
        rows.append(
            f'<tr><th scope="row">{head}</th><td>{label}</td>{cells}<td>{facts["count"]:,}</td>'
            "</tr>"
        )
    return rows


def levels(scored: Scored) -> Section:
    """Show how many scores each level holds."""
    charts = []
    count = scored.bins.num_bins
    everything = scored.scores.reshape(-1, len(scored.bins.names))
    found = bins.levels(scored.bins, everything)
    for column, name in enumerate(scored.bins.names):
        known = found[:, column][~np.isnan(found[:, column])]
        numbers = np.bincount(np.round(known * (count - 1)).astype(int), minlength=count)
        equal = len(known) / count
        ticks = tuple(count * quarter / 4 for quarter in range(5))
        heights = fit_axis([*numbers, equal], "scores", zero=True)
        chart = Chart(Axis(0, count, ticks, "bin, from the lowest scores"), heights, 420, 200)
        chart.bars(list(range(count + 1)), numbers.tolist())
        chart.level(equal, "ideal")
        empty = int((numbers == 0).sum())
        note = _emptiness(empty, count, len(known))
        charts.append(
            f"<div><h4>{html.escape(name)}<span>{note}</span></h4>"
            f"{chart.svg(f'{name}: {note}')}</div>"
        )
    caption = (
        "Own and synthetic captions together, as the levels were fitted. The dashed line is an "
        "equal share."
    )
    lead = (
        "Levels are quantiles, so each should hold an equal share. Equal scores stay in one level: "
        "towers and gaps mean that a reward gives the same score to many pictures. No sample of "
        "training has an empty level."
    )
    body = figure(f'<div class="pair">{"".join(charts)}</div>', caption)
    return Section("levels", "How full the levels are", lead, body)


def _emptiness(empty: int, levels: int, scores: int) -> str:
    """Return how many levels no sample has, and why where it is plain."""
    if not empty:
        return "every level has samples"
    note = f"{empty} of {levels} levels {'is' if empty == 1 else 'are'} empty"
    return note + (f": {scores} scores for {levels} levels" if scores < levels else "")


def correlations(scored: Scored) -> Section:
    """Show the correlation of every two rewards."""
    body = ""
    for kind, label in (("captions", "own"), ("synthetic_captions", "synthetic")):
        stats = scored.stats[kind]
        if not any(facts["count"] for facts in stats["rewards"].values()):
            continue
        tables = "".join(
            figure(_matrix(scored.manifest.rewards, stats[name]), f"{title}, {label} captions.")
            for name, title in (("spearman", "Rank correlation"), ("pearson", "Correlation"))
        )
        if kind != "captions":
            tables = f"<details><summary>With {label} captions</summary>{tables}</details>"
        body += tables
    lead = (
        "Rewards that go together are one dial with two names; rewards that oppose each other are "
        "what the network will have to trade."
    )
    return Section("correlations", "Which rewards agree", lead, body)


def _matrix(names: Sequence[str], table: Sequence[Sequence[float | None]]) -> str:
    heads = "".join(f'<th scope="col">{html.escape(_short(name))}</th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = "".join(_cell(value, own=i == j) for j, value in enumerate(table[i]))
        rows.append(f'<tr><th scope="row">{html.escape(_short(name))}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0"><table class="heat"><caption class="hidden">Correlation '
        f"of every two rewards</caption><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: float | None, own: bool) -> str:
    if value is None:
        return '<td class="unsure">\N{EN DASH}</td>'
    kinds = ("up" if value >= 0 else "down") + " own" * own
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f'<td class="{kinds}" style="--strength:{0 if own else abs(value):.2f}">{text}</td>'


def _short(identity: str) -> str:
    return identity.partition("@")[0]


def extremes(scored: Scored) -> Section:
    """Show the best and worst pictures of each reward."""
    parts = []
    for name in scored.manifest.rewards:
        rows = []
        for label, found in (("best", scored.best.get(name)), ("worst", scored.worst.get(name))):
            if found:
                cells = "".join(map(_thumbnail, found))
                rows.append(f'<div class="row"><span class="side">{label}</span>{cells}</div>')
        if rows:
            parts.append(f'<h3>{html.escape(name)}</h3><div class="thumbs">{"".join(rows)}</div>')
    lead = (
        "If the best pictures of a reward are not better than its worst, something is wrong with "
        "the reward or with how it was fed."
    )
    body = "".join(parts) + f'<p class="missing">{html.escape(scored.searched)}</p>'
    return Section("extremes", "The best and the worst", lead, body)


def _thumbnail(shown: Thumbnail) -> str:
    kind = "png" if shown.image.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(shown.image).decode("ascii")
    caption = html.escape(shown.caption)
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{caption}" '
        f'title="{html.escape(shown.key)}"><figcaption><b>{format_number(shown.score)}</b> '
        f"<span>{caption}</span></figcaption></figure>"
    )


def failed(scored: Scored) -> Section:
    """Show how many samples failed, by cause."""
    rows = []
    common_first = sorted(scored.coverage["causes"].items(), key=lambda item: (-item[1], item[0]))
    for cause, count in common_first:
        first = next(failure for failure in scored.failures if failure["cause"] == cause)
        example = " ".join(filter(None, (first["key"], first["detail"])))
        meaning = causes.CAUSES.get(cause, "")
        share = f"{100 * count / max(scored.coverage['samples'], 1):.3g} %"
        if cause in causes.OF_A_PIECE:  # is no sample
            share = "in files"
        rows.append(
            f'<tr><th scope="row">{html.escape(cause)}</th><td>{count:,}</td><td>{share}</td>'
            f"<td>{html.escape(meaning)}<small>{html.escape(example)}</small></td></tr>"
        )
    lead = "Samples of the source that are no record. None was replaced by another."
    if not rows:
        return Section("failures", "What failed", lead, "<p>Nothing failed.</p>")
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("number", "of samples", "what it means"))
    table = (
        '<div class="scroll" tabindex="0"><table class="causes"><caption class="hidden">Failures '
        f"by cause</caption><thead><tr><th>cause</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    note = "Small print: the first example. All are listed in failures.jsonl."
    if damaged := scored.coverage.get("damaged_pieces"):
        note += (
            f" Damaged files: {len(damaged):,}; they lack about "
            f"{scored.coverage['lost_about']:,} samples, to judge by the other files."
        )
    return Section("failures", "What failed", lead, figure(table, note))


def _range_of(pieces: Sequence[str]) -> str:
    if len(pieces) == 1:
        return pieces[0]
    return f"{len(pieces):,}, from {pieces[0]} to {pieces[-1]}"


def _colophon(scored: Scored) -> str:
    manifest, c = scored.manifest, scored.manifest.configuration
    forms = c.get("synthetic_forms", {})
    rows = {
        "Source": ", ".join(f"{k} {v}" for k, v in sorted(c["source"].items())),
        "Pieces": _range_of(list(c["pieces"])),
        "Image encoder": c["image_encoder"],
        "Caption encoder": c["caption_encoder"],
        "Image latents": " x ".join(map(str, manifest.latent_shape)),
        "Levels": f"{scored.bins.num_bins}, {scored.bins.strategy}",
        "Versions": ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items())),
    }
    rows |= {
        f"Reward {name}": (
            f"judges the {forms[name]} synthetic caption; " if forms.get(name) else ""
        )
        + f"network {c['towers'][name]}"
        for name in manifest.rewards
    }
    return (
        '<section id="set" aria-labelledby="set-title"><h2 id="set-title">The set</h2>'
        '<p class="lead">All of it stands in <code>manifest.json</code> beside this page.</p>'
        f"{list_facts(rows)}</section>"
    )
