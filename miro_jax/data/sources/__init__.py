"""Sources: where images and captions come from, in pieces that do not depend on who reads them.

    open_source(spec) -> Source           .pieces -> list of Piece
    Piece   .id .number .count .num_bytes .fingerprint() .samples() -> iterator of Sample
    Sample  .key .read() .caption .synthetic .meta .problem .detail

    tar:PATTERN                       tar shards of KEY.jpg, KEY.txt, KEY.json; {00..99}, *, ?, **;
                                      `::` between patterns
    folder:DIR                        images with KEY.txt, KEY.json beside them
    table:FILE_OR_PATTERN             parquet with images or paths inside
    tfds:NAME/CONFIG:VERSION@DIR      TensorFlow Datasets, prepared as array_record

Options follow a question mark, with `&` between: `captions=FILE` (tar, folder: CSV, TSV, JSONL or
parquet), `synthetic=FILE` (all: file, short, long; tabs between, no header), `per_piece=N` (folder,
table), `image=NAME`, `caption=NAME` (table, tfds: which column or feature), `split=NAME` (tfds).
Paths with a scheme, such as gs://, are read through fsspec. What rows and links name is read below
the source's own folder alone, see `root`.

Captions come cleaned (`<PERSON>` deleted), keys are unique in the source (tar: SHARD.tar/KEY), and
duplicates, missing captions and damage are a sample's `problem`: nothing is raised but OSError of
the storage itself. `Sample.read()` is for the threads that decode.
"""

import os
from typing import Any

from miro_jax.data.sources import folder, parquet, tar, tfds
from miro_jax.data.sources.captions import index_captions, index_synthetic
from miro_jax.data.sources.json_tables import CAPTION_COLUMNS
from miro_jax.data.sources.sample import Piece, Sample, Source, Tables, complete, expected_samples
from miro_jax.data.sources.spec import KINDS, parse
from miro_jax.data.sources.tables import open_table, sha256
from miro_jax.data.sources.tar import IMAGE_EXTENSIONS

__all__ = [
    "IMAGE_EXTENSIONS",
    "KINDS",
    "Piece",
    "Sample",
    "Source",
    "Tables",
    "complete",
    "expected_samples",
    "open_source",
]

_LISTERS = {
    "tar": tar.list_tars,
    "folder": folder.list_runs,
    "table": parquet.list_groups,
    "tfds": tfds.list_shards,
}


def open_source(text: str, allow_urls: bool = False) -> Source:
    """Find what a source is made of; no image is read.

    Args:
      text: see above.
      allow_urls: read also what it names outside of its own folder: other files, addresses.

    Returns:
      The source; its pieces are the same, in the same order, wherever this is called.

    Raises:
      ValueError: the text is none of a source, or a table that it names is damaged.
      FileNotFoundError: there is no such thing.
    """
    spec = parse(text, allow_urls)
    facts: dict[str, Any] = {"kind": spec.kind, **spec.options}
    if allow_urls:
        facts["allow_urls"] = True
    captions = synthetic = None
    if "captions" in spec.options:
        table = open_table(spec.options["captions"])
        if table.caption_column is None:
            raise ValueError(
                f"{table.path} must have a column of captions named one of "
                f"{', '.join(CAPTION_COLUMNS)}; it has none. Give one the name 'caption'."
            )
        captions, facts["captions"] = index_captions(table), table.facts
    if "synthetic" in spec.options:
        synthetic = index_synthetic(spec.options["synthetic"])
        name = os.path.basename(spec.options["synthetic"])
        facts["synthetic"] = {"name": name, "digest": sha256(spec.options["synthetic"])}
    return Source(text, facts, _LISTERS[spec.kind](spec, Tables(captions, synthetic)))
