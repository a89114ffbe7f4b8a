"""An XLM-RoBERTa tokenizer trained on a few captions: by SentencePiece, saved by transformers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import XLMRobertaTokenizer

WORDS = (
    "fox snow red The a Café in löwe 狗 naïve running with three , . ! 7 blue's under ﬁre".split()
)
CORPUS = [" ".join(np.random.default_rng(i).choice(WORDS, 9)) for i in range(200)]
PIECES = 60

FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # 0, 1, 2, 3; SentencePiece has <unk>, <s>, </s>


def train(folder: Path, corpus: Sequence[str], pieces: int) -> sentencepiece.SentencePieceProcessor:
    """Train as XLM-RoBERTa's was (unigram, nmt_nfkc), write tokenizer.json, return the original."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=pieces,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    vocabulary = [(token, 0.0) for token in FIRST]
    vocabulary += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    published = XLMRobertaTokenizer(
        vocab=[*vocabulary, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap,
    )
    published.save_pretrained(folder)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def original_ids(processor, texts: Sequence[str]) -> list[list[int]]:
    """Ids of SentencePiece itself, moved as XLM-RoBERTa moves them, between <s> and </s>."""
    return [[0, *(3 if i == 0 else i + 1 for i in ids), 2] for ids in processor.encode(list(texts))]
