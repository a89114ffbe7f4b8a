"""One record -> one training example, of weight 0 where the record is damaged; examples -> a batch.

Only the caption's length differs among examples. A batch is padded to the length of a bucket, so
that few programs see all lengths and none computes on much padding.

Letters: B examples, h w c image latents, n tokens of a caption, L of a bucket, D caption width, R
rewards, A added rewards.
"""

import dataclasses
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from miro_jax.data.records import record as records
from miro_jax.data.records.staging import StagedRecords
from miro_jax.data.storage import LocalFolder

log = logging.getLogger("miro_jax")


class RecordSource:
    """All records of the shards as (index, bytes); bytes are empty where the record is damaged.

    Total on purpose: an exception inside a Grain pipeline leaves its iterator at a wrong position.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        counts: Sequence[int],
        staged: StagedRecords | None = None,
    ):
        """Open shards with so many records each; those of a store as they are staged."""
        if staged is not None:  # what comes from there has its digest
            self._stamps, self._records = {}, staged
        else:
            # The counts spare opening every shard once more to count its records.
            spans = [f"{path}[0:{n}]" for path, n in zip(paths, counts, strict=True) if n]
            self._stamps = {path: LocalFolder(path.parent).stamp(path.name) for path in paths}
            self._records: Any = grain.sources.ArrayRecordDataSource(spans)
        self.staged = staged
        self._lock = threading.Lock()
        self.damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        index = int(index)
        try:
            return index, self._records[index]
        except RuntimeError as error:  # ArrayRecord found that its hash does not match
            self.report(index, error)
            return index, b""

    def report(self, index: int, error: Exception) -> None:
        """Count a damaged record and say so once."""
        with self._lock:
            if index in self.damaged:
                return
            self.damaged.add(index)
        log.warning("Record %d is damaged and gets weight 0: %s", index, error)

    def check_unchanged(self) -> None:
        """Raise OSError if a shard was replaced or rewritten since it was opened."""
        for path, stamp in self._stamps.items():
            if LocalFolder(path.parent).stamp(path.name) != stamp:
                raise OSError(
                    f"{path} has changed since it was opened. Leave records alone while they are "
                    "read; the last checkpoint is of the records as they were."
                )

    def close(self) -> None:
        """Stop fetching ahead what comes from a store."""
        if self.staged is not None:
            self.staged.close()

    def __repr__(self) -> str:
        return f"RecordSource({len(self)} records)"


@dataclasses.dataclass(frozen=True)
class MakeExample:
    """(index, bytes) -> example with a caption of [n, D]; draws which caption is used.

    Where all records use the same one there is nothing to draw, and `is_random` is False: to make a
    generator for each record takes Grain as long as to decode it.

    added: [N, 2, A] float32 of all records, scores of own and synthetic captions that stand behind
    those of the record.
    """

    source: RecordSource
    added: np.ndarray
    fields: tuple[str, str]
    latent_shape: tuple[int, ...]
    caption_width: int
    num_rewards: int
    max_tokens: int
    synthetic_caption_prob: float

    @property
    def is_random(self) -> bool:
        """Whether a generator is needed."""
        return 0 < self.synthetic_caption_prob < 1

    def __call__(self, element: tuple[int, bytes], rng: np.random.Generator | None = None) -> dict:
        index, data = element
        share = self.synthetic_caption_prob
        use_synthetic = share > 0 if rng is None else rng.random() < share
        if data:
            try:
                return self._example(index, records.decode_record(data), use_synthetic)
            except ValueError as error:
                self.source.report(index, error)
        return self._empty(index)

    def _example(self, index: int, record: records.Record, use_synthetic: bool) -> dict:
        tokens, scores, added = record.caption_tokens, record.scores, self.added[index, 0]
        if use_synthetic and record.synthetic_caption_tokens is not None:
            # Caption and scores change together: the levels must be those of the caption in use.
            tokens, scores = record.synthetic_caption_tokens, record.synthetic_scores
            added = self.added[index, 1]
        scores = np.concatenate([np.asarray(scores), added])
        mean, std = (getattr(record, field) for field in self.fields)
        for name, array, shape in (
            ("image latents", mean, self.latent_shape),
            ("scores", scores, (self.num_rewards,)),
            ("caption tokens", tokens, (len(tokens), self.caption_width)),
        ):
            found = getattr(array, "shape", None)
            if found != shape:
                raise ValueError(f"{name} must be {shape} as in the manifest; got {found}.")
        return {
            "image_mean": mean,
            "image_std": std,
            "caption_tokens": tokens[: self.max_tokens],
            "scores": scores,
            "weight": np.float32(1),
            "index": np.int64(index),
        }

    def _empty(self, index: int) -> dict:
        return {
            "image_mean": np.zeros(self.latent_shape, np.float16),
            "image_std": np.zeros(self.latent_shape, np.float16),
            "caption_tokens": np.zeros((0, self.caption_width), np.float16),
            "scores": np.full(self.num_rewards, np.nan, np.float32),
            "weight": np.float32(0),
            "index": np.int64(index),
        }


def stack_examples(examples: Sequence[dict], buckets: Sequence[int]) -> dict[str, np.ndarray]:
    """Return a batch: every field stacked, captions padded to a bucket.

    Args:
      examples: of `MakeExample`, one or more.
      buckets: lengths, rising; the last is not below any caption's.

    Returns:
      The fields with B rows; caption_tokens [B, L, D] float16, zero past the caption, and
      caption_mask [B, L] bool, where L is the least of `buckets` that holds every caption.
    """
    captions = [example["caption_tokens"] for example in examples]
    lengths = [len(tokens) for tokens in captions]
    shape = (len(captions), bucket_of(max(lengths), buckets), captions[0].shape[1])
    batch = {
        name: np.stack([example[name] for example in examples])
        for name in examples[0]
        if name != "caption_tokens"
    }
    padded = batch["caption_tokens"] = np.zeros(shape, np.float16)
    for row, tokens in zip(padded, captions, strict=True):
        row[: len(tokens)] = tokens
    batch["caption_mask"] = np.arange(shape[1]) < np.asarray(lengths)[:, None]
    return batch


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """Return the least of rising `buckets` that is not below `length`; the last if none is."""
    return next((bucket for bucket in buckets if bucket >= length), buckets[-1])


def pad_captions(batch: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Return a batch of `stack_examples` with captions padded further, to `length`."""
    more = length - batch["caption_mask"].shape[1]
    if not more:
        return batch
    padded = {
        name: np.pad(batch[name], [(0, 0), (0, more)] + [(0, 0)] * (batch[name].ndim - 2))
        for name in ("caption_tokens", "caption_mask")
    }
    return batch | padded
