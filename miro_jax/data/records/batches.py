"""Training data: a folder of annotated records -> an endless, resumable iterator of batches.

Every epoch is a permutation of all records, a new one each time. Which record stands at position i
of the stream, and which of its captions is used, depend on (seed, i) only: not on threads,
processes or on how often the run was resumed. Each process reads its own rows of each global batch:
a row stands at the same index of the batch, whoever reads it.

A record that does not read back becomes an example of weight 0 and is counted: the stream never
shifts.

Letters: B batch (rows of this process), h w c image latents, L caption tokens as padded, D caption
width, R rewards.
"""

import functools
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from miro_jax.data.records import bins as bins_lib
from miro_jax.data.records import record as records
from miro_jax.data.records import shards
from miro_jax.data.records.examples import MakeExample, RecordSource, stack_examples
from miro_jax.data.records.manifest import Manifest, require_rewards
from miro_jax.data.records.options import Options
from miro_jax.data.records.order import ShardOrder, row_position
from miro_jax.data.records.staging import StagedRecords, source_of

# More damage than this is no accident of single records, and the run should not go on.
_MAX_DAMAGED_RATE, _MAX_DAMAGED = 0.01, 10
# Files that a process has open besides its shards: libraries, sockets, logs.
_OTHER_OPEN_FILES = 256
_ENDLESS = 1 << 62  # positions
_RECORDS = "manifest_digest"
_POSITION, _ORDERS = "global_next_index", ("shuffle_shards", "lanes")  # in a data state
_SAID = {_RECORDS: "the manifest's digest of the records (config.data.records)"}


class DataIterator:
    """Endless iterator of batches; make it with `make_iterator`.

    `next(it)` gives a dict of contiguous numpy arrays, the rows of this process:
        image_mean, image_std: [B, h, w, c] float16.
        caption_tokens: [B, L, D] float16, zero past the caption.
        caption_mask: [B, L] bool, True on tokens.
        levels: [B, R] float32 in [0, 1], NaN is missing.
        weight: [B] float32, 0 for a damaged record, else 1.
        index: [B] int64, which record of the set; `key(index)` names it.
    """

    def __init__(
        self,
        examples: Callable[[int], dict],
        source: RecordSource,
        bins: bins_lib.Bins,
        identity: dict,
        options: Options,
    ):
        self._examples, self._source, self._bins = examples, source, bins
        self._identity, self._options = identity, options
        self._position = 0  # in the stream of all processes
        self._batches: Any = None  # from the position on, once they are read
        self._ahead: dict[str, np.ndarray] | None = None  # the next batch, if it was looked at

    def __iter__(self) -> "DataIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch, self._ahead = self._peek(), None
        self._position += self._options.batch_size
        allowed = max(_MAX_DAMAGED, int(_MAX_DAMAGED_RATE * self.num_records))
        if self.num_damaged > allowed:
            raise OSError(
                f"At most {allowed} of the {self.num_records} records may be damaged; "
                f"{self.num_damaged} did not read, see log.txt. shards.verify_shards with "
                "full=True names damaged files: delete them and annotate again."
            )
        batch["levels"] = bins_lib.levels(self._bins, batch.pop("scores"))
        return {name: np.ascontiguousarray(array) for name, array in batch.items()}

    @property
    def caption_length(self) -> int:
        """L of the next batch; other processes may have another one for their rows of it."""
        return self._peek()["caption_mask"].shape[1]

    def _peek(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = self._read_from(self._position)
        if self._ahead is not None:
            return self._ahead
        batch: dict[str, np.ndarray] = next(self._batches)
        self._ahead = batch
        return batch

    def _read_from(self, position: int) -> Any:
        """Begin to read the rows of this process, from a position of the stream on."""
        size, lanes, examples = self._options.batch_size, self._options.lanes, self._examples
        rows = [row_position(row, size, lanes) for row in self._options.read_rows]
        staged, buckets = self._source.staged, self._options.buckets

        def batch(index: int) -> dict[str, np.ndarray]:
            begin = position + index * size
            if staged is not None:
                staged.at(begin)
            return stack_examples([examples(begin + row) for row in rows], buckets)

        # Whole batches are mapped: a step of Grain for each record would cost as much as it does.
        ours = grain.MapDataset.range(_ENDLESS).map(batch)
        options = self._options
        read = grain.ReadOptions(options.num_threads, options.prefetch_batches)
        return iter(ours.to_iter_dataset(read))

    @property
    def num_records(self) -> int:
        """Records in one epoch."""
        return len(self._source)

    @property
    def num_damaged(self) -> int:
        """Damaged records met so far by this process, read-ahead included."""
        return len(self._source.damaged)

    def key(self, index: int) -> str:
        """Name the record with this index, or say that it is damaged."""
        _, data = self._source[index]
        return records.decode_record(data).key if data else f"(damaged record {index})"

    def get_state(self) -> dict:
        """Return the position of the next batch as JSON values, equal on all processes.

        Raises:
          OSError: a shard has changed since it was opened: no checkpoint may be made of it.
        """
        self._source.check_unchanged()
        return {**self._identity, _POSITION: self._position}

    def set_state(self, state: dict) -> None:
        """Continue from a state of `get_state`, also with other batch sizes or process counts.

        Raises:
          ValueError: the state belongs to other records, levels, seed or caption probability.
        """
        for name in dict.fromkeys((*self._identity, *_ORDERS)):
            if state.get(name) != (value := self._identity.get(name)):
                raise ValueError(
                    "A run must resume with the records and data settings that it began with: "
                    f"{_SAID.get(name, name)} was {state.get(name)!r}; got {value!r}. Give those, "
                    "or start a new run."
                )
        self.close()
        self._position = state[_POSITION]

    def close(self) -> None:
        """Stop the reading threads."""
        if self._batches is not None:
            self._batches.close()
        self._batches = self._ahead = None
        self._source.close()


def make_iterator(
    records_dir: str | os.PathLike,
    bins: bins_lib.Bins,
    identities: Sequence[str],
    options: Options,
) -> DataIterator:
    """Check a folder of records and open it for training.

    Args:
      records_dir: folder that the annotate stage completed.
      bins: edges of the same rewards.
      identities: the rewards that the run is configured for, in order.
      options: how records become batches.

    Raises:
      FileNotFoundError: the set is not complete, or a shard is missing.
      OSError: the system does not allow as many open files as there are shards.
      ValueError: a shard is damaged; the rewards, levels or widths differ.
    """
    source, make_example, order = _open(records_dir, bins, identities, options)
    identity = {
        _RECORDS: bins.manifest_digest,
        "levels": bins.label,
        "seed": options.seed,
        "synthetic_caption_prob": options.synthetic_caption_prob,
    }
    if order is not None:  # states of the other order have no such key, and never had
        identity[_ORDERS[0]] = options.shuffle_shards
    if options.lanes > 1:
        identity[_ORDERS[1]] = options.lanes
    examples = _examples(source, make_example, order, options.seed)
    return DataIterator(examples, source, bins, identity, options)


def _examples(
    source: RecordSource, make_example: MakeExample, order: ShardOrder | None, seed: int
) -> Callable[[int], dict]:
    """Return what makes the example at a position of the stream.

    Grain orders the records and draws; it does not map them: its counters and clocks would cost as
    much as to read a record.
    """
    indices: Any  # Grain types its elements as optional
    if order is None:
        # Not `shuffle(seed=s)`: there, epoch 1 of seed 0 is epoch 0 of seed 1.
        indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)
    else:
        indices = grain.MapDataset.source(_Stream(order)).seed(seed)
    if not make_example.is_random:
        return lambda position: make_example(source[indices[position]])
    drawn = indices.random_map(lambda index, rng: make_example(source[index], rng))
    return drawn.__getitem__


def load_all(
    records_dir: str | os.PathLike,
    bins: bins_lib.Bins,
    identities: Sequence[str],
    options: Options,
) -> dict[str, np.ndarray]:
    """Read a whole set into memory, in its order: the fields of a batch, with N rows.

    Takes and raises what `make_iterator` does; the synthetic captions are used if
    `options.synthetic_caption_prob` is 1.
    """
    source, make_example, _ = _open(records_dir, bins, identities, options)
    rng = np.random.default_rng(options.seed) if make_example.is_random else None
    rows = [make_example(source[index], rng) for index in range(len(source))]
    batch = stack_examples(rows, options.buckets)
    batch["levels"] = bins_lib.levels(bins, batch.pop("scores"))
    return batch


def _open(
    records_dir: str | os.PathLike,
    bins: bins_lib.Bins,
    identities: Sequence[str],
    options: Options,
) -> tuple[RecordSource, MakeExample, ShardOrder | None]:
    """Check a set against what is to be trained; see `make_iterator`."""
    manifest = Manifest.load(records_dir)
    require_rewards(manifest, identities)
    _check_bins(records_dir, manifest, bins)
    if options.caption_width not in (None, manifest.caption_width):
        raise ValueError(
            f"The network takes caption tokens of width {options.caption_width}; the records hold "
            f"{manifest.caption_width}. Change config.encoder.caption, or annotate again."
        )
    if is_copy := source_of(records_dir) is not None:  # whose shards are checked as they come
        paths = [Path(records_dir, name) for name in manifest.shard_names]
    else:
        paths = shards.verify_shards(records_dir)
    if not manifest.num_records:
        raise ValueError(f"{records_dir} must hold at least one record; got none.")
    counts, order, staged = [manifest.shards[path.name] for path in paths], None, None
    if options.shuffle_shards:
        order = ShardOrder(counts, options.shuffle_shards, options.seed, options.lanes)
    if is_copy:
        near, most = None, None
        if order is not None:
            lanes = options.read_lanes
            near, most = functools.partial(order.shards_near, lanes=lanes), order.most_shards(lanes)
        size = options.stage_bytes
        staged = StagedRecords(records_dir, near, most, size, options.stagers)
    _allow_open_files(len(paths))
    source = RecordSource(paths, counts, staged)
    make_example = MakeExample(
        source,
        shards.read_added(records_dir, manifest),
        *_choose_latents(manifest, options.latent_shape),
        caption_width=manifest.caption_width,
        num_rewards=len(manifest.rewards),
        max_tokens=options.max_tokens,
        synthetic_caption_prob=options.synthetic_caption_prob,
    )
    return source, make_example, order


class _Stream:
    """The indices of the records of all epochs, in an order by shards."""

    def __init__(self, order: ShardOrder):
        self._order = order

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> int:
        return self._order(index)


def _check_bins(records_dir: str | os.PathLike, manifest: Manifest, bins: bins_lib.Bins) -> None:
    """Raise ValueError unless the levels were fitted to these records."""
    if bins.names != manifest.rewards:
        raise ValueError(
            f"The bins must be of the rewards {list(manifest.rewards)}; got {list(bins.names)}. "
            f"Use the {bins_lib.BINS_NAME} of {records_dir}."
        )
    if bins.manifest_digest != manifest.digest:
        raise ValueError(
            f"{records_dir}/{bins_lib.BINS_NAME} must be fitted to these records; it is of others. "
            "Run the annotate stage (--stage=annotate): it fits levels anew."
        )


def _choose_latents(
    manifest: Manifest, latent_shape: Sequence[int] | None
) -> tuple[tuple[str, str], tuple[int, ...]]:
    """Return the fields of a record that hold the image latents, and their shape."""
    known = {"": manifest.latent_shape, "_512": manifest.latent_shape_512}
    wanted = manifest.latent_shape if latent_shape is None else tuple(latent_shape)
    for end, shape in known.items():
        if shape == wanted:
            return (f"image_mean{end}", f"image_std{end}"), shape
    raise ValueError(
        f"The network takes image latents {wanted}; the records hold "
        f"{' and '.join(str(shape) for shape in known.values() if shape)}. Change "
        "config.encoder.image, or annotate with config.annotate.encode_512."
    )


def _allow_open_files(num_shards: int) -> None:
    """Raise this process's own limit of open files where needed: every shard read stays open."""
    needed = num_shards + _OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(
            f"{needed} files must be allowed to be open for {num_shards} shards; the limit is "
            f"{hard}. Run `ulimit -Hn {needed}` as administrator, or annotate larger pieces."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
