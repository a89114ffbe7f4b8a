"""The pages of this project: HTML files that explain themselves and need nothing but themselves.

facts       what a run's folder holds; results, the typed results of evaluators in it
sections    the values of a run's page; scored, those of an annotated set's page
charts      line and point charts as inline SVG; grids, labelled grids of images
statistics  intervals, correlations, distributions
page        templates/*.html and style.css, put together
"""

from pathlib import Path

from miro_jax.data.storage.files import write_atomic
from miro_jax.report import page, sections
from miro_jax.report.facts import read_facts

FILE = "report.html"


def write(workdir: str | Path) -> Path:
    """Write `WORKDIR/report.html` from what the folder holds; returns its path.

    Sections whose evaluator did not run say so.

    Raises:
      FileNotFoundError: the folder is not that of a run.
    """
    values = sections.values(read_facts(Path(workdir)))
    path = Path(workdir) / FILE
    write_atomic(path, page.render("run.html", **values))
    return path
