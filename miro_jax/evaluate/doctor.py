"""`miro-jax doctor`: what this machine is, what stands in the way, and how fast it is."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from miro_jax import evaluate
from miro_jax.cli import exit as exits
from miro_jax.cli import flags
from miro_jax.cli.config import parse
from miro_jax.cli.flags import check, option
from miro_jax.data.storage import one_slash

VERB = "doctor"
_DESCRIPTION = """Look at this machine: whether versions fit together, drivers, devices and what
they compute, memory, disk, open files, caches, weights, the store of runs and its clock, the other
processes. With --benchmark also time a matrix product, a training step and a sampler, in about a
minute."""
_EPILOG = """WARN is what works, not as well as it could; the line says what to do.

example:
  miro-jax doctor --benchmark --config=base
  miro-jax doctor --workdir=gs://bucket/runs --weights=sdxl_vae,flan_t5
"""
_STATUSES = {
    "done": "nothing is in the way",
    "failed": "something is (a line that begins with FAIL)",
}
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the doctor does. Fields are documented by their help."""

    workdir: str | None = option(
        None,
        help="folder or URL where runs will be written (default: runs, of which what is wrong is "
        "a warning)",
    )
    weights: str = option(
        "",
        help="names as of `miro-jax weights pull`, with commas between: they must be in the hub's "
        "cache, and their digests are computed",
    )
    benchmark: bool = option(False, help="time a matrix product, a training step and a sampler")
    config: str = option(
        AUTO,
        help="whose network is timed: base, miro, or a file as of `miro-jax train`, each with "
        ":VARIANT; auto is base on a CPU, miro elsewhere",
    )
    seconds: float = option(5.0, at_least=0.1, help="seconds of each timing, compilation apart")
    json: bool = option(False, help="print one line of JSON instead of text")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exits.run(VERB, lambda: _plan(arguments), lambda s: evaluate.speed.look(s))


def _plan(arguments: Sequence[str] | None) -> Settings:
    parser = flags.Parser(VERB, Settings, description=_DESCRIPTION, epilog=_EPILOG, **_STATUSES)
    settings = flags.make_settings(Settings, parser.read(arguments))
    check(settings)
    if settings.workdir is not None and (not settings.workdir or one_slash(settings.workdir)):
        raise exits.UsageError(
            f"--workdir must be a folder, or a URL with two slashes; got {settings.workdir!r}."
        )
    if settings.weights:
        evaluate.speed.check_weights(settings.weights)  # imported here: not for --help
    if settings.config != AUTO:
        read_config(settings.config)
    return settings


def read_config(name: str, overrides: Sequence[str] = ()) -> Any:
    """Return a config of a run by name or path; UsageError where there is none.

    Args:
      overrides: words such as `--config.seed=1`.
    """
    return parse([f"--config={name}", "--workdir=runs/doctor", *overrides], ["train"]).config


def latent_shape(config: Any) -> tuple[int, int, int]:
    """Return (H, W, C) of the image latents, without a weight: pixels as they are, or an eighth."""
    image = config.encoder.image
    return (image.size,) * 2 + (3,) if image.name == "pixels" else (image.size // 8,) * 2 + (4,)
