"""The stage `train`: records where the shapes world has none yet, training, evaluation."""

import functools
from pathlib import Path

from miro_jax import annotate
from miro_jax.annotate.settings import ALL
from miro_jax.cli import build, run_folder
from miro_jax.cli.build import Config
from miro_jax.cli.exit import note
from miro_jax.data.near import near_path
from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest, require_rewards
from miro_jax.data.storage.mirror import origin
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate.preview import Preview
from miro_jax.train import ahead, components, loop, peers


def check(config: Config, workdir: Path | str) -> None:
    """Check that the records are there, unless they are made first, before a folder is made.

    Args:
      workdir: the run's folder, or its URL.

    Raises:
      FileNotFoundError: there are none. ValueError: they have other rewards.
    """
    if config.source.spec != "shapes":
        manifest = Manifest.load(run_folder.records_folder(config, workdir))
        with components.mismatch_explained(config, workdir):
            require_rewards(manifest, build.reward_labels(config))


def run(config: Config, workdir: Path) -> None:
    """Train; before it make the shapes world's records, after it evaluate, as the config says.

    Raises:
      ValueError: the devices or the batches do not fit, before any work. See `train.loop.run`, too.
    """
    components.check_batches(config)
    makes = run_folder.makes_records(config, workdir) and not build.reads_weights(config)
    begun = ahead.begin(config) if makes else None  # compiles meanwhile
    if config.source.spec == "shapes":
        make = functools.partial(_make_records, config, workdir)
        if config.data.records or not origin(workdir):
            peers.first_alone(make, config.mesh.heartbeat_seconds)
        else:  # each process has a folder of its own, and makes the same
            make()
    loop.run(config, workdir, Preview, begun=begun)
    if config.train.report:
        evaluate.run(config, workdir)


def _make_records(config: Config, workdir: Path) -> None:
    """Annotate all of the shapes world, unless the records are given."""
    if run_folder.makes_records(config, workdir):
        if given := config.data.records:
            near = near_path(given, MANIFEST_NAME)
            note(f"no records in {given} yet: the shapes world is drawn into it{near}")
        alone = config.copy_and_resolve_references()
        if config.mesh.distributed:  # the other processes wait: they take no share
            alone.mesh.distributed, alone.annotate.pieces = False, ALL
        with components.mismatch_explained(config, workdir):
            annotate.run(alone, workdir)  # returns at once where that is done
