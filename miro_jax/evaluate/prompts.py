"""Prompts of evaluators: from the shapes world, from a file, or captions of the run's records.

Training reads all records, so captions of them are no held-out texts: the network has seen each
with its image. What is new are the images, their levels and their noise. A file of prompts measures
what the network does with texts that it has not seen.
"""

import bisect
import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from miro_jax.data.records.manifest import Manifest
from miro_jax.data.records.record import decode_record
from miro_jax.data.records.shards import home_of
from miro_jax.data.records.staging import open_shard
from miro_jax.data.shapes import world
from miro_jax.data.storage import open_folder
from miro_jax.data.storage.files import to_json
from miro_jax.evaluate.settings import AUTO
from miro_jax.sample.request import read_texts

SHAPES, CAPTIONS = "shapes", "captions"
log = logging.getLogger("miro_jax")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of one evaluation.

    Attributes:
      source: where they come from, for people.
      categories: category -> prompts; those without categories have the one name "".
      per_level: one prompt for each image of a dial's point.
    """

    source: str
    categories: Mapping[str, Sequence[str]]
    per_level: Sequence[str]

    @property
    def texts(self) -> list[str]:
        """All prompts, category by category."""
        return [text for texts in self.categories.values() for text in texts]

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the prompts."""
        texts = dict(self.categories)
        digests = [
            hashlib.sha256(to_json(part)).hexdigest()
            for part in ([texts, list(self.per_level)], texts)
        ]
        identity = dict(zip(("sha256", "texts_sha256"), digests, strict=True))
        return {"source": self.source, "count": len(self.texts), **identity}


def check(source: str, is_shapes: bool) -> None:
    """Check `config.evaluate.prompts`.

    Raises:
      ValueError: prompts of the shapes world for a run of other images, or a bad file.
      FileNotFoundError: there is no such file.
    """
    if source == SHAPES and not is_shapes:
        raise ValueError(
            "config.evaluate.prompts: 'shapes' is for runs trained on the shapes world. Set it to "
            "'captions' or to a file of prompts."
        )
    if source not in (AUTO, SHAPES, CAPTIONS):
        read_texts(source)


def make_prompts(settings: Any, is_shapes: bool, records: Path, seed: int) -> Prompts:
    """Return the prompts of an evaluation.

    Args:
      settings: `evaluate.settings.Settings`.
      is_shapes: the run is trained on the shapes world.
      records: the run's records. seed: of the shapes world's prompts.
    """
    source = settings.prompts
    if source == AUTO:
        source = SHAPES if is_shapes else CAPTIONS
    if source == SHAPES:
        categories = {
            name: [text for text, _ in world.prompts(name, settings.prompts_per_category, seed)]
            for name in settings.categories
        }
        in_turn = prompts_in_turn(settings.categories, settings.images_per_level, seed)
        return Prompts("the shapes world", categories, in_turn)
    if source == CAPTIONS:
        texts = read_captions(records, settings.max_prompts)
        name = f"captions of {len(texts)} training records"
    else:
        texts, name = read_texts(source), source
        if len(texts) > settings.max_prompts:
            log.info("Only the first %d of %d prompts are used", settings.max_prompts, len(texts))
            texts = texts[: settings.max_prompts]
    per_level = list(itertools.islice(itertools.cycle(texts), settings.images_per_level))
    return Prompts(name, {"": texts}, per_level)


def prompts_in_turn(categories: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` prompts of the shapes world, one of each category in turn."""
    each = -(-count // len(categories))
    columns = [[text for text, _ in world.prompts(name, each, seed)] for name in categories]
    return [text for row in zip(*columns, strict=True) for text in row][:count]


def read_captions(records: Path, count: int) -> list[str]:
    """Return the own captions of `count` records, evenly spread over the set.

    The same set gives the same captions. Empty captions and damaged records are dropped, so there
    may be fewer.

    Raises:
      ValueError: no caption is left.
    """
    manifest, home = Manifest.load(records), home_of(open_folder(records))
    total = manifest.num_records
    count = min(count, total)
    wanted = [index * total // count for index in range(count)]
    captions, start = [], 0
    for name in manifest.shard_names:
        end = start + manifest.shards[name]
        begin = bisect.bisect_left(wanted, start)
        rows = [index - start for index in wanted[begin : bisect.bisect_left(wanted, end)]]
        captions += _captions_of(open_shard(str(home), name), name, rows) if rows else []
        start = end
    if not captions:
        raise ValueError(
            f"{records} must hold captions to be used as prompts; they are empty. Set "
            "config.evaluate.prompts to a file."
        )
    return captions


def _captions_of(reader: ArrayRecordReader, shard: str, rows: Sequence[int]) -> list[str]:
    captions = []
    for row in rows:
        try:
            captions.append(decode_record(reader.read([row])[0]).caption.strip())
        except (RuntimeError, ValueError) as error:  # as training, which gives it weight 0
            log.warning("Record %d of %s is damaged: %s", row, shard, error)
    reader.close()
    return list(filter(None, captions))
