"""The per-image file `images.jsonl`: a JSON object a line, one for each image, ordered by key.

    {"key": "00012", "sample": 0, "file": "00012/samples/0000.png", "sha256": "3fab...",
     "width": 256, "height": 256, "prompt": "a photo of a bench", "tag": "single_object",
     ..., "rewards": {"pick_score@1": 0.2114, "clip@1": null}}

`key` and `sample` name an image within its suite; `file` is relative to the folder of images. What
the judge says of the image stands between, see the suite: its score first of all. A reward is on
the model's own scale, null where it could not be had. `evaluation.json` beside it holds its
digest.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from miro_jax.data.json_file import dump_lines, parse_lines
from miro_jax.data.storage import Damaged, Folder

ROWS_NAME = "images.jsonl"
SCHEMA = {
    "key": str,
    "sample": int,
    "file": str,
    "sha256": str,
    "prompt": str,
    "tag": str,
    "rewards?": {str: (float, None)},
}
Row = Mapping[str, Any]
_FIRST = ("key", "sample", "file", "sha256", "width", "height", "prompt", "tag")
_LAST = ("rewards",)


def dump_rows(rows: Iterable[Row]) -> bytes:
    """Return the content of the file; equal rows give equal bytes, in whatever order they come."""
    ordered = []
    for row in sorted(rows, key=lambda row: (row["key"], row["sample"])):
        judged = sorted(row.keys() - {*_FIRST, *_LAST})
        names = [name for name in (*_FIRST, *judged, *_LAST) if name in row]
        ordered.append({name: _ordered(row[name]) for name in names})
    return dump_lines(ordered)


def _ordered(value: Any) -> Any:
    """Return a JSON value with the keys of its objects in alphabetical order."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return list(map(_ordered, value)) if isinstance(value, list | tuple) else value


def read_rows(folder: Folder, digest: str) -> list[dict[str, Any]]:
    """Read the file.

    Args:
      folder: of an evaluation. digest: SHA-256 that the file must have.

    Raises:
      Damaged: it is missing, has another digest, or holds something else.
    """
    try:
        data = folder.read(ROWS_NAME)
    except FileNotFoundError as error:
        raise Damaged(
            f"{folder / ROWS_NAME} must be there, for evaluation.json beside it has its digest; it "
            "is missing. Copy the whole folder, or evaluate the images again."
        ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise Damaged(
            f"{folder / ROWS_NAME} must have the digest that evaluation.json beside it holds; it "
            "was changed after it was written. Evaluate the images again."
        )
    try:
        return parse_lines(data, folder / ROWS_NAME, SCHEMA)
    except ValueError as error:
        raise Damaged(str(error)) from error


def digest_of_images(rows: Sequence[Row]) -> str:
    """Return the digest of the sorted list of (key, sample, digest of the file)."""
    listed = sorted(f"{row['key']}\0{row['sample']}\0{row['sha256']}\n" for row in rows)
    return hashlib.sha256("".join(listed).encode("utf-8")).hexdigest()
