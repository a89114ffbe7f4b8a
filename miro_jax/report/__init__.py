"""The report of a run: one HTML page that explains itself and needs nothing but itself.

    facts     what the run's folder holds
    charts    line and point charts as inline SVG
    curves, pictures, dials, tables     the sections
    page      skeleton, style sheet, header

Pictures are data URIs, styles are inline, there is no script: the page works offline and in mail.
"""

from pathlib import Path

from miro_jax.data.storage.files import write_atomic
from miro_jax.report import curves, dials, page, pictures, tables
from miro_jax.report.facts import read_facts

FILE = "report.html"
SECTIONS = (
    pictures.gallery,
    tables.geneval,
    tables.reward_means,
    dials.dials,
    dials.cross_effects,
    dials.conflict,
    curves.training,
)


def write(workdir: str | Path) -> Path:
    """Write `WORKDIR/report.html` from what the folder holds; returns its path.

    Sections whose evaluator did not run say so.

    Raises:
      FileNotFoundError: the folder is not that of a run.
    """
    facts = read_facts(Path(workdir))
    path = Path(workdir) / FILE
    text = page.render(facts, [section(facts) for section in SECTIONS])
    write_atomic(path, text.encode("utf-8"))
    return path
