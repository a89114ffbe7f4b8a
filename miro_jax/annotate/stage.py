"""The stage as other code calls it: from a config, or from plain arguments."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import Path

import jax
import ml_collections

from miro_jax.annotate import origin, workers
from miro_jax.annotate.finish import finished, merge
from miro_jax.annotate.plan import Plan, plan
from miro_jax.annotate.summary import summarize
from miro_jax.annotate.tell import describe
from miro_jax.annotate.work import annotate_pieces
from miro_jax.cli import build, run_folder
from miro_jax.cli.exit import say
from miro_jax.data import sources
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.shapes import world
from miro_jax.data.storage import check_writable

SHARED, PLAN, PROBE = "shared", "plan", "probe"
log = logging.getLogger("miro_jax")


def annotate(*arguments, **keywords) -> Manifest | None:
    """Annotate a source into a folder; where that is done, check it and return.

    Args:
        As `plan`.

    Returns:
        The manifest of the complete set, or None while pieces or groups are left to others.

    Raises:
        ValueError: a bad argument, or the folder holds records of another configuration.
        OSError: something is not there, or cannot be read or written.
        RuntimeError: more samples failed than `max_failure_rate`, with the main causes; everything
            done so far is kept.
    """
    return execute(plan(*arguments, **keywords))


def execute(todo: Plan) -> Manifest | None:
    """Do what is not done yet of a plan; see `annotate`."""
    if not origin.is_complete(todo.folder):
        annotate_pieces(todo)
        # Others may have finished it before we said that we make it, too.
        return merge(todo) if todo.is_whole or origin.has_all(todo.folder) else None
    manifest = finished(todo)
    origin.clean(todo.folder)
    return manifest


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Manifest | None:
    """Annotate the source of a config into the run's folder of records.

    The shapes world is drawn into `WORKDIR/source` first, where it is not there yet.

    Raises:
        See `annotate`.
    """
    todo = plan_of(config, workdir)
    if config.annotate.before:
        say(describe(todo, measure=config.annotate.before == PROBE))
        return None
    was_complete = origin.is_complete(todo.folder)
    manifest = execute(todo)
    say(summarize(todo, manifest, was_complete))
    return manifest


def plan_of(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Plan:
    """Make the plan of a config; see `run`."""
    c = config.annotate
    if c.before not in ("", PLAN, PROBE):
        raise ValueError(
            f"config.annotate.before must be '', {PLAN!r} or {PROBE!r}; got {c.before!r}."
        )
    source = _open_source(config, Path(workdir))
    asked = None if c.pieces == SHARED else c.pieces
    environment = os.environ if c.pieces == SHARED else {}
    index = count = None
    if c.pieces == SHARED and config.mesh.distributed:
        index, count = jax.process_index(), jax.process_count()
    share = workers.choose(len(source.pieces), environment, asked, index, count)
    log.info("annotate: %s", share.why)
    return plan(
        source,
        # A path would lose a slash of a URL.
        config.data.records or run_folder.records_folder(config, Path(workdir)),
        config.rewards,
        build.image_encoder_arguments(config),
        build.caption_encoder_arguments(config),
        weights=build.reward_weights(config),
        pieces=share.pieces,
        will_write=not c.before,
        **{name: c[name] for name in c if name not in ("pieces", "before")},
    )


def _open_source(config: ml_collections.ConfigDict, workdir: Path) -> sources.Source:
    if not config.source.spec:
        raise ValueError("config.source.spec must say where the pictures are, as tar:/data/*.tar.")
    if config.source.spec != "shapes":
        return sources.open_source(config.source.spec)
    arguments = config.source.shapes.to_dict()
    arguments["categories"] = dict(arguments["categories"])
    folder = workdir / "source"
    check_writable(folder)
    world.write_shards(folder, **arguments)
    found = sources.open_source(f"tar:{glob.escape(str(folder))}/shapes-*.tar")
    return sources.Source("shapes", {"kind": "shapes", **arguments}, found.pieces)
