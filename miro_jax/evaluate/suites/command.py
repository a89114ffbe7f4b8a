"""`miro-jax evaluate WHAT --suite=NAME`: arguments, checked before a device is touched."""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from miro_jax import evaluate, sample
from miro_jax.cli import exit as exits
from miro_jax.cli.flags import Parser, add_flags, make_settings
from miro_jax.data.sources.tables import is_table
from miro_jax.evaluate.suites.settings import Settings
from miro_jax.report.suite_curves import EVALS
from miro_jax.sample.request import Request, slug
from miro_jax.sample.settings import HOW, MODEL, WHAT, WHERE, Options
from miro_jax.sample.settings import Settings as How

VERB = "evaluate"
_SKIPPED = ("prompt", "prompts_file", "checkpoint", "out")
_DESCRIPTION = """Evaluate images of a suite's prompts: numbers with intervals over prompts, a line
for each image, tables and a page. WHAT is a folder of images of any origin, a table of paths and
captions, or a checkpoint, which is sampled first. Stop it whenever you like: the same command
resumes, to the same bytes."""
_EPILOG = """examples:
  miro-jax evaluate out/sdxl --suite=parti --rewards=pick_score,hpsv2
  miro-jax evaluate runs/base --suite=shapes
  miro-jax evaluate nicolas-dufour/miro --suite=geneval --target aesthetic=0.6
  miro-jax compare out/sdxl/evals/parti@1 out/miro/evals/parti@1
"""


def is_checkpoint(what: str) -> bool:
    """Return whether WHAT is sampled first: a run, a released layout, or the id of a hub."""
    path = Path(what).expanduser()
    if path.is_dir():
        return sample.trained.is_run(path) or (path / "config.json").is_file()
    return not path.exists() and not is_table(what)


def main(words: Sequence[str]) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    return exits.run(VERB, lambda: _plan(list(words)), lambda work: work(), resumes=exits.always)


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(VERB, Settings, description=_DESCRIPTION, epilog=_EPILOG)
    for title in (WHAT, HOW, MODEL, WHERE):
        parser.add_argument_group(title)
    add_flags(parser, Options, skip=_SKIPPED)
    add_flags(parser, Request, defaults={"seed": None}, skip=("num_images",))
    add_flags(parser, How)
    return parser


def _plan(words: list[str]) -> Callable[[], object]:
    """Return what does it, once all is checked."""
    flags = make_parser().read(words)
    settings = make_settings(Settings, flags)
    suites = evaluate.suites
    are_images = not is_checkpoint(settings.what)
    if are_images:
        inside = Path(settings.what).expanduser().glob("*/checkpoints")
        if runs := sorted(str(path.parent) for path in inside):
            raise exits.UsageError(
                f"WHAT must be one run or one set of images; {settings.what} holds runs: "
                f"{', '.join(runs[:5])}. Give one of them."
            )
    if settings.watch:
        if flags.preset is not None:
            raise exits.UsageError(
                f"--preset is of one checkpoint's weights, and --watch evaluates all; got "
                f"{flags.preset}. Give its levels with --target and --negative-target."
            )
        return _plan_watch(settings, flags, words)
    if not are_images:
        planned = _plan_checkpoint(settings, flags)
    else:
        suite = suites.table.make_suite(settings.suite)
        what = Path(settings.what).expanduser()
        home = what if what.is_dir() else what.parent
        out = Path(settings.out or home / EVALS / suite.name).expanduser()
        suites.work.check_out(out)
        job = suites.run.make_job(suite, settings, out)
        planned = suites.work.Planned(suite, settings, out, job=job)
    return lambda: exits.say(suites.work.evaluate_planned(planned))


def _plan_checkpoint(settings: Settings, flags: Namespace, step: int | None = None) -> Any:
    """Return a `work.Planned` of a checkpoint, of a run that of a step, the newest by default."""
    _check_captions(settings)
    suites, is_stored = evaluate.suites, "://" in settings.what
    path = sample.trained.folder_of(settings.what, flags.variant, weights=False)
    home = _home(settings.what, path, flags.variant)
    if sample.trained.is_run(path):
        if step is None:
            step = suites.watch.newest_step(path, is_stored)
        suite = suites.table.make_suite(settings.suite, path)
        home /= f"step-{step:06d}"
    else:
        suite = suites.table.make_suite(settings.suite)
    chosen, rewards = suites.run.choose(suite, settings)
    out = Path(settings.out or home / suite.name).expanduser()
    suites.work.check_out(out)
    known = suites.run.request_without_images(chosen, rewards, settings)
    suites.run.make_claim(out).check(known)  # before hours of sampling
    suites.run.check_judge(chosen, settings, out)
    per_prompt = settings.images_per_prompt or suite.samples_per_prompt
    given = settings.what, suite, per_prompt, flags, out / suites.sampling.IMAGES, step
    return suites.work.Planned(suite, settings, out, sampling=suites.sampling.plan(*given))


def _plan_watch(settings: Settings, flags: Namespace, words: list[str]) -> Callable[[], list[int]]:
    """Check the flags of --watch; returns a function that watches."""
    suites, path = evaluate.suites, Path(settings.what).expanduser()
    run: Path | str = path
    if "://" in settings.what:
        run, path = settings.what, sample.trained.folder_of(settings.what, weights=False)
    _check_captions(settings)
    if not sample.trained.is_run(path) or settings.out:
        raise exits.UsageError(
            "--watch must be given a run, by its folder or URL, and no --out; got "
            f"{settings.what}{f' and --out={settings.out}' if settings.out else ''}."
        )
    options = make_settings(Options, flags, checkpoint=str(path))
    sample.preset.read_defaults(options)
    sample.batches.check_rows(options.batch_size)
    last = evaluate.command.read_config(path).train.num_steps
    suite = suites.table.make_suite(settings.suite, path)
    chosen, _ = suites.run.choose(suite, settings)
    suites.run.check_judge(chosen, settings)

    def work(step: int) -> str:
        flags = make_parser().read(words)  # planning writes the defaults of the run into them
        return suites.work.evaluate_planned(_plan_checkpoint(settings, flags, step))

    def folder_of(step: int) -> Path:
        return _home(settings.what, path) / f"step-{step:06d}" / suite.name

    return lambda: suites.watch.watch(run, last, folder_of, work, settings.watch_seconds)


def _check_captions(settings: Settings) -> None:
    if settings.captions is not None:
        raise exits.UsageError(
            f"--captions are of images that are there, and {settings.what} is sampled first, each "
            f"image from its own prompt; got {settings.captions}."
        )


def _home(what: str, path: Path, variant: str | None = None) -> Path:
    """Return the folder of a checkpoint's evaluations: of a run on this machine that is inside."""
    if sample.trained.is_run(path) and "://" not in what:
        return path / EVALS
    return Path(EVALS) / slug("-".join(filter(None, [os.path.basename(what), variant])))
