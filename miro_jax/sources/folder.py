"""A folder of pictures: runs of sorted files, texts from KEY.txt and KEY.json beside KEY.jpg.

A piece is a fixed number of pictures that follow each other, so adding a file changes the pieces
after it, and their fingerprints say so.
"""

from __future__ import annotations

import functools
import hashlib
import os
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
    """A picture's file, with the sizes of the texts beside it; None where there is none."""

    name: str
    size: int
    txt: int | None
    json: int | None


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
        texts = {f.path: f.size for f in listed if f.path.lower().endswith((".txt", ".json"))}
        for name, size in listed:
            stem, _, extension = name.rpartition(".")
            if stem and extension.lower() in IMAGE_EXTENSIONS:
                beside = (texts.get(f"{stem}.txt"), texts.get(f"{stem}.json"))
                yield _Picture(prefix + name, size, *beside)


def _sign(run: tuple[_Picture, ...]) -> str:
    """Digest names and sizes; times differ after copying, and contents are not cheap."""
    digest = hashlib.sha256()
    for picture in run:
        facts = [os.fsencode(picture.name), *map(str.encode, map(str, picture[1:]))]
        digest.update(b"\0".join(facts) + b"\n")
    return digest.hexdigest()[:16]


def _run_samples(folder: str, run: tuple[_Picture, ...]) -> Iterator[Sample]:
    for picture in run:
        path = reading.join(folder, picture.name)
        texts = _texts(os.path.splitext(path)[0], picture)
        yield Sample(
            key=readable(picture.name),
            image=functools.partial(reading.read_file, path),
            caption=texts.caption,
            synthetic=texts.synthetic,
            meta=texts.meta,
            problem=texts.problem,
            detail=texts.detail,
            names=(picture.name, os.path.splitext(picture.name)[0], path),
        )


def _texts(stem: str, picture: _Picture) -> Texts:
    contents = []
    for ending, size, cause in (
        (".txt", picture.txt, "unreadable caption"),
        (".json", picture.json, "unreadable json"),
    ):
        try:
            contents.append(None if size is None else reading.read_file(stem + ending))
        except BadImage as error:
            return Texts(problem=cause, detail=str(error))
    return interpret(*contents)
