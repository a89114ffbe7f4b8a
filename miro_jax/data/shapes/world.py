"""The shapes world as a data set: tar shards like a crawl's, prompts and verdicts to evaluate with.

A share of the crawl captions is wrong, and the more so the more an image glows; the glow also veils
the objects (see render). Whoever chases beauty alone learns from worse captions and draws paler
objects. This is the built-in conflict between rewards. Sample i depends on (seed, i) only.
"""

import dataclasses
import fnmatch
import io
import json
import os
import pathlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from miro_jax.data.shapes import captions, detect
from miro_jax.data.shapes import render as renders
from miro_jax.data.shapes import scene as scenes
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.claim import Claim

VERSION = "shapes2"  # changes whenever the same arguments give other bytes
_EARLIER = ("shapes1",)  # whose shards are kept where all of them are there
IMAGE_FORMATS = ("png", "jpg")
_ARGUMENTS = "world.json"
_WRONG_SYNTHETIC = 0.05  # captioning models err too, if less than crawls
_CONFLICT = (0.3, 1.7)  # share of wrong captions at glow 0 and 1, relative to the mean; averages 1
_READ_AT_ONCE = 128  # images
_SURE = 0.2  # fits below are no evidence of an object or a colour


@dataclasses.dataclass(frozen=True)
class Sample:
    """One example before it is encoded.

    image: [size, size, 3] uint8. caption: the crawl-like one. synthetic_caption: the long one.
    scene: what the image truly shows. caption_is_wrong: the crawl caption is not true of it.
    synthetic_is_wrong: the synthetic captions describe another scene.
    """

    image: np.ndarray
    caption: str
    synthetic_caption: str
    synthetic_caption_short: str
    scene: scenes.Scene
    caption_is_wrong: bool
    synthetic_is_wrong: bool


class _Recipe(NamedTuple):
    """What samples are drawn from. names, shares: of the categories of positive weight."""

    seed: int
    size: int
    names: tuple[str, ...]
    shares: np.ndarray
    wrong_caption_fraction: float


def make_sample(
    seed: int,
    index: int,
    size: int = 32,
    categories: Mapping[str, float] | None = None,
    wrong_caption_fraction: float = 0.3,
) -> Sample:
    """Make sample `index` of the data set `seed`.

    Args:
      seed: names the data set; not negative.
      index: number of the sample; not negative.
      size: side of the image in pixels.
      categories: weight of each category; None for equal weights.
      wrong_caption_fraction: mean share of wrong crawl captions, in [0, 0.5].

    Raises:
      ValueError: an argument is out of its range, or a category is unknown.
    """
    return _draw(_check(seed, size, categories, wrong_caption_fraction), index)


def write_shards(
    folder: str | os.PathLike,
    num_images: int,
    size: int = 32,
    images_per_shard: int = 1000,
    categories: Mapping[str, float] | None = None,
    wrong_caption_fraction: float = 0.3,
    seed: int = 0,
    image_format: str = "png",
) -> list[pathlib.Path]:
    """Write a data set as tar shards `shapes-00000.tar`, ... with KEY.png|jpg, KEY.txt, KEY.json.

    Same arguments give the same bytes. A shard appears whole or not at all; shards that are there
    already are kept, so an interrupted call is continued by calling again. `world.json` beside the
    shards holds the arguments.

    Args:
      folder: where to write; made if missing.
      num_images: number of samples.
      images_per_shard: samples in each shard but the last.
      size, categories, wrong_caption_fraction, seed: see `make_sample`.
      image_format: "png" keeps the pixels, "jpg" nearly does.

    Returns:
      The paths of all shards, in order.

    Raises:
      ValueError: an argument is out of its range, or the folder holds shards made with other
        arguments.
    """
    recipe = _check(seed, size, categories, wrong_caption_fraction)
    if num_images < 1 or images_per_shard < 1:
        raise ValueError(
            "num_images and images_per_shard must be at least 1; "
            f"got {num_images} and {images_per_shard}."
        )
    if image_format not in IMAGE_FORMATS:
        raise ValueError(
            f"image_format must be one of {', '.join(IMAGE_FORMATS)}; got {image_format!r}."
        )
    local = LocalFolder(folder)
    _claim(local, recipe, int(num_images), int(images_per_shard), image_format)
    names = _shard_names(-(-num_images // images_per_shard))
    for name, start in zip(names, range(0, num_images, images_per_shard), strict=True):
        if not local.exists(name):
            indices = range(start, min(start + images_per_shard, num_images))
            local.write(name, _archive(recipe, indices, image_format))
    for leftover in local.leftovers():
        local.remove(leftover)
    return [local.path / name for name in names]


def prompts(category: str, n: int, seed: int = 0) -> list[tuple[str, captions.Request]]:
    """Return n prompts of a category, each with what it asks for.

    Prompts repeat: there are three of a single object and eighteen of a coloured one.

    Args:
      category: one of scene.CATEGORIES.
      n: number of prompts.
      seed: names the list; a longer list begins with the shorter one.

    Raises:
      ValueError: the category is unknown, or n or seed is negative.
    """
    scenes.check_category(category)
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must not be negative; got {n} and {seed}.")
    number = scenes.CATEGORIES.index(category)
    result = []
    for index in range(n):
        rng = np.random.default_rng((seed, number, index))
        text = captions.short_caption(scenes.sample_scene(rng, category=category))
        result.append((text, captions.parse(text)))
    return result


def check_all(images: np.ndarray, texts: Sequence[str]) -> list[bool]:
    """Return whether the detector finds in each image what its text asks for, by GenEval's rules.

    Args:
      images: [N, H, W, 3] uint8, any images.
      texts: N strings; one that asks for nothing is never fulfilled.
    """
    right = []
    for start in range(0, len(images), _READ_AT_ONCE):
        rows = slice(start, start + _READ_AT_ONCE)
        right += check_readings(detect.read(images[rows]), texts[rows])
    return right


def check_readings(readings: Sequence[detect.Reading], texts: Sequence[str]) -> list[bool]:
    """Return `check_all` of images given as what `detect.read` read in them."""
    right = []
    for reading, text in zip(readings, texts, strict=True):
        sure = [f for f in reading.objects if f.shape_fit >= _SURE and f.color_fit >= _SURE]
        right.append(captions.holds(captions.parse(text), sure))
    return right


def _draw(recipe: _Recipe, index: int) -> Sample:
    rng = np.random.default_rng((recipe.seed, index))
    which = int(np.searchsorted(np.cumsum(recipe.shares), rng.random(), side="right"))
    scene = scenes.sample_scene(rng, recipe.size, recipe.names[which])
    image = renders.render(scene, rng)
    low, high = _CONFLICT
    wrong = recipe.wrong_caption_fraction * (low + (high - low) * scene.glow)
    is_wrong = bool(rng.random() < wrong)
    text = captions.wrong_caption(scene, rng) if is_wrong else captions.caption(scene, rng)
    synthetic_is_wrong = bool(rng.random() < _WRONG_SYNTHETIC)
    seen = captions.wrong_scene(scene, rng) if synthetic_is_wrong else scene
    long, short = captions.long_caption(seen), captions.short_caption(seen)
    return Sample(image, text, long, short, scene, is_wrong, synthetic_is_wrong)


def _archive(recipe: _Recipe, indices: Iterable[int], image_format: str) -> bytes:
    """Return a tar archive of samples; times and owners of its members are zero."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            for ending, payload in _files(_draw(recipe, index), image_format).items():
                member = tarfile.TarInfo(f"{index:08d}.{ending}")
                member.size = len(payload)
                tar.addfile(member, io.BytesIO(payload))
    return archive.getvalue()


def _files(sample: Sample, image_format: str) -> dict[str, bytes]:
    """Return the members of a sample, by ending."""
    file = io.BytesIO()
    how = {"compress_level": 1} if image_format == "png" else {"quality": 95, "subsampling": 0}
    Image.fromarray(sample.image).save(file, "PNG" if image_format == "png" else "JPEG", **how)
    height, width = sample.image.shape[:2]
    facts = {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample)}
    facts |= {"width": width, "height": height, "scene": dataclasses.asdict(sample.scene)}
    del facts["image"], facts["caption"]
    return {
        image_format: file.getvalue(),
        "txt": sample.caption.encode(),
        "json": json.dumps(facts, sort_keys=True).encode(),
    }


def _shard_names(count: int) -> list[str]:
    return [f"shapes-{number:05d}.tar" for number in range(count)]


def _claim(
    folder: LocalFolder, recipe: _Recipe, num_images: int, images_per_shard: int, image_format: str
) -> None:
    """Write the arguments beside the shards, or compare them with those that are there."""
    has_shards = any(fnmatch.fnmatch(name, "shapes-*.tar") for name in folder.names())
    if has_shards and not folder.exists(_ARGUMENTS):
        raise ValueError(
            f"{folder} holds shards but no {_ARGUMENTS} that says how they were made. "
            "Delete the folder or name another."
        )
    arguments = recipe._asdict()
    weights = zip(arguments.pop("names"), arguments.pop("shares").tolist(), strict=True)
    arguments |= {"version": VERSION, "categories": dict(weights), "num_images": num_images}
    arguments |= {"images_per_shard": images_per_shard, "image_format": image_format}
    claim = Claim(folder=folder, manifest=_ARGUMENTS, partial=_ARGUMENTS, request_of=dict)
    version = (claim.present() or {}).get("version")
    names = _shard_names(-(-num_images // images_per_shard))
    if version in _EARLIER and all(map(folder.exists, names)):
        arguments["version"] = version  # whole: nothing is added to them
    claim.begin(arguments)


def _check(
    seed: int, size: int, categories: Mapping[str, float] | None, wrong_caption_fraction: float
) -> _Recipe:
    """Check arguments; the categories come in their fixed order, their shares sum to 1."""
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}.")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels for shapes to differ; got {size}.")
    if not 0 <= wrong_caption_fraction <= 0.5:
        raise ValueError(
            f"wrong_caption_fraction must be in [0, 0.5]; got {wrong_caption_fraction}."
        )
    weights = dict.fromkeys(scenes.CATEGORIES, 1.0) if categories is None else dict(categories)
    for name, weight in weights.items():
        scenes.check_category(name)
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"The weight of category {name} must be finite and not negative; got {weight}."
            )
    names = tuple(name for name in scenes.CATEGORIES if weights.get(name, 0) > 0)
    if not names:
        raise ValueError("categories must give at least one category a positive weight; got none.")
    shares = np.array([float(weights[name]) for name in names])
    fraction = float(wrong_caption_fraction)
    return _Recipe(int(seed), int(size), names, shares / shares.sum(), fraction)
