"""Bins: from raw reward scores to levels.

A score is mapped to one of K bins by K - 1 edges, bin = number of edges <= score, and the network
sees the level k / (K - 1) in [0, 1], 1 is best (paper section 3.1). Edges are quantiles, so bins
fill nearly equally.

Equal scores share one bin, however many bins their mass spans: the bottom bin if they are the
minimum, the top bin if they are the maximum, else the middle of the span. A constant reward gets
the top bin: 1 is the default target of sampling, so it must be a level that training has seen.
`fit_edges` builds this into the edges (an edge on a tied score is moved just above it where
the score belongs lower), hence looking a score up stays a plain search.

Letters: N scores, R rewards, K bins.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.data.json_file import check_fields
from miro_jax.data.regular_file import open_regular
from miro_jax.data.storage import Damaged, files

STRATEGIES = ("quantile", "official")
BINS_NAME = "bins.json"
_SCHEMA = {
    "names": [str],
    "edges": [[float]],
    "num_bins": int,
    "strategy": str,
    "counts": [int],
    "manifest_digest": str,
}


def check(num_bins: int, strategy: str) -> None:
    """Raise ValueError for an unknown strategy or fewer than 2 bins."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}; got {strategy!r}.")
    if num_bins < 2:
        raise ValueError(f"num_bins must be at least 2; got {num_bins}.")


def fit_edges(scores: np.ndarray, num_bins: int, strategy: str = "quantile") -> np.ndarray:
    """Fit the edges between the bins of one reward.

    Args:
      scores: [N] float, NaN is ignored.
      num_bins: K, at least 2.
      strategy: "quantile", quantiles of all scores; or "official", quantiles of the *distinct*
        scores as the authors' code has it (bins are then not equally filled; kept for
        comparison).

    Returns:
      [K - 1] float64, ascending.

    Raises:
      ValueError: unknown strategy, fewer than 2 bins, no score at all, or an infinite one.
    """
    check(num_bins, strategy)
    scores = np.asarray(scores, np.float64)
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        raise ValueError("scores must hold at least one number; got none that is not NaN.")
    if np.isinf(scores).any():
        raise ValueError(f"scores must be finite; got {np.isinf(scores).sum()} infinite ones.")
    fractions = np.arange(1, num_bins) / num_bins
    if strategy == "official":
        return np.quantile(np.unique(scores), fractions)
    edges = np.quantile(scores, fractions)
    # Rounding while interpolating can break the order of nearly equal quantiles by one unit.
    edges = np.maximum.accumulate(edges)
    lowest, highest = scores.min(), scores.max()
    for score in np.unique(edges):
        if score == highest:  # also a constant reward
            continue
        first = np.searchsorted(edges, score, "left")
        last = np.searchsorted(edges, score, "right")
        chosen = 0 if score == lowest else (first + last + 1) // 2
        edges[chosen:last] = np.nextafter(score, np.inf)
    return edges


@dataclasses.dataclass(frozen=True)
class Bins:
    """Edges of all rewards.

    names: [R] reward identities, in order. edges: [R, K - 1] float64. num_bins: K.
    strategy: how the edges were fitted. counts: [R], on how many scores. manifest_digest: of which
    records.
    """

    names: tuple[str, ...]
    edges: np.ndarray
    num_bins: int
    strategy: str
    counts: tuple[int, ...]
    manifest_digest: str

    def __post_init__(self):
        check(self.num_bins, self.strategy)
        if self.edges.shape != (len(self.names), self.num_bins - 1):
            raise ValueError(
                f"edges must be [{len(self.names)} rewards, {self.num_bins} - 1]; "
                f"got {self.edges.shape}."
            )
        if not (np.isfinite(self.edges).all() and (np.diff(self.edges, axis=1) >= 0).all()):
            raise ValueError("edges must be finite and must not descend.")
        if len(self.counts) != len(self.names) or min(self.counts, default=0) < 0:
            raise ValueError(f"counts must be one of each reward; got {self.counts}.")

    @property
    def label(self) -> str:
        """How many levels there are, how they were fitted, and which: 16 digits of a sha256."""
        digest = hashlib.sha256(files.to_json(self.to_dict())).hexdigest()
        return f"{self.num_bins} {self.strategy} {digest[:16]}"

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them, exact: floats come back bit by bit."""
        return {**dataclasses.asdict(self), "edges": self.edges.tolist()}

    def to_bytes(self) -> bytes:
        """The content of bins.json."""
        return files.to_sealed_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: Any) -> "Bins":
        """Undo `to_dict`.

        Raises:
          ValueError: the values are something else.
        """
        check_fields(values, _SCHEMA, "levels")
        fields = {key: values[key] for key in _SCHEMA}
        fields |= {key: tuple(values[key]) for key in ("names", "counts")}
        try:
            fields["edges"] = np.asarray(values["edges"], np.float64)
        except OverflowError as error:
            raise ValueError(f"edges must be float64: {error}.") from error
        return cls(**fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bins":
        """Undo `to_bytes`; ValueError where the bytes are something else."""
        return cls.from_dict(files.parse_ours(data, BINS_NAME))

    def save(self, path: str | os.PathLike) -> None:
        """Write bins.json."""
        files.write_atomic(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Bins":
        """Read bins.json, given the file or the folder of records that holds it.

        Raises:
          FileNotFoundError: there is none; the annotate stage writes it.
          Damaged: it holds something else.
        """
        path = Path(path)
        path = path / BINS_NAME if path.is_dir() else path
        try:
            with open_regular(path) as file:
                return cls.from_bytes(file.read())
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is missing; the annotate stage writes it (--stage=annotate)."
            ) from error
        except ValueError as error:
            raise Damaged(
                f"{path} is damaged: {error} Run the annotate stage again: it fits levels anew."
            ) from error


def fit_bins(
    scores: np.ndarray,
    names: Sequence[str],
    num_bins: int,
    strategy: str = "quantile",
    manifest_digest: str = "",
) -> Bins:
    """Fit the edges of every reward; one without any score gets zeros and the count 0.

    Args:
      scores: [..., R] float, NaN is ignored; all leading axes are pooled.
      names: [R] reward identities.
      num_bins: K.
      strategy: see `fit_edges`.
      manifest_digest: digest of the manifest of the records that the scores come from.

    Raises:
      ValueError: as `fit_edges`, with the reward's name.
    """
    check(num_bins, strategy)
    scores = np.reshape(scores, (-1, len(names)))
    edges = []
    for index, name in enumerate(names):
        column = scores[:, index]
        if np.isnan(column).all():  # every level is NaN, whatever the edges
            edges.append(np.zeros(num_bins - 1))
            continue
        try:
            edges.append(fit_edges(column, num_bins, strategy))
        except ValueError as error:
            raise ValueError(f"Reward {name!r}: {error}") from error
    counts = tuple(int(n) for n in (~np.isnan(scores)).sum(axis=0))
    return Bins(tuple(names), np.stack(edges), num_bins, strategy, counts, manifest_digest)


def levels(bins: Bins, scores: np.ndarray) -> np.ndarray:
    """Map scores to levels.

    Args:
      scores: [..., R] float; a score beyond the edges gets the outermost bin.

    Returns:
      [..., R] float32 in [0, 1], k / (K - 1); NaN stays NaN (missing).

    Raises:
      ValueError: the last axis does not match the rewards of `bins`.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape[-1:] != (len(bins.names),):
        raise ValueError(
            f"scores must have {len(bins.names)} rewards on the last axis; "
            f"got shape {scores.shape}."
        )
    out = np.empty(scores.shape, np.float32)
    for index, edges in enumerate(bins.edges):
        column = scores[..., index]
        bin_index = np.searchsorted(edges, column, side="right")
        out[..., index] = np.where(np.isnan(column), np.nan, bin_index / (bins.num_bins - 1))
    return out
