"""Pictures in threads: read, decoded and prepared ahead of the devices."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from miro_jax.data.sources import Sample, images
from miro_jax.data.sources.budget import Budget

MAX_WAITING_BYTES = 1 << 30  # of pictures that were read with their piece and wait to be decoded
_DIGEST_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture when it is loaded.

    width, height: pixels as it came. digest: of its file. prepared: what was made of it.
    """

    width: int
    height: int
    digest: str
    prepared: Any


def default_threads() -> int:
    """Return how many threads decode where nobody says: one for each processor, 32 at most."""
    return min(os.cpu_count() or 1, 32)


class Loader:
    """Loads pictures in threads; a context manager.

    Args:
        num_threads: that decode.
    """

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(num_threads, "decoder")
        self._waiting = Budget(MAX_WAITING_BYTES)

    def submit(self, sample: Sample, prepare: Callable[[np.ndarray], Any]) -> Future[Picture]:
        """Begin to load a picture; waits while too many bytes wait to be decoded.

        Args:
            sample: without a problem.
            prepare: takes [H, W, 3] uint8; threads call it.

        Returns:
            The picture, or BadImage where it cannot be used.
        """
        # What nobody reads any more must not stay in memory until the picture is decoded.
        sample, size = dataclasses.replace(sample, meta={}), sample.num_bytes
        self._waiting.take(size)
        future = self._pool.submit(load, sample, prepare)
        future.add_done_callback(lambda _: self._waiting.give(size))
        return future

    def stop(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()


def load(sample: Sample, prepare: Callable[[np.ndarray], Any]) -> Picture:
    """Read, decode and prepare a sample's picture.

    Raises:
        BadImage: it cannot be used.
    """
    data = sample.read()
    image = images.load_rgb(data)
    digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    try:
        return Picture(image.shape[1], image.shape[0], digest, prepare(image))
    except ValueError as error:  # a model has limits of its own, as of a side's length
        raise images.BadImage("unfit for a model", str(error)) from error
