"""Encoded prompts, of which batches pick rows. P prompts, L tokens of width E, R rewards."""

import dataclasses

import numpy as np

from miro_jax.models.sampler import Branch


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encoded prompts: tokens [P, L, E], mask [P, L] bool."""

    tokens: np.ndarray | None
    mask: np.ndarray

    def branch(self, rows: np.ndarray, levels: np.ndarray) -> Branch:
        """Pick the prompts of rows, with the levels [B, R] of these rows."""
        return Branch(self.tokens[rows], self.mask[rows], levels)

    def like(self, other: "Prompts") -> "Prompts":
        """Repeat one prompt as often as `other` has prompts, cut or padded to its length."""
        count, length = other.mask.shape
        tokens = np.zeros((length, self.tokens.shape[-1]), other.tokens.dtype)
        mask = np.zeros(length, bool)
        used = min(length, self.mask.shape[1])
        tokens[:used], mask[:used] = self.tokens[0, :used], self.mask[0, :used]
        return Prompts(np.stack([tokens] * count), np.stack([mask] * count))
