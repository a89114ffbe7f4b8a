"""The report of an annotated data set: what a person looks at before paying for training.

    distributions   a histogram of each reward, with percentiles
    levels          how many samples each level holds
    correlations    of every two rewards
    extremes        the best and the worst images of each reward
    failures        by cause

Nothing on the page depends on where or when the set was made; `templates/records.html` has the
words.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from miro_jax.data.printable import counted
from miro_jax.data.records import bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.sources import causes
from miro_jax.report import page
from miro_jax.report.charts import Axis, Chart, fit_axis, histogram
from miro_jax.report.page import Tile, format_number, percent
from miro_jax.report.statistics import PERCENTILES

FILE = "report.html"
SECTIONS = {
    "extremes": "The best and the worst",
    "distributions": "How scores are spread",
    "levels": "How full the levels are",
    "correlations": "Which rewards agree",
    "failures": "What failed",
    "set": "The set",
}
_CAPTIONS = {"captions": "own", "synthetic_captions": "synthetic"}


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """An image of the set. image: a PNG or JPEG file. score: of the reward it is shown for."""

    image: bytes
    key: str
    caption: str
    score: float


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the page is made of.

    manifest, bins: of the set. stats, coverage: content of the files of these names.
    scores: [N, 2, R] float32. failures: as in failures.jsonl. best, worst: identity of a reward ->
    images. searched: where they were searched for, a sentence.
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
    kind = scored.manifest.configuration["source"].get("kind", "")
    return page.render(
        "records.html",
        title="miro_jax records",
        kind="report of annotated records",
        name=f"{counted(scored.manifest.num_records, 'record')} of a {kind} source",
        sections=SECTIONS,
        scored=scored,
        rewards=scored.manifest.rewards,
        tiles=_tiles(scored),
        histograms={name: _histogram(scored, name) for name in scored.manifest.rewards},
        short_names=[name.partition("@")[0] for name in scored.manifest.rewards],
        percentile_heads=[f"{p} %" for p in PERCENTILES],
        percentile_rows=_percentile_rows(scored),
        levels=_levels(scored),
        correlated={
            label: scored.stats[kind]
            for kind, label in _CAPTIONS.items()
            if any(facts["count"] for facts in scored.stats[kind]["rewards"].values())
        },
        failures=_failures(scored),
        set_facts=_set_facts(scored),
    )


def _tiles(scored: Scored) -> list[Tile]:
    coverage = scored.coverage
    lost, records = coverage["lost_about"], coverage["records"]
    read = f"of {counted(coverage['samples'], 'image')} read"
    read += f", about {lost:,} lost to damage" if lost else ""
    failed = "the rest failed, by cause below" if coverage["causes"] else "nothing failed"
    synthetic = percent(coverage["records_with_synthetic_caption"] / max(records, 1))
    return [
        Tile(f"{records:,}", "records", read),
        Tile(f"{100 * coverage['share']:.2f} %", "of the source", failed),
        Tile(str(len(scored.manifest.rewards)), "rewards", f"{scored.bins.num_bins} levels each"),
        Tile(synthetic, "of the records", "have a synthetic caption too"),
    ]


def _histogram(scored: Scored, name: str) -> Markup | None:
    """Draw the scores of one reward; None where there are none."""
    facts = scored.stats["captions"]["rewards"][name]
    return histogram(name, facts, "score") if facts["count"] else None


def _percentile_rows(scored: Scored) -> list[tuple[str, str, list[str], int]]:
    """Return rows of (reward or nothing, which captions, mean, std and percentiles, count)."""
    rows = []
    for name in scored.manifest.rewards:
        for kind, label in _CAPTIONS.items():
            facts = scored.stats[kind]["rewards"][name]
            if facts["count"]:
                numbers = [facts["mean"], facts["std"]]
                numbers += [facts["percentiles"][str(p)] for p in PERCENTILES]
                cells = [format_number(float(f"{number:.4g}")) for number in numbers]
                rows.append((name if label == "own" else "", label, cells, facts["count"]))
    return rows


def _levels(scored: Scored) -> dict[str, tuple[str, Markup]]:
    """Return for each reward how many levels are empty, and a chart of all."""
    charts, count = {}, scored.bins.num_bins
    achieved = bins.levels(scored.bins, scored.scores.reshape(-1, len(scored.bins.names)))
    for column, name in enumerate(scored.bins.names):
        known = achieved[:, column][~np.isnan(achieved[:, column])]
        numbers = np.bincount(np.round(known * (count - 1)).astype(int), minlength=count)
        equal = len(known) / count
        ticks = tuple(count * quarter / 4 for quarter in range(5))
        heights = fit_axis([*numbers, equal], "scores", zero=True)
        chart = Chart(Axis(0, count, ticks, "bin, from the lowest scores"), heights, 420, 200)
        chart.bars(list(range(count + 1)), numbers.tolist())
        chart.level(equal, "ideal")
        note = _emptiness(int((numbers == 0).sum()), count, len(known))
        charts[name] = note, chart.svg(f"{name}: {note}")
    return charts


def _emptiness(empty: int, levels: int, scores: int) -> str:
    """Return how many levels no sample has, and why where it is plain."""
    if not empty:
        return "every level has samples"
    note = f"{empty} of {levels} levels {'is' if empty == 1 else 'are'} empty"
    return note + (f": {scores} scores for {levels} levels" if scores < levels else "")


def _failures(scored: Scored) -> list[dict[str, Any]]:
    """Return one dict a cause, the most frequent first."""
    rows = []
    frequent_first = sorted(scored.coverage["causes"].items(), key=lambda item: (-item[1], item[0]))
    for cause, count in frequent_first:
        first = next(failure for failure in scored.failures if failure["cause"] == cause)
        share = f"{100 * count / max(scored.coverage['samples'], 1):.3g} %"
        rows.append(
            {
                "cause": cause,
                "count": count,
                "share": "in files" if cause in causes.OF_A_PIECE else share,  # no single samples
                "meaning": causes.CAUSES.get(cause, ""),
                "example": " ".join(filter(None, (first["key"], first["detail"]))),
            }
        )
    return rows


def _set_facts(scored: Scored) -> dict[str, str]:
    manifest, made = scored.manifest, scored.manifest.configuration
    forms, pieces = made.get("synthetic_forms", {}), list(made["pieces"])
    facts = {
        "Source": ", ".join(f"{k} {v}" for k, v in sorted(made["source"].items())),
        "Pieces": f"{len(pieces):,}, from {pieces[0]} to {pieces[-1]}" if pieces[1:] else pieces[0],
        "Image encoder": made["image_encoder"],
        "Caption encoder": made["caption_encoder"],
        "Image latents": " x ".join(map(str, manifest.latent_shape)),
        "Levels": f"{scored.bins.num_bins}, {scored.bins.strategy}",
        "Versions": ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items())),
    }
    for name in manifest.rewards:
        form = f"judges the {forms[name]} synthetic caption; " if forms.get(name) else ""
        facts[f"Reward {name}"] = f"{form}network {made['towers'][name]}"
    return facts
