"""A folder of pictures: runs of sorted files, texts from KEY.txt and KEY.json beside KEY.jpg.

A piece is a fixed number of pictures that follow each other, so adding a file changes the pieces
after it, and their fingerprints say so.
"""

from __future__ import annotations

import functools
import hashlib
import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from miro_jax.images import BadImage
from miro_jax.sources import listing, reading
from miro_jax.sources.captions import readable
from miro_jax.sources.sample import Piece, Sample, Tables
from miro_jax.sources.spec import Spec
from miro_jax.sources.tar import IMAGE_EXTENSIONS
from miro_jax.sources.texts import Texts, interpret

FILES_PER_PIECE = 1000


class _Picture(NamedTuple):
    """A picture's file, with the texts beside it; None where there is none."""

    name: str
    size: int
    txt: listing.File | None
    json: listing.File | None


def list_runs(spec: Spec, tables: Tables) -> list[Piece]:
    """Return one piece for each run of pictures below a folder.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: a bad number of files a piece.
    """
    length = spec.number("per_piece", FILES_PER_PIECE)
    pictures = list(_pictures(spec.place))
    if not pictures:
        raise FileNotFoundError(
            f"{spec.place} must hold pictures ({', '.join(IMAGE_EXTENSIONS)}); it holds none. For "
            "tar shards give tar:PATTERN."
        )
    pieces = []
    for number, begin in enumerate(range(0, len(pictures), length)):
        run = tuple(pictures[begin : begin + length])
        pieces.append(
            Piece(
                number,
                f"files-{number:05d}",
                len(run),
                sum(max(picture.size, 0) for picture in run),
                functools.partial(_run_samples, spec.place, run),
                functools.partial(_sign, run),
                tables,
            )
        )
    return pieces


def _pictures(folder: str) -> Iterator[_Picture]:
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
                yield _Picture(prefix + name, size, *beside)


def _sign(run: tuple[_Picture, ...]) -> str:
    """Digest names and sizes; times differ after copying, and contents are not cheap."""
    digest = hashlib.sha256()
    for picture in run:
        sizes = [picture.size, *(text and text.size for text in (picture.txt, picture.json))]
        facts = [os.fsencode(picture.name), *map(str.encode, map(str, sizes))]
        digest.update(b"\0".join(facts) + b"\n")
    return digest.hexdigest()[:16]


def _run_samples(folder: str, run: tuple[_Picture, ...]) -> Iterator[Sample]:
    read = functools.partial(_texts, folder)
    for picture, texts in zip(run, reading.map_ahead(read, run, folder), strict=True):
        path = reading.join(folder, picture.name)
        yield Sample(
            key=readable(picture.name),
            image=functools.partial(reading.read_file, path, picture.size),
            caption=texts.caption,
            synthetic=texts.synthetic,
            meta=texts.meta,
            problem=texts.problem,
            detail=texts.detail,
            names=(picture.name, os.path.splitext(picture.name)[0], path),
        )


def _texts(folder: str, picture: _Picture) -> Texts:
    beside, contents = reading.join(folder, posixpath.dirname(picture.name)), []
    for file, cause in ((picture.txt, "unreadable caption"), (picture.json, "unreadable json")):
        if file is None:
            contents.append(None)
            continue
        try:
            contents.append(reading.read_file(reading.join(beside, file.path), file.size))
        except BadImage as error:
            return Texts(problem=cause, detail=str(error))
    return interpret(*contents)
