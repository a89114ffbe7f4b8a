"""The stage as other code calls it: from a config, from Python, from the command line."""

import glob
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections

from miro_jax.annotate import added, origin
from miro_jax.annotate.estimate import describe
from miro_jax.annotate.finish import finished, merge, summarize
from miro_jax.annotate.plan import Job, plan
from miro_jax.annotate.settings import SHARED, Settings, pieces_of_call
from miro_jax.annotate.work import work_on
from miro_jax.cli import build, run_folder, stored_checkpoint
from miro_jax.cli.exit import note, say
from miro_jax.cli.flags import from_call
from miro_jax.data import sources
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.records.staging import source_of
from miro_jax.data.shapes import world
from miro_jax.data.storage import check_writable

BEFORE = ("", "plan", "probe")
log = logging.getLogger("miro_jax")


def annotate(
    source: str | sources.Source,
    out: str | os.PathLike,
    rewards: Any,
    image_encoder: Any,
    caption_encoder: Any,
    *,
    pieces: Any = None,
    **options: Any,
) -> Manifest | None:
    """Annotate a source into a folder; where that is done, check it and return.

    Args:
      source: text of a source, or one that is open; see `sources.open_source`.
      out: folder for the records, or URL of one in an object store. Any number of processes may
        work on it.
      rewards: names, or rewards that are loaded already. One with a true attribute
        `may_be_missing` may answer NaN, which is then stored as missing; otherwise a score that is
        not finite is a failure.
      image_encoder, caption_encoder: arguments of `encoders.build_image_encoder` and
        `build_caption_encoder` as a mapping or as text, or encoders that are built already.
      pieces: numbers of the pieces to do now, or text as for `--pieces`; None is all, or
        with `worker_index`, `num_workers` or `distributed` those of this worker.
      **options: further fields of `Settings`.

    Returns:
      The manifest of the complete set, or None while pieces or groups are left to others.

    Raises:
      ValueError: a bad argument, or the folder holds records of another request.
      OSError: something is missing, or cannot be read or written.
      RuntimeError: more samples failed than `max_failure_rate`, with the main causes; finished
        work is kept.
    """
    given = {
        "source": source,
        "out": out,
        "rewards": rewards,
        "image_encoder": image_encoder,
        "caption_encoder": caption_encoder,
        "pieces": pieces_of_call(pieces, options),
    }
    return execute(plan(from_call(Settings, given | options)))


def make_job(settings: Settings, report: Callable[[str], None] = note) -> Job:
    """Check the settings of a command line or a config; see `plan`."""
    job = plan(settings)
    report(f"annotate: {job.why}")
    if job.settings.plan:  # no device is touched
        say(describe(job))
    return job


def run_job(job: Job) -> Manifest | None:
    """Do what a command line or a config requests, and print what was made; see `annotate`."""
    settings = job.settings
    if settings.probe:
        say(describe(job))
    if settings.plan or settings.probe:
        return None
    was_complete = origin.is_complete(job.folder)
    manifest = merge(job) if settings.merge else execute(job)
    say(summarize(job, manifest, was_complete))
    return manifest


def execute(job: Job) -> Manifest | None:
    """Do what is not done yet of a job; see `annotate`."""
    if not origin.is_complete(job.folder):
        work_on(job, "annotate", _report)
        # Others may have finished it before this process noted that it works on it, too.
        return merge(job) if job.is_whole or origin.has_all(job.folder) else None
    manifest = finished(job)
    origin.clean(job.folder)
    return manifest


def _report(text: str) -> None:
    log.info("%s", text)
    note(text)


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Manifest | None:
    """Annotate the source of a config into the run's folder of records.

    The images of the shapes world are drawn into `WORKDIR/source` first, where they are missing.
    With `config.data.new_reward`, that reward alone scores the images of records that are there,
    see `added`.

    Raises:
      See `annotate`.
    """
    if config.data.new_reward and config.extend.checkpoint:
        run = stored_checkpoint.locate(config.extend.checkpoint, weights=False)
        config = run_folder.with_network_of(config, run)
    settings = settings_of(config, Path(workdir))
    if config.data.new_reward:
        return _add_reward(settings, run_folder.records_to_extend(config))
    return run_job(make_job(settings, log.info))


def _add_reward(settings: Settings, base: Path) -> Manifest | None:
    if settings.plan or settings.probe:
        raise ValueError("config.annotate.before cannot be given with config.data.new_reward.")
    if store := source_of(base):
        raise ValueError(
            f"The records that config.data.new_reward is added to must be on this machine; got "
            f"{store}. Copy them, and give their folder as config.data.records."
        )
    job = added.plan(settings, base)
    manifest = added.execute(job)
    say(summarize(job, manifest))
    return manifest


def settings_of(config: ml_collections.ConfigDict, workdir: Path) -> Settings:
    """Return the settings of a config; makes its source where that is the shapes world."""
    c = config.annotate
    if c.before not in BEFORE:
        raise ValueError(f"config.annotate.before must be '', 'plan' or 'probe'; got {c.before!r}.")
    share = {}
    if c.pieces == SHARED and config.mesh.distributed:
        share = {"worker_index": jax.process_index(), "num_workers": jax.process_count()}
    # A path would lose a slash of a URL.
    rewards, out = config.rewards, config.data.records
    if new := config.data.new_reward:
        rewards, out = (new,), workdir / "records"
        base = run_folder.records_to_extend(config).parent
        drawn = base if (base / "source").is_dir() else workdir
    else:
        drawn = workdir
    return Settings(
        source=_open_source(config, drawn),
        out=out or run_folder.records_folder(config, workdir),
        rewards=rewards,
        image_encoder=build.encoder_arguments(config, "image"),
        caption_encoder=build.encoder_arguments(config, "caption"),
        weights=build.reward_weights(config, rewards),
        plan=c.before == "plan",
        probe=c.before == "probe",
        **share,
        **{name: c[name] for name in c if name != "before"},
    )


def _open_source(config: ml_collections.ConfigDict, workdir: Path) -> sources.Source:
    if not config.source.spec:
        raise ValueError("config.source.spec must name the source, such as tar:/data/*.tar.")
    if config.source.spec != "shapes":
        return sources.open_source(config.source.spec, config.annotate.allow_urls)
    arguments = config.source.shapes.to_dict()
    arguments["categories"] = dict(arguments["categories"])
    folder = workdir / "source"
    check_writable(folder)
    world.write_shards(folder, **arguments)
    shards = sources.open_source(f"tar:{glob.escape(str(folder))}/shapes-*.tar")
    return sources.Source("shapes", {"kind": "shapes", **arguments}, shards.pieces)
