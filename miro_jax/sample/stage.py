"""The sampling stage of a configured run: `config.sample` -> `WORKDIR/images`.

The folder gets one PNG for each picture, `grid.png` with all of them labelled, and last
`manifest.json`, which says for each file how to make it again. What an earlier call with other
settings listed there is removed first, so that the folder never mixes two requests.
"""

from pathlib import Path

from miro_jax.models.targets import parse_targets
from miro_jax.rewards.names import short_name
from miro_jax.sample import images, make
from miro_jax.sample.folder import open_folder
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.request import Asked, Settings, ask
from miro_jax.sample.trained import restore


def validate(config) -> None:
    """Check the targets of `config.sample`; ValueError names the key."""
    for key in ("targets", "negative_targets"):
        try:
            asked = parse_targets(config.sample[key])
        except ValueError as error:
            raise ValueError(f"config.sample.{key}: {error}") from error
        known = [short_name(name) for name in config.data.train_rewards]
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise ValueError(
                f"config.sample.{key}: unknown rewards {unknown}; the network is told "
                f"{', '.join(known) or 'none'}."
            )
    prompts = config.sample.prompts
    if isinstance(prompts, str) or not prompts or config.sample.images_per_prompt < 1:
        raise ValueError(
            "config.sample.prompts must be a tuple of texts, and config.sample.images_per_prompt "
            f"at least 1; got {prompts!r} and {config.sample.images_per_prompt}. Write "
            "--config.sample.prompts=\"('a red circle',)\" with the quotes and the comma."
        )


def run(config, workdir) -> None:
    """Sample `config.sample.prompts` with the latest checkpoint into `WORKDIR/images`.

    Raises:
      FileNotFoundError: there is no checkpoint. ValueError: it is not of this config.
    """
    validate(config)
    pipe = MiroPipeline(restore(config, workdir), config.sample.batch_size)
    write_images(pipe, Path(workdir) / "images", read_config(config), progress=True)


def read_config(config) -> Asked:
    """Return what `config.sample` asks for."""
    c = config.sample
    settings = Settings(c.guidance_scale, (0.0, 1.0), c.num_steps, c.solver, c.negative)
    return ask(
        tuple(map(short_name, config.data.train_rewards)),
        list(c.prompts),
        c.images_per_prompt,
        c.seed,
        parse_targets(c.targets),
        parse_targets(c.negative_targets),
        **vars(settings),
    )


def write_images(pipe, path: Path | str, asked: Asked, progress: bool = False) -> list[Path]:
    """Sample a request into a folder in place of what another one has listed there.

    Args:
      pipe: a `MiroPipeline`. path: the folder. progress: show a bar on stderr.

    Returns:
      The paths of the pictures, prompt by prompt.
    """
    sheet = images.sheet(asked)
    request = make.describe("images", asked, sheet.pictures) | make.describe_pipeline(pipe)
    files = [picture.file for picture in sheet.pictures]
    with open_folder(path, request, files, replace=True) as folder:
        make.fill(folder, pipe, sheet, asked.settings, progress)
    return [Path(path) / file for file in files]
