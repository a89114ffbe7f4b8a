"""Pictures from a pipeline, cut into batches that do not depend on where work began."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from miro_jax.cli.progress import Progress
from miro_jax.models.sampler import draw_noise, sample_keys
from miro_jax.sample.request import Picture, Settings


def batches(pictures: Iterable[Picture], size: int) -> list[list[Picture]]:
    """Cut pictures into batches of at most `size` with one guidance scale each.

    The same pictures always give the same batches: work that is gone on with makes a batch whole,
    so that not even rounding tells it from work that was never stopped.
    """
    groups: dict[float, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.guidance_scale, []).append(picture)
    return [
        group[start : start + size]
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


def draw(pipe: Any, pictures: Sequence[Picture], settings: Settings) -> np.ndarray:
    """Draw one batch.

    Args:
      pipe: a `MiroPipeline`. pictures: [B] of one guidance scale.
      settings: how to sample; the scale is the pictures' own.

    Returns:
      [B, H, W, 3] uint8.
    """
    (scale,) = {picture.guidance_scale for picture in pictures}
    return pipe(
        [picture.prompt for picture in pictures],
        1,
        targets=[picture.targets for picture in pictures],
        negative_targets=[picture.negative_targets for picture in pictures],
        negative_prompt=settings.negative_prompt,
        guidance_scale=scale,
        guidance_interval=tuple(settings.guidance_interval),
        num_steps=settings.num_steps,
        solver=settings.solver,
        noise=_noise(pipe, pictures),
        output_type="numpy",
    )


def draw_all(
    pipe: Any, pictures: Sequence[Picture], settings: Settings, progress: bool = False
) -> np.ndarray:
    """Draw any number of pictures, [N, H, W, 3] uint8 in their order."""
    found: dict[str, np.ndarray] = {}
    with Progress("sample", "images", len(pictures), silent=not progress) as shown:
        for batch in batches(pictures, pipe.batch_size):
            images = draw(pipe, batch, settings)
            found |= {picture.file: image for picture, image in zip(batch, images, strict=True)}
            shown.update(len(batch))
    return np.stack([found[picture.file] for picture in pictures])


def _noise(pipe: Any, pictures: Sequence[Picture]) -> np.ndarray:
    """Draw the noise of pictures, [B, h, w, C], as the pipeline itself would."""
    padded = [*pictures, *[pictures[-1]] * (pipe.batch_size - len(pictures))]
    keys = [
        sample_keys(seed, *np.array([(p.prompt_index, p.sample_index) for p in group]).T)
        for seed, group in itertools.groupby(padded, key=lambda picture: picture.seed)
    ]
    noise = draw_noise(jnp.concatenate(keys), pipe.trained.config.latent_shape)
    return np.asarray(noise)[: len(pictures)]
