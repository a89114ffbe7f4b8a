"""A folder of images: runs of sorted files, texts from KEY.txt and KEY.json beside KEY.jpg.

A piece is a fixed number of images that follow each other, so adding a file changes the pieces
after it, and their fingerprints say so.
"""

import functools
import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from miro_jax.data.sources import listing, reading
from miro_jax.data.sources.images import BadImage
from miro_jax.data.sources.sample import Piece, Sample, Tables
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.tar import IMAGE_EXTENSIONS
from miro_jax.data.sources.texts import Texts, interpret

FILES_PER_PIECE = 1000


class ImageFile(NamedTuple):
    """An image's file, with the texts beside it; None where there is none."""

    name: str
    size: int
    txt: listing.File | None
    json: listing.File | None


def list_runs(spec: Spec, tables: Tables) -> list[Piece]:
    """Return one piece for each run of images below a folder.

    Raises:
      FileNotFoundError: no such folder, or no image in it.
      ValueError: a bad number of files a piece.
    """
    length = spec.number("per_piece", FILES_PER_PIECE)
    return make_runs(spec.place, list(list_images(spec.place)), length, tables)


def make_runs(place: str, images: Sequence[ImageFile], length: int, tables: Tables) -> list[Piece]:
    """Return one piece for each run of so many images of a folder.

    Raises:
        FileNotFoundError: there is no image.
    """
    if not images:
        raise no_images(place)
    pieces = []
    for number, begin in enumerate(range(0, len(images), length)):
        run = tuple(images[begin : begin + length])
        pieces.append(
            Piece(
                number,
                f"files-{number:05d}",
                len(run),
                sum(max(image.size, 0) for image in run),
                functools.partial(_run_samples, place, run),
                functools.partial(_sign, run),
                tables,
                functools.partial(_sign_again, place, run),
                any(one.txt or one.json for one in run),
            )
        )
    return pieces


def no_images(folder: str) -> FileNotFoundError:
    """Return the error that says so."""
    return FileNotFoundError(
        f"{folder} must hold images ({', '.join(IMAGE_EXTENSIONS)}); it holds none. For tar "
        "shards give tar:PATTERN."
    )


def list_images(folder: str) -> Iterator[ImageFile]:
    """List the images below a folder, in order, a folder at a time.

    Raises:
      FileNotFoundError: no such folder.
    """
    for prefix, listed in listing.walk(folder):
        texts = {}
        for file in listed:
            stem, _, extension = file.path.rpartition(".")
            if extension.lower() in ("txt", "json"):  # small letters stand above capitals
                texts[stem, extension.lower()] = file
        for name, size in listed:
            stem, _, extension = name.rpartition(".")
            if stem and extension.lower() in IMAGE_EXTENSIONS:
                beside = (texts.get((stem, kind)) for kind in ("txt", "json"))
                yield ImageFile(prefix + name, size, *beside)


def facts_of(image: ImageFile) -> bytes:
    """Return name and sizes; times differ after copying, and contents are not cheap."""
    sizes = [image.size, *(text and text.size for text in (image.txt, image.json))]
    return b"\0".join([os.fsencode(image.name), *map(str.encode, map(str, sizes))]) + b"\n"


def _sign(run: Iterable[ImageFile]) -> str:
    return hashlib.sha256(b"".join(map(facts_of, run))).hexdigest()[:16]


def _sign_again(folder: str, run: tuple[ImageFile, ...]) -> str:
    return _sign(reading.map_ahead(functools.partial(_listed_again, folder), run, folder))


def _listed_again(folder: str, image: ImageFile) -> ImageFile:
    """Return an image and the texts beside it with the sizes that they have now."""
    beside = reading.join(folder, posixpath.dirname(image.name))
    texts = [
        text and listing.File(text.path, listing.size_now(reading.join(beside, text.path)))
        for text in (image.txt, image.json)
    ]
    size = listing.size_now(reading.join(folder, image.name))
    return ImageFile(image.name, size, *texts)


def _run_samples(folder: str, run: tuple[ImageFile, ...]) -> Iterator[Sample]:
    yield from reading.map_ahead(functools.partial(make_sample, folder), run, folder)


def make_sample(folder: str, image: ImageFile) -> Sample:
    """Read the texts beside an image; the image itself is read later."""
    path, texts = reading.join(folder, image.name), _texts(folder, image)
    return Sample(
        key=reading.readable(image.name),
        image=functools.partial(reading.read_file, path, image.size),
        caption=texts.caption,
        synthetic=texts.synthetic,
        meta=texts.meta,
        problem=texts.problem,
        detail=texts.detail,
        names=(image.name, os.path.splitext(image.name)[0], reading.absolute(path)),
    )


def _texts(folder: str, image: ImageFile) -> Texts:
    beside, contents = reading.join(folder, posixpath.dirname(image.name)), []
    for file, cause in ((image.txt, "unreadable caption"), (image.json, "unreadable json")):
        if file is None:
            contents.append(None)
            continue
        try:
            contents.append(reading.read_file(reading.join(beside, file.path), file.size))
        except BadImage as error:
            return Texts(problem=cause, detail=str(error))
    return interpret(*contents)
