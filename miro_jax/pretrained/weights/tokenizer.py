"""Tokenizers of published models, by the library `tokenizers`, and batches of fixed length.

A text becomes ids, special tokens included; the last of them always ends the text (`</s>`, `[SEP]`,
`<|endoftext|>`). A text that is too long keeps its first ids and the last one.

`tokenizer.json` is read as it is. Older repositories have a vocabulary alone, for which the rules
of the model's family are taken (`FAMILIES`).

Letters: B texts, L longest length in tokens.
"""

import dataclasses
import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ftfy
import numpy as np
import tokenizers
from numpy.typing import DTypeLike
from tokenizers import pre_tokenizers, processors

from miro_jax.data.json_file import MOST_BYTES, parse_json
from miro_jax.data.regular_file import read_regular
from miro_jax.pretrained.weights import hf, hub

# Halves of a pair, left alone by broken software; no encoding of Unicode can hold them.
_SURROGATE = re.compile("[\ud800-\udfff]")
START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# That captions of a CLIP are padded to, or to the longest: few programs are compiled.
LENGTHS = (16, 24, 32, 48)
PROBES = ["", "a red fox \u72d0 \U0001f98a"]
LARGEST_GROWTH = 4096  # of a text by the rules of a tokenizer; more is an attack
SHORTEST = 16  # tokens, the least that other texts are padded to; then by powers of two
T = TypeVar("T")


# How to read a repository without tokenizer.json: the files that must be there, the class of
# transformers that reads them, and the tokens that their vocabulary must have.
FAMILIES = {
    "bert": (("vocab.txt",), "BertTokenizer", ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")),
    "clip": (("vocab.json", "merges.txt"), "CLIPTokenizer", (START, END)),
    "t5": (("spiece.model",), "T5Tokenizer", ("<pad>", "</s>", "<unk>")),
}
# What else transformers reads beside a vocabulary.
OPTIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer_files(repository: hub.Repository, family: str | None = None) -> tuple[str, ...]:
    """Return the names of the files that `load_tokenizer` reads."""
    files = () if family is None else FAMILIES[family][0]
    if repository.has("tokenizer.json"):
        return ("tokenizer.json",)
    if not files or not all(repository.has(name) for name in files):
        if not repository.is_local:
            repository.path("tokenizer.json")  # raises; names the command that fetches it
        either = f" and no {' and '.join(files)}" if files else ""
        raise FileNotFoundError(f"{repository} has no file tokenizer.json{either}.")
    return (*files, *filter(repository.has, OPTIONS))


def load_tokenizer(repository: hub.Repository, family: str | None = None) -> tokenizers.Tokenizer:
    """Read the tokenizer of a repository; it neither cuts nor pads, whatever the files say.

    Args:
      family: a key of FAMILIES, used where there is no `tokenizer.json`; None requires that file.

    Raises:
      FileNotFoundError: the repository has no such files.
      ValueError: a file is damaged or too large, or a special token is missing.
    """
    paths = [repository.path(name) for name in tokenizer_files(repository, family)]
    contents = [read_regular(path, MOST_BYTES) for path in paths]  # bounds what the library reads
    values = [
        parse_json(content, str(path), dict)
        for path, content in zip(paths, contents, strict=True)
        if path.suffix == ".json"
    ]
    special: tuple[str, ...] = ()
    with hf.naming(f"{paths[0]} is no tokenizer"):
        if paths[0].name == "tokenizer.json" or family is None:
            _check_growth(values[0].get("normalizer"))
            tokenizer = tokenizers.Tokenizer.from_buffer(contents[0])
        else:
            _, kind, special = FAMILIES[family]
            tokenizer = hf.read_tokenizer(kind, paths[0].parent)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Some damage shows only here.
        if max(len(encoding) for encoding in tokenizer.encode_batch(PROBES)) > LARGEST_GROWTH:
            raise ValueError("it makes thousands of tokens of a few words")
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    if missing := [token for token in special if token not in pieces]:
        raise ValueError(f"{paths[0]} must hold {', '.join(missing)}. Is it of another model?")
    return tokenizer


def _check_growth(normalizer: Any) -> None:
    """Raise ValueError if rules that replace each other's results would fill the memory."""
    growth, rules = 1, [normalizer]
    for rule in rules:
        if isinstance(rule, dict):
            rules += rule.get("normalizers") or []
            growth *= max(len(rule.get("content") or ""), len(rule.get("prepend") or ""), 1)
    if growth > LARGEST_GROWTH:
        raise ValueError("its normalizer makes thousands of letters of one")


def encode_texts(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, special tokens included, at full length."""
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str; got one str. Put it in a list.")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] must be a str; got {type(text).__name__}.")
    clean = [_SURROGATE.sub("\ufffd", text) for text in texts]
    with hf.naming("the tokenizer fails on a text"):
        return [encoding.ids for encoding in tokenizer.encode_batch(clean)]


def cut_ids(ids: Sequence[int], longest: int) -> list[int]:
    """Cut ids to at most `longest`; the last id, which ends the text, stays the last."""
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def padded_length(length: int, longest: int) -> int:
    """Return the length that a text is padded to: a power of two, or the longest allowed."""
    return min(max(SHORTEST, 1 << (length - 1).bit_length()), longest)


def by_length(
    rows: Sequence[Sequence[int]], padded: Callable[[int], int], most: int, padding: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Group rows of ids by the length they are padded to, so that few programs are compiled.

    Args:
      rows: lists of ids. padded: length of a row -> L, that it is padded to.
      most: rows in a group. padding: id put where there is none.

    Yields:
      (indices of the B rows of a group, their ids [B, L] int32, their mask [B, L] bool).
    """
    groups: dict[int, list[int]] = {}
    for index, ids in enumerate(rows):
        groups.setdefault(padded(len(ids)), []).append(index)
    for length, members in groups.items():
        for i in range(0, len(members), most):
            group = members[i : i + most]
            yield group, *pad_rows([rows[index] for index in group], length, padding)


def once_each(encode: Callable[[list[str]], Iterable[T]], texts: Sequence[str]) -> list[T]:
    """Return what `encode` gives for each text; equal texts are encoded once."""
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of str; got one str. Put it in a list.")
    distinct = list(dict.fromkeys(texts))
    results = dict(zip(distinct, encode(distinct), strict=True))
    return [results[text] for text in texts]


def pad_rows(
    rows: Sequence[Sequence[int] | np.ndarray],
    length: int,
    padding: int = 0,
    dtype: DTypeLike = np.int32,
    shape: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Lay rows of ids, or of tokens, out as one array.

    Args:
      rows: B rows of at most `length` entries.
      length: L. padding: what is put where there is none.
      dtype: of the result. shape: of an entry, () of ids and (D,) of tokens.

    Returns:
      array [B, L, *shape] and mask [B, L] bool, False at padding.
    """
    if rows and (longest := max(map(len, rows))) > length:
        raise ValueError(f"rows must have at most {length} tokens; got {longest}. Cut them first.")
    array = np.full((len(rows), length, *shape), padding, dtype)
    mask = np.zeros((len(rows), length), bool)
    for index, row in enumerate(rows):
        array[index, : len(row)], mask[index, : len(row)] = row, True
    return array, mask


def special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """Return the id of a token that the vocabulary must have."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"The tokenizer's vocabulary must have {token!r}; it has not.")
    return number


def vocabulary(tokenizer: tokenizers.Tokenizer) -> int:
    """Return one more than the largest id."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def check_vocabulary(size: int, rows: int, source: object) -> None:
    """Raise ValueError if a tokenizer of `source` has more ids than the embedding has rows."""
    if size > rows:
        raise ValueError(
            f"the tokenizer of {source} must have at most the {rows} tokens of the weights; "
            f"got {size}. It belongs to another model."
        )


@dataclasses.dataclass(frozen=True)
class CaptionTokenizer:
    """Captions into ids of a CLIP, `[start] pieces [end]`.

    Attributes:
      tokenizer: of the library; adds start and end.
      repairs: whether captions are cleaned in OpenAI's way first.
      padding: id after the end; it has no effect on features.
    """

    tokenizer: tokenizers.Tokenizer
    repairs: bool
    padding: int

    def __call__(self, captions: Sequence[str], longest: int) -> np.ndarray:
        """Encode captions.

        Args:
          captions: B texts. longest: tokens that a caption is cut to, the end included.

        Returns:
          [B, L] int32, with L the shortest of LENGTHS and `longest` that holds all captions.
        """
        texts = [repair(text) for text in captions] if self.repairs else captions
        rows = [cut_ids(ids, longest) for ids in encode_texts(self.tokenizer, texts)]
        needed = max(map(len, rows), default=0)
        length = min((n for n in LENGTHS if needed <= n < longest), default=longest)
        return pad_rows(rows, length, self.padding)[0]


def hugging_face_tokenizer(repository: hub.Repository) -> CaptionTokenizer:
    """Read a CLIP's tokenizer as transformers does: NFC, white space to one blank, lower case."""
    tokenizer = load_tokenizer(repository, "clip")
    return CaptionTokenizer(tokenizer, False, special_id(tokenizer, END))


def openai_tokenizer(repository: hub.Repository) -> CaptionTokenizer:
    """Take a CLIP's vocabulary and read captions with it as OpenAI, open_clip and hpsv2 do.

    They repair mojibake (ftfy) and undo HTML entities twice before. OpenAI's code also takes the
    literal text "<end_of_text>" for the end; here it is text like any other.
    """
    published = load_tokenizer(repository, "clip")
    start, end = (special_id(published, token) for token in (START, END))
    tokenizer = tokenizers.Tokenizer(published.model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(f"(?i:{_PIECES})"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, end), (START, start), False, False
    )
    return CaptionTokenizer(tokenizer, True, 0)


def repair(text: str) -> str:
    """Clean a caption in OpenAI's way."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()
