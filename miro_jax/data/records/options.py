"""How records become batches: the settings of `data.records.batches`."""

import dataclasses
import itertools
from collections.abc import Sequence

# Whole numbers, and the least that each may be.
_LEAST = {
    "num_threads": 0,
    "prefetch_batches": 0,
    "shuffle_shards": 0,
    "stage_bytes": 0,
    "lanes": 1,
    "processes_here": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How records become batches.

    batch_size: global, the same whatever part of it this process reads.
    seed: of the order and of the choice of captions.
    synthetic_caption_prob: in [0, 1]; a record without a synthetic caption always uses its own.
    max_tokens: longer captions are cut.
    caption_buckets: lengths below max_tokens, rising, to the least of which that holds all captions
      of the rows a batch is padded; without any, or where none does, to max_tokens.
    num_threads: that read and decode. prefetch_batches: that are kept ready.
    latent_shape: [h, w, c] that the network takes, to choose between the image latents of the
      records and their second ones; None takes the first.
    caption_width: D that the network takes; None takes any.
    rows: of each batch, that this process reads, see `sharding.local_rows`; None reads all.
    shuffle_shards: shards that are mixed at a time, see `records.order`; 0 is the order of single
      records, which needs all shards at any time.
    lanes: of rows of each batch that read shards of their own, see `records.order`: a process reads
      the shards of its rows' lanes alone. 1 is the order without them.
    stage_bytes: that shards of a store take on the disk at a time; 0 is most of what is free.
    processes_here: of this machine, that read. Where each reads lanes of its own, and so shards of
      its own, each takes its share of what is free.
    """

    batch_size: int
    seed: int
    synthetic_caption_prob: float
    max_tokens: int
    caption_buckets: Sequence[int] = ()
    num_threads: int = 2
    prefetch_batches: int = 4
    latent_shape: Sequence[int] | None = None
    caption_width: int | None = None
    rows: Sequence[int] | None = None
    shuffle_shards: int = 0
    lanes: int = 1
    stage_bytes: int = 0
    processes_here: int = 1

    def __post_init__(self):
        whole = {name: getattr(self, name) for name in _LEAST}
        if not all(isinstance(number, int) for number in (*self.caption_buckets, *whole.values())):
            raise ValueError(
                f"caption_buckets, {', '.join(whole)} must be whole numbers; got "
                f"{tuple(self.caption_buckets)} and {tuple(whole.values())}."
            )
        for name, least in {"batch_size": 1, "max_tokens": 1, **_LEAST}.items():
            if (number := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}; got {number}.")
        if not 0 <= self.synthetic_caption_prob <= 1:
            raise ValueError(
                f"synthetic_caption_prob must be in [0, 1]; got {self.synthetic_caption_prob}."
            )
        lengths = (0, *self.caption_buckets, self.max_tokens)
        if any(a >= b for a, b in itertools.pairwise(lengths)):
            raise ValueError(
                f"caption_buckets must rise, each at least 1 and below the {self.max_tokens} of "
                f"max_tokens; got {tuple(self.caption_buckets)}."
            )
        if self.batch_size % self.lanes:
            raise ValueError(
                f"lanes must divide the batch size {self.batch_size}; got {self.lanes}."
            )
        if self.lanes > max(self.shuffle_shards, 1):
            raise ValueError(
                f"lanes must be at most shuffle_shards, the shards that are mixed at a time, for "
                f"each lane mixes one at least; got {self.lanes} and {self.shuffle_shards}."
            )

    @property
    def buckets(self) -> tuple[int, ...]:
        """All lengths that the captions of a batch may have, rising."""
        return (*self.caption_buckets, self.max_tokens)

    @property
    def read_rows(self) -> Sequence[int]:
        """The rows of each global batch that this process reads."""
        return range(self.batch_size) if self.rows is None else self.rows

    @property
    def read_lanes(self) -> Sequence[int]:
        """The lanes of those rows."""
        return sorted({row * self.lanes // self.batch_size for row in self.read_rows})

    @property
    def stagers(self) -> int:
        """How many processes of this machine stage shards that the others do not."""
        return self.processes_here if len(self.read_lanes) < self.lanes else 1
