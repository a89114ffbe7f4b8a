"""What became of the samples of a source: `coverage.json`.

A sample that cannot be used is a failure with its cause. Damage of a file loses samples that nobody
can count; where other pieces tell how many there should have been, they are estimated.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.annotate.tally import Tally
from miro_jax.data.sources import Piece, causes
from miro_jax.data.storage import Folder

FILE = "coverage.json"


def lost_samples(pieces: Sequence[Piece], sidecars: Sequence[Mapping]) -> dict[str, int]:
    """Estimate what damage of files has cost.

    Args:
        pieces: all of the source. sidecars: of their shards.

    Returns:
        Piece -> samples that it lacks, for each damaged piece: of the number it is known to have,
        else of that of an undamaged one, the median.
    """
    damaged = [
        any(failure["cause"] in causes.OF_A_PIECE for failure in sidecar["failures"])
        for sidecar in sidecars
    ]
    sound = [s["num_samples"] for s, bad in zip(sidecars, damaged, strict=True) if not bad]
    usual = statistics.median_low(sound) if sound else 0
    return {
        sidecar["piece"]: max(0, (piece.count or usual) - sidecar["num_samples"])
        for piece, sidecar, bad in zip(pieces, sidecars, damaged, strict=True)
        if bad
    }


def summarize(
    sidecars: Sequence[Mapping], tally: Tally, lost: Mapping[str, int], scores: np.ndarray
) -> dict[str, Any]:
    """Return the content of coverage.json: share is that of all samples, lost ones included.

    Args:
        sidecars: of all shards. tally: of their samples. lost: see `lost_samples`.
        scores: [N, 2, R] float32 of the N records.
    """
    return {
        "samples": tally.samples,
        "records": len(scores),
        "share": len(scores) / max(tally.samples + sum(lost.values()), 1),
        "records_with_synthetic_caption": int((~np.isnan(scores[:, 1])).any(axis=1).sum()),
        "causes": dict(tally.causes.most_common()),
        "lost_about": sum(lost.values()),
        "damaged_pieces": dict(lost),
        "pieces": {
            sidecar["piece"]: {
                "samples": sidecar["num_samples"],
                "records": sidecar["count"],
                "causes": dict(collections.Counter(f["cause"] for f in sidecar["failures"])),
            }
            for sidecar in sidecars
        },
    }


def read_lost(folder: Folder) -> dict[str, int]:
    """Return what coverage.json says that damage has cost, see `lost_samples`."""
    if not folder.exists(FILE):  # sets of the first schema version have none
        return {}
    return folder.read_json(FILE).get("damaged_pieces", {})


def describe_lost(lost: Mapping[str, int]) -> str:
    """Say in words what damage has cost; nothing where there is none."""
    if not lost:
        return ""
    worst = sorted(lost, key=lambda piece: -lost[piece])
    named = ", ".join(worst[:3]) + (", ..." if len(worst) > 3 else "")
    noun = "damaged piece lacks" if len(lost) == 1 else "damaged pieces lack"
    return f"{len(lost):,} {noun} about {sum(lost.values()):,} samples, {named}"
