"""What is scored, as pieces of one source: a folder of images, a table of paths, or any source.

    folder    runs of the images below it, by path; of a folder that sample wrote, the images that
              its manifest.json lists, with their prompts
    table     runs of rows, in the table's order; paths from the table's folder. An image may stand
              in many rows, so that several captions of it are scored
    source    the pieces of tar shards and of whatever else `miro_jax.data.sources` reads

The pieces are the same, in the same order, in every process.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence

from miro_jax.data import json_file, sources
from miro_jax.data.near import near_path
from miro_jax.data.printable import some
from miro_jax.data.sources import (
    KINDS,
    Piece,
    Sample,
    Source,
    Tables,
    folder,
    reading,
    tables,
    texts,
)
from miro_jax.data.sources.root import Root, is_base64
from miro_jax.data.sources.tables import Row, Table
from miro_jax.data.storage.ahead import map_ahead

IMAGES_PER_PIECE = 1000
MANIFEST_NAME = "manifest.json"  # of sample


def open_rows(
    words: Sequence[str], path_column: str | None, caption_column: str | None
) -> Table | None:
    """Open PATH where it is a table, or a folder with the manifest of sample."""
    if len(words) != 1 or is_source(words[0]):
        return None
    (word,) = words
    if _is_folder(word):
        word = reading.join(word, MANIFEST_NAME)
        if not _is_of_sample(word):
            return None
    elif not tables.is_table(word):
        return None
    return tables.open_table(word, path_column, caption_column)


def is_source(word: str) -> bool:
    """Return whether a word is the text of a source, as tar:PATTERN."""
    return word.partition(":")[0] in KINDS and ":" in word


def open_input(
    words: Sequence[str], rows: Table | None, given: Tables, allow_urls: bool = False
) -> Source:
    """Return the pieces of PATH, with `facts` for the request.

    Args:
      words: PATH. rows: see `open_rows`. given: captions in place of those that PATH has.
      allow_urls: see `open_source`.

    Raises:
      ValueError: it is nothing that can be scored, or two pieces have one name.
      OSError: something is missing or cannot be read.
    """
    if rows is not None:
        return _open_table(rows, given, allow_urls)
    if words and all(word.endswith(".tar") or is_source(word) for word in words):
        specs = [word if is_source(word) else f"tar:{word}" for word in words]
        return _join(specs, given, allow_urls)
    if len(words) == 1 and _is_folder(words[0]):
        return _open_folder(words[0], given, allow_urls)
    raise ValueError(
        f"PATH must be one folder of images, one table ({', '.join(tables.ENDINGS)}), tar files, "
        f"or sources such as tar:PATTERN ({', '.join(KINDS)}); got {some(words, ' ') or 'nothing'}."
        + _advice(words)
    )


def _advice(words: Sequence[str]) -> str:
    """Return what to do about words that are nothing to score."""
    if missing := [word for word in words if not os.path.exists(word)]:
        named = "".join(f" {word} is missing{near_path(word)}" for word in missing[:3])
        return named + (f" {len(missing) - 3:,} more are missing." if missing[3:] else "")
    if all(map(os.path.isfile, words)):
        several = "some images" if len(words) > 1 else "one image"
        return (
            f" For {several}, give a table with a line for each, such as a .csv with the columns "
            "path and caption, or the folder; in Python load_reward(NAME).score(PATHS, CAPTIONS)."
        )
    return " For several folders, run it for each, or give one table of paths."


def names_of(source: Source) -> Iterator[tuple[str, ...]]:
    """Yield the names of each image, where they are known without reading an archive.

    Nothing is yielded of tar shards and other archives.
    """
    if source.facts["kind"] in ("folder", "table"):
        yield from (sample.names for piece in source.pieces for sample in piece.read())


def _is_folder(word: str) -> bool:
    if reading.is_remote(word):
        return not (tables.is_table(word) or word.endswith(".tar"))
    return os.path.isdir(word)


def _is_of_sample(manifest: str) -> bool:
    """Return whether a file is the manifest of sample: JSON with images, files and prompts."""
    try:
        with reading.open_read(manifest) as file:
            data = file.read(json_file.MOST_BYTES)
        fields = {"images": [{"file": str, "prompt": str}]}
        return bool(json_file.parse_json(data, manifest, fields)["images"])
    except (FileNotFoundError, ValueError):
        return False


def _open_folder(place: str, given: Tables, allow_urls: bool) -> Source:
    images = list(folder.list_images(place))
    digest = hashlib.sha256(b"".join(map(folder.facts_of, images))).hexdigest()
    pieces = folder.make_runs(Root(place, allow_urls), images, IMAGES_PER_PIECE, given)
    facts = {"kind": "folder", "images": len(images), "digest": digest} | _allowed(allow_urls)
    return Source(place, facts, pieces)


def _allowed(allow_urls: bool) -> dict[str, bool]:
    """Return what a request says of `allow_urls`: nothing without it, as in older tables."""
    return {"allow_urls": True} if allow_urls else {}


def _join(specs: Sequence[str], given: Tables, allow_urls: bool) -> Source:
    """Return the pieces of several sources one after the other."""
    opened = list(map_ahead(lambda spec: sources.open_source(spec, allow_urls), specs))
    every = [piece for source in opened for piece in source.pieces]
    pieces: list[Piece] = []
    known: set[str] = set()
    digest = hashlib.sha256()
    for piece, signed in zip(every, map_ahead(Piece.fingerprint, every), strict=True):
        if piece.id in known:
            raise ValueError(
                f"Pieces must differ in name; two are called {piece.id}. One source of several "
                "folders, as tar:A/*.tar::B/*.tar, names them by their folders."
            )
        known.add(piece.id)
        digest.update(f"{piece.id}\0{signed}\n".encode())
        texts = piece.tables if given.captions is None else given
        again = piece.sign_again or piece.sign
        change = {"sign": functools.partial(str, signed), "sign_again": again}  # not read twice
        pieces.append(dataclasses.replace(piece, number=len(pieces), tables=texts, **change))
    facts = {"kind": "pieces", "facts": [source.facts for source in opened]}
    facts |= {"count": len(pieces), "bytes": sum(piece.num_bytes or 0 for piece in pieces)}
    return Source(some(specs, " "), facts | {"digest": digest.hexdigest()}, pieces)


def _open_table(table: Table, given: Tables, allow_urls: bool) -> Source:
    reader = _RowReader(table, Root(reading.parent(table.path), allow_urls))
    sign = functools.partial(reading.fingerprint, table.path)
    pieces = []
    for number, start in enumerate(range(0, table.count, IMAGES_PER_PIECE)):
        count = min(IMAGES_PER_PIECE, table.count - start)
        pieces.append(
            Piece(
                number,
                f"rows-{number:05d}",
                count,
                None,
                functools.partial(reader.samples, start, count),
                sign,
                given,
                has_captions=table.caption_column is not None,
                keys_repeat=True,
            )
        )
    columns = [table.path_column, *(table.caption_columns or [None])]
    facts = {"kind": "table", "columns": columns} | table.facts | _allowed(allow_urls)
    return Source(table.path, facts, pieces)


class _RowReader:
    """Reads runs of rows; runs that follow each other in one pass over the table."""

    def __init__(self, table: Table, root: Root):
        self._table, self._root, self._next = table, root, table.count + 1  # as after a pass

    def samples(self, start: int, count: int) -> Iterator[Sample]:
        """Yield the samples of `count` rows from row `start` on."""
        if start < self._next:
            self._rows, self._next = self._table.rows(), 0
        skipped, self._next = start - self._next, start
        for row in itertools.islice(self._rows, skipped, skipped + count):
            self._next += 1
            yield self._sample(row)

    def _sample(self, row: Row) -> Sample:
        is_path = bool(row.path) and texts.encodable(row.path)
        is_named = row.path and not is_base64(row.path)
        return Sample(
            key=reading.readable(row.path) if is_named else f"line {row.line}",
            image=functools.partial(self._root.read_image, row.path),
            caption=row.caption,
            synthetic={},
            meta={},
            problem="" if is_path else "missing image",
            detail="" if is_path else f"line {row.line} of the table names none",
            names=(row.path,),
        )


def first_images(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """Return the pieces of the first so many samples; those that hold an unknown number are read.

    Damage of a piece counts as a sample.
    """
    chosen: list[Piece] = []
    for piece in pieces:
        if limit <= 0:
            break
        count = piece.count
        if count is None:
            count = sum(1 for _ in itertools.islice(piece.read(), limit))
        if count > limit or piece.count is None:
            count = min(count, limit)
            piece = piece.first(count, count=count)
        chosen.append(piece)
        limit -= count
    return chosen
