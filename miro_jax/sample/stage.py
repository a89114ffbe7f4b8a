"""The sampling stage of a configured run: `config.sample` -> `WORKDIR/images`.

The folder gets one PNG for each image, `grid.png` with all of them labelled, and last
`manifest.json`, which says for each file how to make it again. What an earlier call with other
settings listed there is removed first, so that the folder never mixes two requests.
"""

from pathlib import Path
from typing import Any

import jax
import ml_collections

from miro_jax.cli.exit import say
from miro_jax.models.targets import parse_targets, to_levels
from miro_jax.rewards.names import short_name
from miro_jax.sample import draw
from miro_jax.sample.folder import check_writable, open_folder
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.request import Request, make_request
from miro_jax.sample.trained import restore
from miro_jax.sample.usual import read_settings
from miro_jax.sample.verbs import Images


def validate(config: ml_collections.ConfigDict) -> None:
    """Check `config.sample`; ValueError names the key."""
    prompts = config.sample.prompts
    if isinstance(prompts, str) or not prompts or config.sample.images_per_prompt < 1:
        raise ValueError(
            "config.sample.prompts must be a tuple of texts, and config.sample.images_per_prompt "
            f"at least 1; got {prompts!r} and {config.sample.images_per_prompt}. Write "
            "--config.sample.prompts=\"('a red circle',)\" with the quotes and the comma."
        )
    for key in ("targets", "negative_targets"):
        try:
            to_levels(parse_targets(config.sample[key]), 1, _names(config), 1.0)
        except ValueError as error:
            raise ValueError(f"config.sample.{key}: {error}") from error
    try:
        read_config(config)
    except ValueError as error:
        raise ValueError(f"config.sample.{error}") from error


def run(config: ml_collections.ConfigDict, workdir: Path | str) -> None:
    """Sample `config.sample.prompts` with the latest checkpoint into `WORKDIR/images`; print that.

    Raises:
      FileNotFoundError: there is no checkpoint. ValueError: it is not of this config, or several
        processes sample. PermissionError: the folder cannot be written.
    """
    validate(config)
    if (count := jax.process_count()) > 1:
        raise ValueError(
            f"--stage=sample is for one process, without config.mesh.distributed; got {count}."
        )
    folder = Path(workdir) / "images"
    check_writable(folder)
    pipe = MiroPipeline(restore(config, workdir), config.sample.batch_size)
    write_images(pipe, folder, read_config(config), progress=True)
    say(f"images: {folder}")


def read_config(config: ml_collections.ConfigDict) -> Request:
    """Return what `config.sample` requests."""
    c = config.sample
    return make_request(
        _names(config),
        list(c.prompts),
        c.images_per_prompt,
        seed=c.seed,
        targets=parse_targets(c.targets),
        negative_targets=parse_targets(c.negative_targets),
        **read_settings(c),
    )


def _names(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    return tuple(map(short_name, config.data.train_rewards))


def write_images(
    pipe: Any, path: Path | str, request: Request, progress: bool = False
) -> list[Path]:
    """Sample a request into a folder in place of what another one has listed there.

    Args:
      pipe: a `MiroPipeline`. path: the folder. progress: show a bar on stderr.

    Returns:
      The paths of the images, prompt by prompt.
    """
    sheet = Images().sheet(request)
    facts = request.describe("images", sheet.images) | draw.describe_pipeline(pipe)
    with open_folder(path, facts, sheet.files, replace=True) as folder:
        draw.fill(folder, pipe, sheet, progress)
    return [Path(path) / file for file in sheet.files]
