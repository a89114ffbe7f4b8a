"""A T5 tokenizer trained on a few captions: by SentencePiece, published by transformers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import T5Tokenizer


def train(folder: Path, corpus: Sequence[str], pieces: int, extra_ids: int = 6):
    """Train as T5's was (unigram, nmt_nfkc, pad 0, end 1, unknown 2) and write tokenizer.json.

    Returns:
        The original SentencePiece processor, without the extra ids.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=pieces,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids))]
    published = T5Tokenizer(
        vocab=vocabulary,
        extra_ids=extra_ids,
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap,
    )
    published.save_pretrained(folder)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def original_ids(processor, texts: Sequence[str]) -> list[list[int]]:
    """Ids of SentencePiece itself, the end token added."""
    return processor.encode(list(texts), add_eos=True)


def published_ids(folder: Path, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Ids of transformers' tokenizer, cut to `longest`."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    return tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]


def published_batch(
    folder: Path, texts: Sequence[str], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of transformers' tokenizer, padded and cut to `length`."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    batch = tokenizer(
        list(texts), truncation=True, max_length=length, padding="max_length", return_tensors="np"
    )
    return batch["input_ids"], batch["attention_mask"]
