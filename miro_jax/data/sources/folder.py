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
from miro_jax.data.sources.root import Root
from miro_jax.data.sources.sample import Piece, Sample, Tables, make_sample
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.tar import IMAGE_EXTENSIONS, TEXT_EXTENSIONS
from miro_jax.data.sources.texts import Texts, interpret

FILES_PER_PIECE = 1000
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's folders


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
    root = Root(spec.path, spec.allow_urls)
    beside = (reading.join(spec.path, name) for name in _METADATA)
    unread = "" if tables.captions else next(filter(reading.is_file, beside), "")
    return make_runs(root, list(list_images(spec.path)), length, tables, unread)


def make_runs(
    root: Root, images: Sequence[ImageFile], length: int, tables: Tables, unread: str = ""
) -> list[Piece]:
    """Return one piece for each run of so many images of a folder.

    Args:
      unread: a table in it that nobody named, for images without a caption to say so.

    Raises:
      FileNotFoundError: there is no image.
    """
    if not images:
        raise FileNotFoundError(
            f"{root.folder} must hold images ({', '.join(IMAGE_EXTENSIONS)}); it holds none. For "
            "tar shards give tar:PATTERN."
        )
    pieces = []
    for number, begin in enumerate(range(0, len(images), length)):
        run = tuple(images[begin : begin + length])
        pieces.append(
            Piece(
                number,
                f"files-{number:05d}",
                len(run),
                sum(max(image.size, 0) for image in run),
                functools.partial(_run_samples, root, run, unread),
                functools.partial(_sign, run),
                tables,
                functools.partial(_sign_again, root.folder, run),
                any(one.txt or one.json for one in run),
            )
        )
    return pieces


def list_images(folder: str) -> Iterator[ImageFile]:
    """List the images below a folder, in order, a folder at a time.

    Raises:
      FileNotFoundError: no such folder.
    """
    for prefix, listed in listing.walk(folder):
        texts = {}
        for file in listed:
            stem, _, extension = file.path.rpartition(".")
            if extension.lower() in (*TEXT_EXTENSIONS, "json"):  # small letters before capitals
                texts[stem, extension.lower()] = file
        for name, size in listed:
            stem, _, extension = name.rpartition(".")
            if stem and extension.lower() in IMAGE_EXTENSIONS:
                written = (texts.get((stem, kind)) for kind in TEXT_EXTENSIONS)
                txt = next(filter(None, written), None)
                yield ImageFile(prefix + name, size, txt, texts.get((stem, "json")))


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


def _run_samples(root: Root, run: tuple[ImageFile, ...], unread: str) -> Iterator[Sample]:
    yield from reading.map_ahead(functools.partial(_sample, root, unread), run, root.folder)


def _sample(root: Root, unread: str, image: ImageFile) -> Sample:
    """Read the texts beside an image; the image itself is read later."""
    path = reading.join(root.folder, image.name)
    whole = reading.absolute(path)
    names = (image.name, os.path.splitext(image.name)[0], whole, os.path.splitext(whole)[0])
    read = functools.partial(root.read, image.name, image.size)
    texts, detail = _texts(root, image), ""
    if unread and texts.caption is None:
        detail = texts.detail or f"give {unread} as ?captions=FILE"
    return make_sample(reading.readable(image.name), read, texts, names, "", detail)


def _texts(root: Root, image: ImageFile) -> Texts:
    contents = []
    for file, cause in ((image.txt, "unreadable caption"), (image.json, "unreadable json")):
        if file is None:
            contents.append(None)
            continue
        try:
            name = posixpath.join(posixpath.dirname(image.name), file.path)
            contents.append(root.read(name, file.size))
        except BadImage as error:
            return Texts(problem=cause, detail=str(error))
    return interpret(*contents)
