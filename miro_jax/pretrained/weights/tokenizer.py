"""Tokenizers of published models, by the library `tokenizers`, and batches of fixed length.

A text becomes ids, special tokens included; the last of them always ends the text (`</s>`, `[SEP]`,
`<|endoftext|>`). A text that is too long keeps its first ids and the last one.

Letters: B texts, L longest length in tokens.
"""

import re
from collections.abc import Sequence

import numpy as np
import tokenizers

from miro_jax.pretrained.weights import hub

# Halves of a pair, left alone by broken software; no encoding of Unicode can hold them.
_SURROGATE = re.compile("[\ud800-\udfff]")


def load_tokenizer(repository: hub.Repository) -> tokenizers.Tokenizer:
    """Read `tokenizer.json` of a repository; it neither cuts nor pads, whatever the file says.

    Raises:
        FileNotFoundError: the repository has no such file.
        ValueError: the file is damaged.
    """
    path = repository.path("tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is no tokenizer: {error}. Fetch it again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode_texts(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, special tokens included, at full length.

    Raises:
        TypeError: texts is one string, or holds something else than strings.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str; got one str. Put it in a list.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] must be a str; got {type(text).__name__}.")
    clean = [_SURROGATE.sub("\ufffd", text) for text in texts]
    return [encoding.ids for encoding in tokenizer.encode_batch(clean)]


def cut_ids(ids: Sequence[int], longest: int) -> list[int]:
    """Cut ids to at most `longest`; the last id, which ends the text, stays the last."""
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def pad_ids(
    rows: Sequence[Sequence[int]], length: int, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay ids out as one array.

    Args:
        rows: B lists of at most `length` ids.
        length: L. padding: id put where there is none.

    Returns:
        ids [B, L] int32 and mask [B, L] bool, True for what was there.

    Raises:
        ValueError: a row is longer than `length`.
    """
    if rows and (longest := max(map(len, rows))) > length:
        raise ValueError(f"rows must have at most {length} ids; got {longest}. Cut them first.")
    ids = np.full((len(rows), length), padding, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, found in enumerate(rows):
        ids[row, : len(found)], mask[row, : len(found)] = found, True
    return ids, mask


def special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """Return the id of a token that the vocabulary must have.

    Raises:
        ValueError: it has none.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"The tokenizer's vocabulary must have {token!r}; it has not.")
    return found
