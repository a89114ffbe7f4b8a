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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from miro_jax.pretrained.weights import hf, hub

# Halves of a pair, left alone by broken software; no encoding of Unicode can hold them.
_SURROGATE = re.compile("[\ud800-\udfff]")
START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# That captions of a CLIP are padded to, or to the longest: few programs are compiled.
LENGTHS = (16, 24, 32, 48)


def _require(path: Path, pieces: Iterable[str], special: Sequence[str]) -> None:
    if missing := [token for token in special if token not in pieces]:
        raise ValueError(f"{path} must hold {', '.join(missing)}. Is it of another model?")


def _read_wordpiece(folder: Path) -> tokenizers.Tokenizer:
    """BERT's: lower case, no accents, words cut into the longest pieces of the vocabulary."""
    path = folder / "vocab.txt"
    pieces = models.WordPiece.read_file(str(path))
    _require(path, pieces, ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"))
    return tokenizers.Tokenizer.from_str(tokenizers.BertWordPieceTokenizer(pieces).to_str())


def _read_clip(folder: Path) -> tokenizers.Tokenizer:
    tokenizer = hf.read_tokenizer("CLIPTokenizer", folder)
    _require(folder / "vocab.json", tokenizer.get_vocab(with_added_tokens=False), (START, END))
    return tokenizer


def _read_t5(folder: Path) -> tokenizers.Tokenizer:
    tokenizer = hf.read_tokenizer("T5Tokenizer", folder)
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    _require(folder / "spiece.model", pieces, ("<pad>", "</s>", "<unk>"))
    return tokenizer


# How to read a repository without tokenizer.json: the files that must be there, and a reader.
FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[Path], tokenizers.Tokenizer]]] = {
    "bert": (("vocab.txt",), _read_wordpiece),
    "clip": (("vocab.json", "merges.txt"), _read_clip),
    "t5": (("spiece.model",), _read_t5),
}
# What else transformers reads beside a vocabulary.
_OPTIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer_files(repository: hub.Repository, family: str | None = None) -> tuple[str, ...]:
    """Return the names of the files that `load_tokenizer` reads.

    Raises:
      FileNotFoundError: the repository has none.
    """
    files = () if family is None else FAMILIES[family][0]
    if repository.has("tokenizer.json"):
        return ("tokenizer.json",)
    if not files or not all(repository.has(name) for name in files):
        either = f" and no {' and '.join(files)}" if files else ""
        raise FileNotFoundError(f"{repository} has no file tokenizer.json{either}.")
    options = () if family == "bert" else _OPTIONS
    return (*files, *(name for name in options if _has_option(repository, name)))


def _has_option(repository: hub.Repository, name: str) -> bool:
    """Return whether there is a file; one that the cache does not know counts as none offline."""
    try:
        return repository.has(name)
    except (hub.OfflineError, hub.UnreachableError):
        return False


def load_tokenizer(repository: hub.Repository, family: str | None = None) -> tokenizers.Tokenizer:
    """Read the tokenizer of a repository; it neither cuts nor pads, whatever the files say.

    Args:
      family: a key of FAMILIES, used where there is no `tokenizer.json`; None requires that file.

    Raises:
      FileNotFoundError: the repository has no such files.
      ValueError: a file is damaged, or a special token is missing.
    """
    path = repository.path(tokenizer_files(repository, family)[0])
    if family is not None and path.name != "tokenizer.json":
        tokenizer = FAMILIES[family][1](path.parent)
    else:
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
      ids [B, L] int32 and mask [B, L] bool, False at padding.

    Raises:
      ValueError: a row is longer than `length`.
    """
    if rows and (longest := max(map(len, rows))) > length:
        raise ValueError(f"rows must have at most {length} ids; got {longest}. Cut them first.")
    ids = np.full((len(rows), length), padding, np.int32)
    mask = np.zeros(ids.shape, bool)
    for row, members in enumerate(rows):
        ids[row, : len(members)], mask[row, : len(members)] = members, True
    return ids, mask


def special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """Return the id of a token that the vocabulary must have.

    Raises:
      ValueError: it has none.
    """
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"The tokenizer's vocabulary must have {token!r}; it has not.")
    return number


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

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.tokenizer.get_vocab().values())

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
        return pad_ids(rows, length, self.padding)[0]


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
