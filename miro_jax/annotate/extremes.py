"""The images with the highest and lowest scores, read from the source again.

Records hold image latents, not images; so the few that the report shows are decoded from the
source. A piece is read from its beginning to the image in question, hence only some pieces of a
large set are searched.

Letters: N records, R rewards.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from miro_jax.data.sources import Piece, Sample, images
from miro_jax.data.storage import errors_of_stores
from miro_jax.report.scored import Thumbnail

SHOWN = 5  # images a row
MOST_PIECES, MOST_BYTES = 32, 4 << 30  # that are searched: a minute or so, on any storage
_THREADS = 8  # reading from an object store is a matter of waiting
SIDE = 160  # pixels; larger images are made smaller


def choose_pieces(counts: Sequence[int], sizes: Sequence[int | None]) -> list[int]:
    """Return the pieces to search, evenly spread over those with records.

    Args:
      counts: records of each piece. sizes: bytes of its files, where that is known.
    """
    filled = [number for number, count in enumerate(counts) if count]
    mean = sum(sizes[number] or 0 for number in filled) / max(len(filled), 1)
    most = min(MOST_PIECES, max(1, int(MOST_BYTES // max(mean, 1))), len(filled))
    return [filled[i * len(filled) // most] for i in range(most)]


def find_extremes(
    scores: np.ndarray, counts: Sequence[int], pieces: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Find the best and the worst records of each reward.

    Args:
      scores: [N, R] float32 of all records, NaN is passed over.
      counts: records of each piece, in order. pieces: numbers of those to search.

    Returns:
      R pairs (best, worst) of rows of `scores`, the most extreme first.
    """
    ends = np.cumsum(counts)
    rows = np.concatenate([np.arange(ends[n] - counts[n], ends[n]) for n in pieces])
    extremes = []
    for column in scores[rows].T:
        known = np.flatnonzero(~np.isnan(column))
        order = rows[known[np.argsort(column[known], kind="stable")]].tolist()
        half = len(order) // 2  # no image stands on both sides
        extremes.append((order[half:][::-1][:SHOWN], order[:half][:SHOWN]))
    return extremes


def read_samples(
    piece: Piece, rows: Sequence[int], failed: Sequence[int]
) -> dict[int, tuple[Sample, bytes]]:
    """Read the samples behind some records of a piece.

    Args:
      piece: to be read, up to the last of them.
      rows: of the records in the shard.
      failed: positions of the samples that are no record.

    Returns:
      row -> (sample, thumbnail file).

    Raises:
      OSError: the source cannot be read. BadImage: it has changed.
    """
    samples, skipped, wanted, row = {}, set(failed), set(rows), 0
    for position, sample in enumerate(piece.samples()):
        if position in skipped:
            continue
        if row in wanted:
            samples[row] = (sample, shrink(images.load_rgb(sample.read())))
        row += 1
        if len(samples) == len(wanted):
            return samples
    raise OSError(f"{piece.id} has fewer samples than it had")


def shrink(image: np.ndarray) -> bytes:
    """Return a file of an image [H, W, 3] uint8: PNG of a small one, else a smaller JPEG."""
    small, file = Image.fromarray(image), io.BytesIO()
    if max(small.size) <= SIDE // 2:
        small.save(file, "PNG")
    else:
        small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        small.save(file, "JPEG", quality=80)
    return file.getvalue()


def read_extremes(
    names: Sequence[str],
    scores: np.ndarray,
    pieces: Sequence[Piece],
    sidecars: Sequence[Mapping],
) -> tuple[dict[str, list[Thumbnail]], dict[str, list[Thumbnail]], str]:
    """Find and read the best and worst images of each reward.

    Args:
      names: [R] identities. scores: [N, R] of the images with their own captions.
      pieces: all of the source. sidecars: of their shards.

    Returns:
      Best and worst by identity, and a sentence about what was searched.
    """
    counts = [sidecar["count"] for sidecar in sidecars]
    searched = choose_pieces(counts, [piece.num_bytes for piece in pieces])
    extremes = find_extremes(scores, counts, searched)
    try:
        with errors_of_stores():
            rows = sum((best + worst for best, worst in extremes), [])
            seen = _read_rows(rows, pieces, sidecars)
    except (OSError, images.BadImage) as error:
        return {}, {}, f"No images: the source cannot be read again ({error})."
    sides: tuple[dict, dict] = ({}, {})
    for column, (name, rows) in enumerate(zip(names, extremes, strict=True)):
        for side, chosen in zip(sides, rows, strict=True):
            side[name] = [
                Thumbnail(seen[r][1], seen[r][0].key, seen[r][0].caption, float(scores[r, column]))
                for r in chosen
            ]
    some = f"{len(searched)} of {len(pieces):,}" if len(searched) < len(pieces) else "all"
    sentence = f"Scores with the own captions, searched in {some} pieces; images are decoded "
    return *sides, sentence + "from the source."


def _read_rows(
    rows: Sequence[int], pieces: Sequence[Piece], sidecars: Sequence[Mapping]
) -> dict[int, tuple[Sample, bytes]]:
    """Read the samples behind rows of all scores."""
    ends = np.cumsum([sidecar["count"] for sidecar in sidecars])
    wanted: dict[int, set[int]] = {}
    for row in rows:
        wanted.setdefault(int(np.searchsorted(ends, row, side="right")), set()).add(row)

    def read(number: int) -> dict[int, tuple[Sample, bytes]]:
        begin = int(ends[number]) - sidecars[number]["count"]
        failed = [failure["position"] for failure in sidecars[number]["failures"]]
        inside = sorted(row - begin for row in wanted[number])
        samples = read_samples(pieces[number], inside, failed)
        return {begin + row: pair for row, pair in samples.items()}

    with ThreadPoolExecutor(_THREADS) as pool:
        return {row: pair for some in pool.map(read, wanted) for row, pair in some.items()}
