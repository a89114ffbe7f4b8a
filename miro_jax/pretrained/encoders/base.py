"""What encoders share: the type of image latents, and tokens of captions as one array."""

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import DTypeLike

Latents = np.ndarray | jax.Array


def pad_tokens(
    codes: Sequence[np.ndarray], length: int, width: int, dtype: DTypeLike
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the tokens of captions out as one array, as sampling needs them.

    Args:
      codes: B arrays [L, D]. length: of the result, at least every L. width: D.

    Returns:
      tokens [B, length, D], zero at padding; mask [B, length] bool, False there.
    """
    tokens = np.zeros((len(codes), length, width), dtype)
    mask = np.zeros(tokens.shape[:2], bool)
    for row, code in enumerate(codes):
        tokens[row, : len(code)], mask[row, : len(code)] = code, True
    return tokens, mask
