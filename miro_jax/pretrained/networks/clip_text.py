"""Captions -> token ids, in the two ways that CLIP's users do it.

Both end in the same byte-pair vocabulary, `[start] pieces [end]`, and cut after 77 tokens, the last
of which stays the end. They differ in what they make of the text before:

    Hugging Face    Unicode NFC, white space to one blank, lower case; as `tokenizer.json` says
    OpenAI          repair mojibake (ftfy), undo HTML entities twice, white space to one blank,
                    lower case. open_clip and hpsv2 do it so

OpenAI's code also takes the literal text "<end_of_text>" for the end; here it is text like any
other.

Source: `transformers.CLIPTokenizer`, `open_clip.SimpleTokenizer`.

Letters: B captions, L tokens.
"""

import dataclasses
import html
from collections.abc import Sequence

import ftfy
import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import (
    cut_ids,
    encode_texts,
    load_tokenizer,
    pad_ids,
    special_id,
)

START, END = "<|startoftext|>", "<|endoftext|>"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# That batches are padded to, or to the longest: few programs are compiled.
LENGTHS = (16, 24, 32, 48)


@dataclasses.dataclass(frozen=True)
class CaptionTokenizer:
    """Captions into ids.

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
            captions: B texts.
            longest: tokens of which no caption keeps more.

        Returns:
            [B, L] int32, with L the shortest of LENGTHS and `longest` that holds all captions.
        """
        texts = [repair(text) for text in captions] if self.repairs else captions
        rows = [cut_ids(ids, longest) for ids in encode_texts(self.tokenizer, texts)]
        needed = max(map(len, rows), default=0)
        length = min((n for n in LENGTHS if needed <= n < longest), default=longest)
        return pad_ids(rows, length, self.padding)[0]


def hugging_face_tokenizer(repository: hub.Repository) -> CaptionTokenizer:
    """Read the tokenizer of a repository: `tokenizer.json`, or `vocab.json` and `merges.txt`."""
    if repository.has("tokenizer.json"):
        tokenizer = load_tokenizer(repository)
    else:
        tokenizer = _from_vocabulary(repository)
    return CaptionTokenizer(tokenizer, False, special_id(tokenizer, END))


def openai_tokenizer(repository: hub.Repository) -> CaptionTokenizer:
    """Take the vocabulary of a repository's tokenizer and read captions with it as OpenAI does."""
    found = hugging_face_tokenizer(repository).tokenizer
    start, end = (special_id(found, token) for token in (START, END))
    tokenizer = tokenizers.Tokenizer(found.model)
    tokenizer.pre_tokenizer = _pieces(rf"(?i:{PIECES})")
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, end), (START, start), False, False
    )
    return CaptionTokenizer(tokenizer, True, 0)


def repair(text: str) -> str:
    """Clean a caption in OpenAI's way."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _from_vocabulary(repository: hub.Repository) -> tokenizers.Tokenizer:
    vocabulary = repository.json("vocab.json")
    lines = repository.path("merges.txt").read_text("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines if not line.startswith("#version") and line]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = _pieces(rf"<\|startoftext\|>|<\|endoftext\|>|{PIECES}")
    tokenizer.add_special_tokens([START, END])
    start, end = (special_id(tokenizer, token) for token in (START, END))
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, end), (START, start), False, False
    )
    return tokenizer


def _pieces(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
