"""What the command does once its arguments are checked: sample, find, evaluate, write the page."""

import dataclasses
from pathlib import Path

from miro_jax.data.json_file import holds
from miro_jax.data.printable import counted
from miro_jax.data.storage.files import check_own, write_atomic
from miro_jax.evaluate.suites import adapters, manifest, pages, run, sampling, tables
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.rows import ROWS_NAME
from miro_jax.evaluate.suites.sampling import Sampling
from miro_jax.evaluate.suites.settings import Settings
from miro_jax.report.suite_curves import EVALS

PAGE = "report.html"


@dataclasses.dataclass(frozen=True)
class Planned:
    """A checked command.

    Attributes:
      suite, settings: what is evaluated. out: folder of the results.
      sampling: of a checkpoint. job: of images that are there; one of the two is None.
    """

    suite: Suite
    settings: Settings
    out: Path
    sampling: Sampling | None = None
    job: run.Job | None = None


def check_out(out: Path) -> None:
    """Raise ValueError where results in a folder would replace files that no evaluation wrote."""
    if (out / "checkpoints").is_dir():
        raise ValueError(
            f"--out must be a folder of its own; {out} is a run, whose evaluation.json and "
            f"{PAGE} would be replaced. Name another one, such as {out / EVALS / 'mine'}."
        )
    names = PAGE, *(f"{tables.NAME}{end}" for end in tables.ENDINGS.values())
    ours = any((out / name).exists() for name in (manifest.NAME, run.PARTIAL, ROWS_NAME))
    check_own([out / name for name in names], ours)
    result = out / manifest.NAME
    is_other = holds(result) and not holds(result, {"benchmark": dict})
    check_own([result], not is_other)


def evaluate_planned(planned: Planned) -> str:
    """Evaluate; returns the table as text, with the path of the page."""
    job, judge, sampled = planned.job, None, planned.sampling
    if sampled is not None:
        suite, _ = run.choose(planned.suite, planned.settings)
        is_done = (planned.out / manifest.NAME).is_file()
        if suite.open_judge is not None and not is_done:
            # What is wrong with it is said before hours of sampling.
            judge = suite.open_judge(dict(planned.settings.judge))
        sampling.fill(sampled)
        changes = {"what": str(sampled.out), "images_per_prompt": sampled.request.num_images}
        settings = dataclasses.replace(planned.settings, **changes)
        job = run.make_job(planned.suite, settings, planned.out)
    exported = ""
    if job.settings.export:
        folder = Path(job.settings.export).expanduser()
        count = adapters.write_folder(job.suite.name.partition("@")[0], job.found, folder)
        exported = f"exported: {counted(count, 'file')} in {folder}"
    if not job.rewards and not job.suite.score:
        return exported
    evaluation = run.run(job, judge)
    write_atomic(planned.out / PAGE, pages.render_evaluation(evaluation))
    lines = [tables.render(tables.table_of(evaluation), "text"), exported]
    return "\n".join(filter(None, [*lines, f"page: {planned.out / PAGE}"]))
