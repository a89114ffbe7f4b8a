"""What the command does once its arguments are checked: sample, find, evaluate, write the page."""

import dataclasses
from pathlib import Path
from typing import Any

from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate.suites import pages, run, sampling, tables
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.find import find_images
from miro_jax.evaluate.suites.settings import Settings

PAGE = "report.html"


def evaluate_planned(settings: Settings, suite: Suite, planned: Any, out: Path) -> str:
    """Evaluate; returns the table as text, with the paths of what was written.

    Args:
      settings, suite: what is evaluated. planned: a `Sampling`, or None for images that are there.
      out: folder of the results.
    """
    judge = None
    if planned is not None:
        if suite.open_judge is not None and not settings.no_judge:
            judge = suite.open_judge(dict(settings.judge))  # what is wrong with it is said first
        sampling.fill(planned)
        settings = dataclasses.replace(settings, what=str(planned.out))
    per_prompt = settings.images_per_prompt
    if planned is not None:
        per_prompt = planned.request.num_images
    found = find_images(settings.what, suite, per_prompt, settings.captions, settings.partial)
    job = run.make_job(suite, found, settings, out)
    evaluation = run.run(job, judge)
    write_atomic(out / PAGE, pages.render_evaluation(evaluation))
    return tables.render(tables.table_of(evaluation), "text") + f"page: {out / PAGE}"
