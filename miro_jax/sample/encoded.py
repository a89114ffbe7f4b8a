"""Encoded prompts, of which batches pick rows. P prompts, L tokens of width E, R rewards."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.models.sampler import Branch
from miro_jax.sample.settings import list_prompts
from miro_jax.sample.trained import Trained


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Encoded prompts: tokens [P, L, E], mask [P, L] bool."""

    tokens: np.ndarray | None
    mask: np.ndarray

    def branch(self, rows: np.ndarray, levels: np.ndarray) -> Branch:
        """Pick the prompts of rows, with the levels [B, R] of these rows."""
        return Branch(self.tokens[rows], self.mask[rows], levels)

    def with_room(self, length: int) -> "Prompts":
        """Pad to at least a length."""
        more = max(0, length - self.mask.shape[1])
        tokens = np.pad(self.tokens, ((0, 0), (0, more), (0, 0)))
        return Prompts(tokens, np.pad(self.mask, ((0, 0), (0, more))))

    def like(self, other: "Prompts") -> "Prompts":
        """Repeat one prompt as often as `other` has prompts, with as much padding."""
        count, length = other.mask.shape
        tokens = np.zeros((length, self.tokens.shape[-1]), other.tokens.dtype)
        mask = np.zeros(length, bool)
        used = min(length, self.mask.shape[1])
        tokens[:used], mask[:used] = self.tokens[0, :used], self.mask[0, :used]
        return Prompts(np.stack([tokens] * count), np.stack([mask] * count))


def encode_given(
    trained: Trained,
    prompts: str | Sequence[str] | None,
    embeds: np.ndarray | None,
    mask: np.ndarray | None,
) -> Prompts:
    """Encode texts, or check what is given in their place.

    Args:
      trained: has the encoder. prompts: one text or several; None where `embeds` are given.
      embeds: [P, L, E]. mask: [P, L] bool; None is all True.

    Raises:
      ValueError: both or neither are given, or a shape is wrong. TypeError: a prompt is no text.
    """
    if (prompts is None) == (embeds is None):
        raise ValueError("either prompts or prompt_embeds must be given, and not both.")
    if embeds is None and mask is not None:
        raise ValueError("prompt_mask must be given with prompt_embeds; got it with prompts.")
    if embeds is None:
        texts = list_prompts(prompts)
        return _encode(trained, texts) if texts else Prompts(None, np.zeros((0, 1), bool))
    embeds = _array("prompt_embeds", embeds)
    mask = np.ones(embeds.shape[:2], bool) if mask is None else _array("prompt_mask", mask, bool)
    width = trained.config.caption_width
    if embeds.ndim != 3 or embeds.shape[2] != width or mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"prompt_embeds must be [P, L, {width}] and prompt_mask [P, L]; got "
            f"{list(embeds.shape)} and {list(mask.shape)}."
        )
    return Prompts(embeds, mask)


def _array(name: str, given: Any, dtype: type | None = None) -> np.ndarray:
    try:
        array = np.asarray(given, dtype)
    except (TypeError, ValueError):  # numpy's, of prompts of several lengths
        array = np.array(None)
    if array.dtype.kind in "OSU":
        raise ValueError(
            f"{name} must be one array of numbers, with as many tokens for each prompt; got "
            f"{type(given).__name__} of no such form. Pad to the longest prompt, and give "
            "prompt_mask, which is False where tokens are padding."
        )
    return array


def _encode(trained: Trained, texts: list[str]) -> Prompts:
    encoder = trained.caption_encoder
    limit = encoder.max_tokens
    for text, length in zip(texts, encoder.count_tokens(texts), strict=True):
        if length > limit:
            warnings.warn(
                f"A prompt has {length} tokens and the network sees {limit}; its end is cut: "
                f"{text[:60]!r}...",
                stacklevel=5,
            )
    return Prompts(*encoder.encode_padded(texts, np.float32))


def encode_negative(
    trained: Trained, negative_prompt: str, given: Prompts
) -> tuple[Prompts, Prompts]:
    """Return the prompts, and those of the negative branch, one for each and of the same length.

    Args:
      trained: has the encoder.
      negative_prompt: "empty", "same" or a text. given: the prompts; embeddings may be shorter.
    """
    if negative_prompt == "same":
        return given, given
    if negative_prompt == "empty" and trained.empty_tokens is not None:
        tokens = trained.empty_tokens[None]
        other = Prompts(tokens, np.ones(tokens.shape[:2], bool))
    else:
        other = _encode(trained, ["" if negative_prompt == "empty" else negative_prompt])
    given = given.with_room(int(other.mask.sum()))
    return given, other.like(given)
