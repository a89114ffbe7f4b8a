"""The report of a study: `study.json` with all numbers, and `study.html`, a page of itself."""

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from miro_jax.data.printable import counted
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.evaluate.study import claims, drawings
from miro_jax.evaluate.study.best_of import write_catch
from miro_jax.evaluate.study.claim import Claim, write_interval, write_points
from miro_jax.evaluate.study.faster import write_ratio
from miro_jax.evaluate.study.measured import Measured
from miro_jax.evaluate.study.resample import GENEVAL, Study
from miro_jax.report import page
from miro_jax.report.page import Tile

JSON, PAGE = "study.json", "study.html"
SECTIONS = {
    "claims": "Which claims show?",
    "F3": "Faster",
    "F4": "Specialists",
    "F5": "Composition",
    "F6": "Best of n",
    "F7": "The sweep",
    "F8": "Dials",
    "study": "The study",
}


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """What `write` wrote. claims: in the order of the paper's figures. json, page: the files."""

    claims: tuple[Claim, ...]
    json: Path
    page: Path

    @property
    def lines(self) -> list[str]:
        """The verdicts as lines of text."""
        return [f"{one.figure} {one.verdict}: {one.title}. {one.words}" for one in self.claims]


def write(folder: str | os.PathLike, measured: Measured) -> StudyReport:
    """Judge a study; write `FOLDER/study.json` and `FOLDER/study.html`.

    Claims whose cells are absent stand there as not measured.
    """
    study = Study(measured)
    judged = claims.judge(study)
    report = StudyReport(judged, Path(folder) / JSON, Path(folder) / PAGE)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomic(report.json, to_json(_numbers(judged, study)))
    write_atomic(report.page, page.render("study.html", **_values(judged, study)))
    return report


def _numbers(judged: tuple[Claim, ...], study: Study) -> dict[str, Any]:
    """Return what study.json holds."""
    measured = study.measured
    return {
        "claims": {
            one.figure: {
                "title": one.title,
                "paper": one.paper,
                "paper_numbers": dict(one.paper_numbers),
                **dataclasses.asdict(one),
            }
            for one in judged
        },
        "rewards": list(measured.rewards),
        "batch_size": measured.batch_size,
        "conflict_reward": measured.conflict_reward,
        "prompts": {name: dict(Counter(of)) for name, of in measured.categories.items()},
        "last_step": study.last,
        "seeds": {variant: study.seeds(variant) for variant in study.variants},
    }


def _values(judged: tuple[Claim, ...], study: Study) -> dict[str, Any]:
    """Return what the template reads."""
    by_figure = {one.figure: one for one in judged}
    shown = sum(one.verdict == "shown" for one in judged)
    known = [one for one in judged if one.verdict != "not measured"]
    tiles = [Tile(f"{shown} of {len(known)}", "measured claims of the paper are shown")]
    if (faster := by_figure["F3"]).ours:
        value, _, interval = write_ratio(faster.axes[GENEVAL].to_final).partition(" (")
        tiles.append(Tile(value, "speed-up on the overall score", interval.rstrip(")")))
    return {
        "title": "miro_jax study",
        "kind": "report of a study",
        "name": "Does it do what the paper says?",
        "tiles": tiles,
        "sections": SECTIONS,
        "claims": judged,
        "charts": {figure: _draw(one) for figure, one in by_figure.items()},
        "facts": _facts(study),
        "write": {
            "ratio": write_ratio,
            "points": write_points,
            "interval": write_interval,
            "catch": write_catch,
        },
        **{figure: one for figure, one in by_figure.items()},
    }


def _draw(one: Claim) -> dict[str, Markup]:
    """Return the charts of a claim by title; none where it was not measured."""
    draw = drawings.CHARTS.get(one.figure)
    return draw(one) if draw and one.verdict != "not measured" else {}


def _facts(study: Study) -> dict[str, str]:
    measured = study.measured
    seeds = {variant: len(study.seeds(variant)) for variant in study.variants}
    images = sum(cell.right.size for cell in measured.cells)
    prompts = {name: dict(Counter(of)) for name, of in measured.categories.items()}
    batch = measured.batch_size
    return {
        "Last step": f"{study.last:,} updates of {counted(batch, 'image')}",
        "Variants and seeds": ", ".join(f"{name} {count}" for name, count in seeds.items()),
        "Images measured": f"{images:,}",
        **{
            f"Prompts, {name}": ", ".join(f"{category} {n}" for category, n in of.items())
            for name, of in prompts.items()
        },
        "Rewards": ", ".join(measured.rewards),
    }
