"""The pictures of a request, written into its folder; and one of them again, from the manifest."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from miro_jax import __version__
from miro_jax.cli.progress import Progress
from miro_jax.data.storage.files import to_json
from miro_jax.sample import draw
from miro_jax.sample.folder import GRID, Folder
from miro_jax.sample.request import Asked, Picture, Settings
from miro_jax.sample.sheets import Sheet
from miro_jax.sample.trained import Trained
from miro_jax.train.digest import examine
from miro_jax.train.state import leaf_name

_WRITERS = 4  # threads that compress pictures while the device draws the next ones


def write_pictures(
    folder: Folder,
    pipe: Any,
    pictures: Sequence[Picture],
    settings: Settings,
    progress: bool = False,
) -> None:
    """Draw the pictures that a folder has not got yet.

    A batch of which some are there is drawn whole, so that the others get the same bits as in work
    that was never stopped.
    """
    missing = sum(not folder.has(picture.file) for picture in pictures)
    with (
        ThreadPoolExecutor(_WRITERS) as pool,
        Progress(
            "sample", "images", len(pictures), len(pictures) - missing, silent=not progress
        ) as shown,
    ):
        writing: list = []
        for batch in draw.batches(pictures, pipe.batch_size):
            wanted = [not folder.has(picture.file) for picture in batch]
            if not any(wanted):
                continue
            images = draw.draw(pipe, batch, settings)
            for done in writing:
                done.result()
            writing = [
                pool.submit(folder.save, picture.file, image)
                for picture, image, new in zip(batch, images, wanted, strict=True)
                if new
            ]
            shown.update(len(writing))
        for done in writing:
            done.result()


def fill(
    folder: Folder,
    pipe: Any,
    sheet: Sheet,
    settings: Settings,
    progress: bool = False,
    compose: Callable[[Folder], Sequence[str]] | None = None,
) -> None:
    """Fill a folder with a sheet, going on where it stopped: pictures, what shows them, manifest.

    Args:
      compose: writes what shows the pictures together and returns the names of these files; None
        draws the labelled grid.
    """
    if folder.is_complete():
        return
    write_pictures(folder, pipe, sheet.pictures, settings, progress)
    files = (compose or functools.partial(_write_grid, sheet=sheet))(folder)
    name = weights_name(pipe.trained)
    folder.finish([entry(p, settings, pipe.trained, name) for p in sheet.pictures], files)


def _write_grid(folder: Folder, sheet: Sheet) -> list[str]:
    folder.save(GRID, sheet.grid(folder.read([picture.file for picture in sheet.on_grid])))
    return [GRID]


def entry(picture: Picture, settings: Settings, trained: Trained, name: str) -> dict[str, Any]:
    """Say in plain JSON how to make a picture again; `remake` reads it.

    Args:
      name: of the weights, see `weights_name`.
    """
    return {
        **dataclasses.asdict(picture),
        "guidance_interval": list(settings.guidance_interval),
        "negative_prompt": settings.negative_prompt,
        "solver": settings.solver,
        "num_steps": settings.num_steps,
        "checkpoint": name,
        "checkpoint_step": trained.step,
    }


def remake(pipe: Any, entry: Mapping[str, Any]) -> np.ndarray:
    """Draw a picture of a manifest again.

    Args:
      pipe: a `MiroPipeline` of the checkpoint that the entry names; with the batch size and dtype
        of the manifest's request it draws the same bits.
      entry: one of the manifest's `images`.

    Returns:
      [H, W, 3] uint8.

    Raises:
      KeyError: it is no entry of a manifest.
    """
    picture = Picture(**{field.name: entry[field.name] for field in dataclasses.fields(Picture)})
    settings = Settings(**{field.name: entry[field.name] for field in dataclasses.fields(Settings)})
    return draw.draw(pipe, [picture], settings)[0]


def weights_name(trained: Trained) -> str:
    """Name the weights, with a digest of them: the file's of a release, the arrays' of a run."""
    if "sha256:" in trained.name:
        return trained.name
    pairs, _ = jax.tree_util.tree_flatten_with_path(trained.weights)
    digests = examine({leaf_name(path): leaf for path, leaf in pairs})
    text = to_json({name: digest for name, (digest, _) in digests.items()})
    return f"{trained.name} step {trained.step} sha256:{hashlib.sha256(text).hexdigest()}"


def describe(verb: str, asked: Asked, pictures: Sequence[Picture], **more) -> dict[str, Any]:
    """Say in plain JSON what a request is, as far as it is known without the weights.

    Args:
      verb: what is made of the pictures. more: what the verb has been told besides.
    """
    settings = dataclasses.asdict(asked.settings)
    all_pictures = to_json([dataclasses.asdict(picture) for picture in pictures])
    return {
        "verb": verb,
        "prompts": [prompt.text for prompt in asked.prompts],
        "images_per_prompt": asked.num_images,
        "seed": asked.seed,
        "targets": dict(asked.targets),
        "negative_targets": dict(asked.negative_targets),
        **settings,
        **more,
        "pictures_sha256": hashlib.sha256(all_pictures).hexdigest(),
        "miro_jax": __version__,
    }


def describe_pipeline(pipe: Any) -> dict[str, Any]:
    """Say what else the bits of pictures depend on: the rest of a request."""
    return {
        "checkpoint": weights_name(pipe.trained),
        "batch_size": pipe.batch_size,
        "platform": jax.default_backend(),
    }
