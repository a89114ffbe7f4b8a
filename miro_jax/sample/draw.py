"""Images from a pipeline: in memory, or into a folder where work resumes; and one of them again.

Batches do not depend on where work began: the same requests always give the same ones, and a batch
of which some images are there is drawn whole. So not even rounding tells work that was resumed from
work that was never stopped.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.cli.progress import Progress
from miro_jax.models.sampler import draw_noise, sample_keys
from miro_jax.report import grids
from miro_jax.sample.batches import NotFinite, check_student, default_dtype
from miro_jax.sample.folder import Folder
from miro_jax.sample.request import ImageRequest
from miro_jax.sample.settings import ModelOptions, Settings
from miro_jax.sample.sheets import GRID, Sheet
from miro_jax.sample.trained import Trained, weights_name

_WRITERS = 4  # threads that compress images while the device draws the next ones


def batches(images: Iterable[ImageRequest], size: int) -> list[list[ImageRequest]]:
    """Cut requests into batches of at most `size` with the same settings each."""
    groups: dict[Settings, list[ImageRequest]] = {}
    for image in images:
        groups.setdefault(image.settings, []).append(image)
    return [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


def check_images(pipe: Any, images: Sequence[ImageRequest]) -> None:
    """Raise Unfit, a ValueError, unless the network of a `MiroPipeline` can draw all of them."""
    if pipe.trained.config.student:
        negative = [image.negative_targets for image in images]
        levels = pipe.levels(negative, len(images), default=0.0)
        for image, row in zip(images, levels, strict=True):
            check_student(pipe.trained, image.settings, row)


def draw(pipe: Any, images: Sequence[ImageRequest]) -> np.ndarray:
    """Draw one batch.

    Args:
      pipe: a `MiroPipeline`. images: [B] of the same settings.

    Returns:
      [B, H, W, 3] uint8.

    Raises:
      NotFinite: the latents of an image, which is named.
    """
    (settings,) = {image.settings for image in images}
    try:
        return pipe(
            [image.prompt for image in images],
            1,
            targets=[image.targets for image in images],
            negative_targets=[image.negative_targets for image in images],
            noise=_noise(pipe, images),
            output_type="numpy",
            **dataclasses.asdict(settings),
        )
    except NotFinite as error:
        image = images[error.row]
        text = f"{image.file} of {image.prompt!r} has latents that are not finite"
        raise NotFinite(text, error.row) from error


def draw_batches(
    pipe: Any,
    images: Sequence[ImageRequest],
    missing: Callable[[ImageRequest], bool] = lambda image: True,
    progress: bool = False,
    title: str = "sample",
) -> Iterator[tuple[list[ImageRequest], np.ndarray]]:
    """Yield the batches that lack an image, each drawn whole, as [B, H, W, 3] uint8.

    Args:
      missing: whether an image is still to be drawn.
      progress: show a bar on stderr. title: of the bar.
    """
    done = sum(not missing(image) for image in images)
    with Progress(title, "images", len(images), done, silent=not progress) as shown:
        for batch in batches(images, pipe.batch_size):
            if count := sum(map(missing, batch)):
                yield batch, draw(pipe, batch)
                shown.update(count)


def draw_all(pipe: Any, images: Sequence[ImageRequest]) -> np.ndarray:
    """Draw any number of images, [N, H, W, 3] uint8 in their order."""
    drawn: dict[str, np.ndarray] = {}
    for batch, pixels in draw_batches(pipe, images):
        drawn |= zip((image.file for image in batch), pixels, strict=True)
    return np.stack([drawn[image.file] for image in images])


def draw_grid(sheet: Sheet, images: np.ndarray) -> np.ndarray:
    """Draw the labelled grid of a sheet.

    Args:
      sheet: the layout. images: [on_grid, H, W, 3] uint8, those of `sheet.on_grid`, in order.

    Returns:
      [height, width, 3] uint8.
    """
    rows, title = sheet.labels()
    cells = images.reshape(-1, len(sheet.columns), sheet.num_images, *images.shape[1:])
    return grids.labelled_grid(cells, rows, sheet.columns, title, sheet.per_line)


def _noise(pipe: Any, images: Sequence[ImageRequest]) -> np.ndarray:
    """Draw the noise of images, [B, h, w, C], as the pipeline itself would."""
    padded = [*images, *[images[-1]] * (pipe.batch_size - len(images))]
    keys = [
        sample_keys(seed, *np.array([(p.prompt_index, p.sample_index) for p in group]).T)
        for seed, group in itertools.groupby(padded, key=lambda image: image.seed)
    ]
    noise = draw_noise(jnp.concatenate(keys), pipe.trained.config.latent_shape)
    return np.asarray(noise)[: len(images)]


def fill(
    folder: Folder,
    pipe: Any,
    sheet: Sheet,
    progress: bool = False,
    compose: Callable[[Folder], Sequence[str]] | None = None,
) -> None:
    """Fill a folder with a sheet, resuming where it stopped: images, what shows them, manifest.

    Args:
      compose: writes what shows the images together and returns the names of these files; None
        draws the labelled grid.
    """
    if folder.is_complete():
        return
    with ThreadPoolExecutor(_WRITERS) as pool:
        writing: list = []
        for batch, drawn in draw_batches(pipe, sheet.images, folder.lacks, progress):
            for job in writing:
                job.result()
            new = [pair for pair in zip(batch, drawn, strict=True) if folder.lacks(pair[0])]
            writing = [pool.submit(folder.save, image.file, pixels) for image, pixels in new]
        for job in writing:
            job.result()
    files = (compose or functools.partial(write_grid, sheet))(folder)
    describe = entry_of(pipe.trained)
    folder.finish([describe(image) for image in sheet.images], files)


def write_grid(sheet: Sheet, folder: Folder) -> list[str]:
    """Write the labelled grid of images that a folder has; returns its name."""
    folder.save(GRID, draw_grid(sheet, folder.read(sheet.files[: len(sheet.on_grid)])))
    return [GRID]


def entry_of(trained: Trained) -> Callable[[ImageRequest], dict[str, Any]]:
    """Return the function that gives an image's entry of the manifest; `remake` reads it."""
    learned = [nnx.filter_state(state, nnx.Param) for state in trained.weights]
    of_weights = {
        "checkpoint": weights_name(trained),
        "checkpoint_step": trained.step,
        "checkpoint_parameters": sum(x.size for x in jax.tree.leaves(learned)),
    }
    return lambda image: image.to_entry() | of_weights


def remake(pipe: Any, entry: Mapping[str, Any]) -> np.ndarray:
    """Draw an image of a manifest again.

    Args:
      pipe: a `MiroPipeline` of the checkpoint that the entry names; with the dtype of the
        manifest's request, and its batch size given as `batch_size`, it draws the same bits. A last
        batch of a command without --batch-size may have run in a program of fewer rows: of its
        images it draws the same up to rounding.
      entry: one of the manifest's `images`.

    Returns:
      [H, W, 3] uint8.

    Raises:
      ValueError: it is no entry of a manifest.
    """
    return draw(pipe, [ImageRequest.from_entry(entry)])[0]


def describe_pipeline(pipe: Any) -> dict[str, Any]:
    """Return what else the bits of images depend on: the rest of a request."""
    return {
        "checkpoint": weights_name(pipe.trained),
        "batch_size": pipe.batch_size,
        "platform": jax.default_backend(),
        "attention": pipe.trained.attention,
    }


def describe_opened(pipe: Any, options: ModelOptions) -> dict[str, Any]:
    """Return the facts of `describe_pipeline`, and of what a command opened it with."""
    return describe_pipeline(pipe) | {
        "dtype": options.dtype or default_dtype(),
        "text_encoder": options.text_encoder,
        "vae": options.vae,
    }
