"""Caption encoder of the shapes world: a fixed code for each word, in place of a language model.

A token's code has three parts: the word itself, the word before it, its position. The word before
stands for the context that a language model would bring: "red" and "blue" are distinguished at the
noun they belong to. Codes of words are random with zero mean and unit variance and depend on the
letters only, not on any vocabulary; positions are sines and cosines. L is the number of tokens, D
the width.
"""

import functools
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from miro_jax.pretrained.weights.tokenizer import pad_rows

_END = "</s>"
_TOKEN = re.compile(r"\w+|[,.]")
_LONGEST_PERIOD = 64.0  # tokens


class WordsEncoder:
    """Encode captions word by word.

    Args:
      width: D, numbers per token; a multiple of 8.
      max_tokens: longest L, the end token included; longer captions are cut.

    Raises:
      ValueError: width is no positive multiple of 8, or max_tokens is below 1.
    """

    def __init__(self, width: int = 64, max_tokens: int = 32):
        if width < 8 or width % 8:
            raise ValueError(f"width must be a positive multiple of 8; got {width}.")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; got {max_tokens}.")
        self.width = width
        self.max_tokens = max_tokens
        self._positions = _position_codes(max_tokens, width // 4)
        self._code = functools.lru_cache(maxsize=4096)(_word_code)

    @property
    def identity(self) -> str:
        """Name, version and everything that changes the codes."""
        return f"words@1-width{self.width}-max{self.max_tokens}"

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Encode captions.

        Args:
          captions: any strings; case is ignored, and signs other than comma and full stop.

        Returns:
          For each caption [L, D] float16, 1 <= L <= max_tokens. The last token is always the end
          token.

        Raises:
          TypeError: captions is one string, or holds something else than strings.
        """
        if isinstance(captions, str):
            raise TypeError("captions must be a sequence of str; got one str. Put it in a list.")
        return [self._encode(text) for text in captions]

    def encode_padded(
        self, captions: Sequence[str], dtype: DTypeLike = np.float16
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode captions as one array [B, max_tokens, D] and its mask; see `pad_rows`."""
        tokens = self.encode(captions)
        return pad_rows(tokens, self.max_tokens, dtype=dtype, shape=(self.width,))

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the number of tokens of each caption, the end token included, before any cut."""
        return [len(_TOKEN.findall(text.lower())) + 1 for text in captions]

    def _encode(self, text: str) -> np.ndarray:
        if not isinstance(text, str):
            raise TypeError(f"captions must hold str; got {type(text).__name__}.")
        words = [*_TOKEN.findall(text.lower())[: self.max_tokens - 1], _END]
        before = ["", *words[:-1]]
        return np.concatenate(
            [
                np.stack([self._code(word, self.width // 2) for word in words]),
                np.stack([self._code(word, self.width // 4) for word in before]),
                self._positions[: len(words)],
            ],
            axis=1,
        ).astype(np.float16)


def _word_code(word: str, width: int) -> np.ndarray:
    """Return [width] float32 with mean 0 and variance 1, a function of the letters and the
    width."""
    code = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(width)
    return ((code - code.mean()) / code.std()).astype(np.float32)


def _position_codes(length: int, width: int) -> np.ndarray:
    """Return [length, width] float32 of sines and cosines of unit variance."""
    periods = 4.0 * (_LONGEST_PERIOD / 4.0) ** np.linspace(0, 1, width // 2)
    angles = 2 * np.pi * np.arange(length)[:, None] / periods[None, :]
    return np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
