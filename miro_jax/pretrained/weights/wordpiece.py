"""BERT's tokenizer: lower case, no accents, words cut into the longest pieces of a vocabulary.

A text becomes [CLS] pieces [SEP]. The rules stand in `tokenizer.json`; older repositories have the
vocabulary alone, `vocab.txt`, one piece a line, for which BERT's own rules are taken.

Source: Devlin et al. 2018 (arXiv 1810.04805), the uncased models.
"""

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import load_tokenizer

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def load_wordpiece(repository: hub.Repository) -> tokenizers.Tokenizer:
    """Read a BERT tokenizer; it neither cuts nor pads.

    Raises:
        FileNotFoundError: the repository has neither `tokenizer.json` nor `vocab.txt`.
        ValueError: a file is damaged, or the vocabulary lacks a special token.
    """
    if not repository.has("tokenizer.json") and repository.has("vocab.txt"):
        path = repository.path("vocab.txt")
        pieces = path.read_text("utf-8").split("\n")
        vocabulary = {piece.rstrip("\r"): row for row, piece in enumerate(pieces) if piece}
        if missing := [token for token in SPECIAL if token not in vocabulary]:
            raise ValueError(f"{path} must hold {', '.join(missing)}. Is it a BERT vocabulary?")
        return _tokenizer(vocabulary)
    return load_tokenizer(repository)


def _tokenizer(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return tokenizer
