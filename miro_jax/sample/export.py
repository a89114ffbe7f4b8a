"""Stage: a run of this package -> a folder in the released layout, which other programs load.

    miro-jax export --workdir=runs/mine --out=exported

The averaged weights of the newest checkpoint become `model.safetensors`; `config.json` also names
the encoders, so that `MiroPipeline.from_pretrained` of the folder needs nothing else.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from miro_jax import sample
from miro_jax.cli.exit import run, say
from miro_jax.cli.flags import Parser
from miro_jax.pretrained.weights import hub

NAME = "miro_jax.export"


def export(workdir: Path | str, out: Path | str) -> Path:
    """Write the averaged weights of a run in the released layout.

    Args:
      workdir: the run's folder. out: made where it is missing.

    Returns:
      The folder written.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint. ValueError: the released layout cannot
        hold this network, with the sizes that it fixes.
    """
    settings = check_layout(workdir)
    encoders = {kind: settings.encoder[kind].to_dict() for kind in ("image", "caption")}
    return sample.trained.export(sample.trained.load(workdir), out, encoders)


def check_layout(workdir: Path | str) -> ml_collections.ConfigDict:
    """Return the config of a run whose network the released layout can hold; else ValueError."""
    sample.trained.peek(workdir)
    settings = ml_collections.ConfigDict(hub.open(workdir).json("config.json"))
    sizes = settings.model.rin
    wrong = [
        f"config.model.rin.{key} must be {want}; got {sizes[key]}"
        for key, want in sample.trained.official.FIXED.items()
        if sizes[key] != want
    ]
    if wrong:
        raise ValueError(
            f"The released layout cannot hold the network of {workdir}: {'; '.join(wrong)}. Train "
            "one with these sizes."
        )
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(
        prog="miro-jax export",
        description="Write a run's averaged weights in the released layout: config.json, "
        "model.safetensors, uncond_embedding.npy.",
        epilog="example: miro-jax export --workdir=runs/mine --out=exported",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")

    def plan() -> Namespace:
        flags = parser.read(arguments)
        if not (Path(flags.workdir) / "checkpoints").is_dir():
            raise FileNotFoundError(
                f"--workdir must be a run's folder with checkpoints; got {flags.workdir}."
            )
        check_layout(flags.workdir)
        return flags

    return run(NAME, plan, lambda flags: say(export(flags.workdir, flags.out)))


if __name__ == "__main__":
    sys.exit(main())
