"""The sampling stage: prompts and reward targets of a config in, picture files out.

`WORKDIR/images/` gets one PNG for each picture, `grid.png` with all of them labelled, and last
`manifest.json`, which says for each file how to make it again. What an earlier call listed there is
removed first, so that the folder never mixes two requests.
"""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from miro_jax.evals import base, grids
from miro_jax.pipeline import MiroPipeline
from miro_jax.shards import to_json, write_atomic
from miro_jax.targets import parse_targets
from miro_jax.trained import restore

MANIFEST = "manifest.json"
GRID = "grid.png"


def validate(config) -> None:
    """Check the targets of `config.sample`; ValueError names the key."""
    for key in ("targets", "negative_targets"):
        try:
            asked = parse_targets(config.sample[key])
        except ValueError as error:
            raise ValueError(f"config.sample.{key}: {error}") from error
        unknown = [name for name in asked if name not in config.data.train_rewards]
        if unknown:
            raise ValueError(
                f"config.sample.{key}: unknown rewards {unknown}; the network is told "
                f"{', '.join(config.data.train_rewards) or 'none'}."
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
    trained = restore(config, workdir)
    pipeline = MiroPipeline(trained, config.sample.batch_size)
    c = config.sample
    write_images(
        pipeline,
        Path(workdir) / "images",
        list(c.prompts),
        c.images_per_prompt,
        parse_targets(c.targets),
        parse_targets(c.negative_targets),
        base.make_sampling(config),
        trained.step,
    )


def write_images(
    pipeline,
    folder: Path,
    prompts: list[str],
    num_images: int,
    targets: dict[str, float | None],
    negative_targets: dict[str, float | None],
    sampling: base.Sampling,
    checkpoint_step: int,
) -> list[Path]:
    """Sample and write the files that the module's docstring names.

    Returns:
      The paths of the pictures, prompt by prompt.
    """
    pictures = sampling.sample(pipeline, prompts, num_images, targets, negative_targets)
    _clear(folder)
    paths, entries = [], []
    for index, picture in enumerate(pictures):
        prompt_index, sample_index = divmod(index, num_images)
        prompt = prompts[prompt_index]
        path = folder / f"{prompt_index:04d}-{slug(prompt)}-{sample_index}.png"
        Image.fromarray(picture).save(path)
        paths.append(path)
        entries.append(
            {
                "file": path.name,
                "prompt": prompt,
                "prompt_index": prompt_index,
                "sample_index": sample_index,
                "seed": sampling.seed,
                # null = not asked for; the defaults written out, so that no one needs to know them
                "targets": dict.fromkeys(pipeline.reward_names, 1.0) | targets,
                "negative_targets": dict.fromkeys(pipeline.reward_names, 0.0) | negative_targets,
                "negative_prompt": sampling.negative_prompt,
                "guidance_scale": sampling.guidance_scale,
                "solver": sampling.solver,
                "num_steps": sampling.num_steps,
                "checkpoint_step": checkpoint_step,
            }
        )
    Image.fromarray(_grid(pictures, prompts, entries[0])).save(folder / GRID)
    write_atomic(folder / MANIFEST, to_json({"images": entries}))
    return paths


def slug(prompt: str) -> str:
    """Return a prompt as part of a file name: lower case letters and digits, at most 40."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "empty"


def _clear(folder: Path) -> None:
    """Make the folder, and remove what an earlier manifest lists, the manifest first."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if manifest.exists():
        listed = [entry["file"] for entry in json.loads(manifest.read_text("utf-8"))["images"]]
        manifest.unlink()
        for name in (*listed, GRID):
            (folder / Path(name).name).unlink(missing_ok=True)


def _grid(pictures: np.ndarray, prompts: list[str], entry: dict) -> np.ndarray:
    """Draw one row a prompt, with the settings that all pictures share above."""
    cells = pictures.reshape(len(prompts), 1, -1, *pictures.shape[1:])
    title = (
        f"step {entry['checkpoint_step']}, guidance {entry['guidance_scale']:g}, "
        f"{_describe(entry['targets'])}"
    )
    return grids.labelled_grid(cells, prompts, [""], title, min(cells.shape[2], 8))


def _describe(targets: dict[str, float | None]) -> str:
    """Name the targets that are not 1, the others together."""
    if not targets:
        return "no rewards"
    named = [
        f"{name} {'not asked' if level is None else format(level, 'g')}"
        for name, level in targets.items()
        if level != 1
    ]
    rest = len(targets) > len(named)
    return ", ".join([*named, *(["all others 1" if named else "all rewards 1"] if rest else [])])
