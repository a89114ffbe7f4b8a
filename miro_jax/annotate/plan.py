"""What is to be annotated, with what, into what: every argument checked before any work."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from miro_jax.annotate import models, origin, sizes
from miro_jax.annotate.loading import default_threads
from miro_jax.annotate.models import Group, Toolbox
from miro_jax.annotate.publish import Assembly
from miro_jax.data.records import bins
from miro_jax.data.sources import Piece, Source, open_source
from miro_jax.data.storage import Folder, check_writable, open_folder
from miro_jax.data.storage.files import to_json
from miro_jax.models import sharding
from miro_jax.rewards import base

ALL = "all"
_SIGNING_THREADS = 16  # fingerprints of pieces in an object store are a matter of waiting


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `plan`, checked.

    source: with all its pieces. pieces: those to be done now. groups: those to run now.
    configuration: JSON values that say what the records depend on, as far as it is known before
    any model is loaded.
    """

    source: Source
    pieces: tuple[Piece, ...]
    folder: Folder
    toolbox: Toolbox
    groups: tuple[Group, ...]
    one_by_one: bool
    batch_size: int
    num_threads: int
    max_failure_rate: float
    num_bins: int
    bins_strategy: str
    configuration: dict

    @property
    def is_whole(self) -> bool:
        """Whether all pieces and all models are asked for: the set is finished at the end."""
        return (len(self.pieces), self.groups) == (len(self.source.pieces), self.toolbox.groups)

    @property
    def assembly(self) -> Assembly:
        """What publishes pieces."""
        return Assembly(self.folder, self.toolbox.groups, self.toolbox.names, self.batch_size)

    @property
    def remedy(self) -> str:
        """What to do when too many samples fail."""
        return (
            f"Mend the source and delete {self.folder}, or raise max_failure_rate and run again: "
            "what is done is kept."
        )


def plan(
    source: str | Source,
    out: str | os.PathLike,
    rewards: Sequence[str | base.Reward],
    image_encoder: Mapping[str, Any] | Any,
    caption_encoder: Mapping[str, Any] | Any,
    *,
    encode_512: bool = False,
    weights: Mapping[str, str] | None = None,
    dtype: str | None = None,
    mesh: str = "all",
    groups: Sequence[tuple[str, Sequence[str]]] = (),
    stages: str = ALL,
    one_by_one: bool = False,
    pieces: Sequence[int] | None = None,
    batch_size: int = 64,
    num_threads: int | None = None,
    max_failure_rate: float = 0.01,
    num_bins: int = 64,
    bins_strategy: str = "quantile",
    will_write: bool = True,
) -> Plan:
    """Check everything that can be checked before the first picture is read or a device is touched.

    Args:
        source: see `sources.open_source`.
        out: folder for the records, made where missing, or URL of one in an object store. Any
            number of processes may work on it.
        rewards: names, or rewards that are loaded already. One with a true attribute
            `may_be_missing` may answer NaN, which is then stored as missing; else a score that is
            not finite is a failure.
        image_encoder, caption_encoder: what the builders in `encoders` take, or built ones.
        encode_512: also keep the image latents of pictures of 512 pixels.
        weights: name of a reward -> folder or hub id of its weights.
        dtype: of the rewards' networks, "float32" or "bfloat16"; None leaves each its own.
        mesh: of the devices: "all" shares pictures and parameters among them; with "allx2" pairs
            also share each matrix; see `sharding.parse_mesh`.
        groups: (name, members) in the order in which they run, see `annotate.models`; empty means
            `models.default_groups`.
        stages: names of the groups to run now with commas between, or "all".
        one_by_one: load one group at a time, for models that do not fit together.
        pieces: numbers of those to be done now; None is all.
        batch_size: samples that are annotated together and kept together.
        num_threads: that decode; None is one for each processor.
        max_failure_rate: share of samples in [0, 1] that may fail.
        num_bins, bins_strategy: see `bins.fit_edges`; may be changed on a complete set.
        will_write: whether `out` must be a folder that can be written.

    Raises:
        ValueError: a bad argument, or the folder holds records of another configuration.
        TypeError: rewards is one string.
        OSError: something is not there, or cannot be read or written.
    """
    folder = open_folder(out)
    num_threads = default_threads() if num_threads is None else num_threads
    for name, value in (("batch_size", batch_size), ("num_threads", num_threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    if not 0 <= max_failure_rate <= 1:
        raise ValueError(f"max_failure_rate must be in [0, 1]; got {max_failure_rate}.")
    bins.check(num_bins, bins_strategy)
    weights = {name: place for name, place in (weights or {}).items() if place}
    models.check_rewards(rewards, weights)
    for name, place in weights.items():
        sizes.check_folder(name, place)
    for given in (image_encoder, caption_encoder):
        if isinstance(given, str):
            raise TypeError(f"An encoder must be given as {{'name': {given!r}}}; got {given!r}.")
        if isinstance(given, Mapping) and given.get("weights"):
            sizes.check_folder(given["name"], given["weights"])
    names = [r if isinstance(r, str) else r.name for r in rewards]
    chosen = tuple(Group(name, tuple(members)) for name, members in groups)
    chosen = chosen or models.default_groups(names)
    models.check_groups(chosen, names)
    toolbox = Toolbox(
        rewards=tuple(rewards),
        image_encoder=image_encoder,
        caption_encoder=caption_encoder,
        groups=chosen,
        encode_512=encode_512,
        weights=weights,
        dtype=dtype,
        mesh=sharding.parse_mesh(mesh),
    )
    if encode_512 and toolbox.image_size == models.SECOND_SIZE:
        raise ValueError(
            "The image encoder is of size 512 already: leave out encode_512, or take size 256 "
            "beside it."
        )
    source = open_source(source) if isinstance(source, str) else source
    if not source.pieces:
        raise ValueError(f"At least one piece is needed; {source.spec} has none.")
    if not any(piece.has_captions or piece.tables.captions for piece in source.pieces):
        raise ValueError(
            f"{source.spec} has no captions. Give a table of them with ?captions=FILE, or of a "
            "table with pictures the column with ?caption=COLUMN."
        )
    with ThreadPoolExecutor(_SIGNING_THREADS) as pool:
        prints = list(pool.map(lambda piece: piece.fingerprint(), source.pieces))
    configuration = {
        "source": source.facts,
        "pieces": {p.id: sign for p, sign in zip(source.pieces, prints, strict=True)},
        **toolbox.labels(),
    }
    todo = Plan(
        source=source,
        pieces=tuple(source.pieces[n] for n in _numbers(pieces, len(source.pieces))),
        folder=folder,
        toolbox=toolbox,
        groups=_select(chosen, stages),
        one_by_one=one_by_one,
        batch_size=batch_size,
        num_threads=num_threads,
        max_failure_rate=max_failure_rate,
        num_bins=num_bins,
        bins_strategy=bins_strategy,
        configuration=json.loads(to_json(configuration)),  # as it will be read back
    )
    origin.check(folder, todo.configuration)
    # A complete set may well be shared and read-only.
    if will_write and not origin.is_complete(folder):
        check_writable(out)
    return todo


def _numbers(pieces: Sequence[int] | None, count: int) -> Sequence[int]:
    if pieces is None:
        return range(count)
    if unknown := [n for n in pieces if not 0 <= n < count]:
        raise ValueError(f"pieces must be numbers in 0 .. {count - 1}; got {unknown}.")
    return pieces


def _select(groups: Sequence[Group], stages: str) -> tuple[Group, ...]:
    """Return the groups that `stages` names, in their own order."""
    if stages == ALL:
        return tuple(groups)
    wanted, known = stages.split(","), [group.name for group in groups]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(
            f"stages must be {ALL} or some of {', '.join(known)}; got {', '.join(unknown)}."
        )
    return tuple(group for group in groups if group.name in wanted)
