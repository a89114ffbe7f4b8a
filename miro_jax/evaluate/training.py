"""The stage `train`: records where the shapes world has none yet, training, evaluation."""

from pathlib import Path

from miro_jax import annotate
from miro_jax.cli import run_folder
from miro_jax.cli.build import Config
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate.preview import Preview
from miro_jax.train import loop


def run(config: Config, workdir: Path) -> None:
    """Train; before it make the shapes world's records, after it evaluate, as the config says."""
    if run_folder.makes_records(config, workdir):
        annotate.run(config, workdir)  # returns at once where that is done
    loop.run(config, workdir, Preview)
    if config.train.report:
        evaluate.run(config, workdir)
