"""Images through a judge, a part after the other: what is done stays done.

A part is a fixed run of images; its file `parts/00012.json` appears whole or not at all, sealed.
Parts do not depend on where work began, so a run that was killed ends with the same bytes.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from miro_jax.cli.progress import Progress
from miro_jax.data.sources.images import BadImage, load_rgb
from miro_jax.data.storage import Folder
from miro_jax.data.storage.files import to_sealed_json
from miro_jax.evaluate.suites.base import Judge
from miro_jax.evaluate.suites.find import SuiteImage

PARTS = "parts"
_IMAGES_AT_LEAST = 64  # of a part
_THREADS = 4  # that read and decode while the judge works
_SCHEMA = {"rows": [dict], "failed": [{"key": str, "sample": int, "cause": str}]}


def judge_all(
    folder: Folder, images: Sequence[SuiteImage], judge: Judge | None, silent: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Judge what is not judged yet.

    Args:
      folder: of the evaluation. images: all of them, in their order.
      judge: None only reads the images. silent: no progress on stderr.

    Returns:
      (rows of the per-image file without rewards, failures with key, sample, file and cause).
    """
    size = judge.batch_size if judge else 1
    size *= -(-_IMAGES_AT_LEAST // size)
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    rows, failed = [], []
    done = [_read(folder, number) for number in range(len(parts))]
    count = sum(len(part) for part, one in zip(parts, done, strict=True) if one)
    with (
        Progress("judge" if judge else "read", "images", len(images), count, silent=silent) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        waiting = [n for n, one in enumerate(done) if one is None]
        reading = (pool.map(_decode, parts[n]) for n in waiting)  # each begins when it is taken
        following = next(reading, ())
        for number in waiting:
            # The next part is decoded while this one is judged.
            decoded, following = list(following), next(reading, ())
            done[number] = _judge_part(parts[number], decoded, judge)
            folder.write(_name(number), to_sealed_json(done[number]), durable=False)
            bar.update(len(parts[number]))
    for one in done:
        rows += one["rows"]
        failed += one["failed"]
    return rows, failed


def _decode(image: SuiteImage) -> tuple[str, np.ndarray] | BadImage:
    """Return the digest of the file and its pixels, or why it is no image."""
    try:
        data = image.read()
        return hashlib.sha256(data).hexdigest(), load_rgb(data, min_side=1)
    except BadImage as error:
        return error


def _judge_part(
    images: Sequence[SuiteImage], decoded: Sequence[Any], judge: Judge | None
) -> dict[str, Any]:
    good = [pair for pair in zip(images, decoded, strict=True) if isinstance(pair[1], tuple)]
    verdicts: list[dict[str, Any]] = [{} for _ in good]
    if judge is not None:
        verdicts = []
        for start in range(0, len(good), judge.batch_size):
            batch = good[start : start + judge.batch_size]
            pixels = [pixels for _, (_, pixels) in batch]
            verdicts += judge.judge(pixels, [image.prompt for image, _ in batch])
    rows = [
        image.row(digest, height=pixels.shape[0], width=pixels.shape[1]) | verdict
        for (image, (digest, pixels)), verdict in zip(good, verdicts, strict=True)
    ]
    failed = [
        {"key": image.key, "sample": image.sample, "file": image.file, "cause": str(one)}
        for image, one in zip(images, decoded, strict=True)
        if isinstance(one, BadImage)
    ]
    return {"rows": rows, "failed": failed}


def _name(number: int) -> str:
    return f"{PARTS}/{number:05d}.json"


def _read(folder: Folder, number: int) -> dict[str, Any] | None:
    """Return a part that is done; None for one that is not, or was spoiled by a power cut."""
    return folder.intact(_name(number), lambda data, name: folder.parse_json(name, data, _SCHEMA))
