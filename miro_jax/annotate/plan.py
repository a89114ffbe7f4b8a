"""What is to be done, with which models, into what: checked before any device is touched."""

import dataclasses
import inspect
import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax

from miro_jax.annotate import origin, parts, workers
from miro_jax.annotate.models import ENCODERS, SECOND_SIZE, Group, Toolbox, find_card
from miro_jax.annotate.publish import Assembly, Records, Sink
from miro_jax.annotate.settings import ALL, SHARED, EngineSettings, Settings, parse_named
from miro_jax.cli import processes
from miro_jax.cli.flags import check
from miro_jax.data.printable import some
from miro_jax.data.sources import Piece, Source, open_source
from miro_jax.data.storage import Folder, check_writable, open_folder
from miro_jax.data.storage.ahead import map_ahead
from miro_jax.data.storage.claim import Claim
from miro_jax.data.storage.files import to_json
from miro_jax.models import sharding
from miro_jax.models.compiling import cores
from miro_jax.rewards import base, check_names, check_weights

_MOST_THREADS = 32
J = TypeVar("J", bound="Job")


@dataclasses.dataclass(frozen=True)
class Job:
    """What the engine is to do, checked.

    settings: of annotate or score. source: with all its pieces. pieces: those to be done now; why:
    how they were chosen. groups: of models, those to run now. folder: of parts and of what pieces
    become. claim, request: who may write there, and JSON values that the result depends on, as far
    as they are known before any model is loaded. digests: of the pieces, by id. sink: what a piece
    becomes. stored: scores are on the scale that records store, and not on the models' own.
    rate_flag: what sets the share of samples that may fail, for people.
    """

    rate_flag: ClassVar[str] = "--max-failure-rate (or config.annotate.max_failure_rate)"

    settings: Any
    source: Source
    pieces: tuple[Piece, ...]
    why: str
    toolbox: Toolbox
    groups: tuple[Group, ...]
    folder: Folder
    claim: Claim
    request: dict
    digests: dict[str, str]
    sink: Sink
    stored: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether all pieces and all models are requested: then the end is made, too."""
        return (len(self.pieces), self.groups) == (len(self.source.pieces), self.toolbox.groups)

    @property
    def assembly(self) -> Assembly:
        """What publishes pieces."""
        toolbox = self.toolbox
        return Assembly(
            self.folder, toolbox.groups, toolbox.names, self.settings.batch_size, self.sink
        )

    @property
    def num_threads(self) -> int:
        """Threads that decode."""
        return self.settings.num_threads or min(cores(), _MOST_THREADS)

    @property
    def remedy(self) -> str:
        """What to do when too many samples fail."""
        return (
            f"Mend the input and delete {self.folder}, or raise {self.rate_flag} and run again: "
            "finished work is kept."
        )

    def listed(self) -> Folder:
        """Return the folder as it is now, for a look at many pieces; see `Folder.listed`."""
        return self.folder.listed(self.sink.inside)

    def begun_pieces(self) -> set[int]:
        """Return the numbers of the pieces that have parts."""
        return {int(name) for name in self.folder.folders(parts.FOLDER) if name.isdecimal()}

    def missing_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Return the numbers of those pieces that are not published."""
        folder, numbers = self.listed(), [piece.number for piece in pieces]
        done = map_ahead(lambda n: self.sink.is_done(folder, n), numbers)
        return [n for n, there in zip(numbers, done, strict=True) if not there]

    def require_all(self) -> None:
        """Raise RuntimeError unless every piece is published."""
        if missing := self.missing_pieces(self.source.pieces):
            begun = self.begun_pieces().intersection(missing)
            first = some(missing, ",", 20)
            raise RuntimeError(
                f"All {len(self.source.pieces)} pieces must be published; {len(missing)} are not "
                f"({len(begun)} of them are begun). Do them first: --pieces={first}"
            )


def plan(settings: Settings) -> Job:
    """Check everything that can be checked before the first image is read or a device is touched.

    Raises:
      ValueError: a bad value, or the folder holds records of another request.
      TypeError: a value of a wrong kind.
      OSError: something is missing, or cannot be read or written.
    """
    folder = open_folder(settings.out)
    given = settings.image_encoder, settings.caption_encoder
    encoders = [_read_encoder(one) for one in given]
    toolbox = make_toolbox(settings, settings.rewards, *encoders, settings.encode_512)
    if settings.encode_512 and toolbox.image_size == SECOND_SIZE:
        raise ValueError(
            "The image encoder is of size 512 already: drop encode_512, or take size 256 beside it."
        )
    source = settings.source
    if isinstance(source, str):
        source = open_source(source, settings.allow_urls)
    if not isinstance(source, Source):
        raise TypeError(
            f"source must be text, as 'folder:PATH', or one that is open; got {source!r:.60}."
        )
    if not source.pieces:
        raise ValueError(f"At least one piece is needed; {source.spec} has none.")
    if not any(piece.has_captions or piece.tables.captions for piece in source.pieces):
        raise ValueError(
            f"{source.spec} has no captions. Give a table of them with ?captions=FILE, or of a "
            "table with images the column with ?caption=COLUMN."
        )
    signed = sign(source.pieces)
    request = {"source": source.facts, "pieces": signed, **toolbox.labels()}
    claim = origin.make_claim(folder)
    more = {"folder": folder, "claim": claim, "sink": Records()}
    job = make_job(Job, settings, source, toolbox, request, signed, **more)
    origin.check(job.claim, job.request)
    # A complete set may well be shared and read-only.
    if not (settings.plan or settings.probe or origin.is_complete(folder)):
        check_writable(settings.out)
    return job


def make_job(
    kind: type[J],
    settings: EngineSettings,
    source: Source,
    toolbox: Toolbox,
    request: Mapping[str, Any],
    signed: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> J:
    """Make a job of what is checked; choose the pieces and groups of this process.

    Args:
      kind: of the job. signed: see `sign`. **more: further fields of it.

    Raises:
      ValueError: contradicting options, or a piece or group that is not there.
    """
    share = choose_pieces(settings, source)
    return kind(
        settings=settings,
        source=source,
        pieces=tuple(source.pieces[n] for n in share.pieces),
        why=share.why,
        toolbox=toolbox,
        groups=select_groups(toolbox.groups, settings.stages),
        request=json.loads(to_json(dict(request))),  # as it will be read back
        digests={name: facts["digest"] for name, facts in signed.items()},
        **more,
    )


def make_toolbox(
    settings: EngineSettings,
    rewards: Sequence[str | base.Reward],
    image_encoder: Any = None,
    caption_encoder: Any = None,
    encode_512: bool = False,
) -> Toolbox:
    """Check the models of a job and put them into groups; nothing is loaded."""
    check(settings)
    weights = {name: str(url) for name, url in read_weights(settings).items() if url}
    check_rewards(rewards, weights)
    toolbox = Toolbox(
        rewards=tuple(rewards),
        image_encoder=image_encoder,
        caption_encoder=caption_encoder,
        groups=_read_groups(settings.groups),
        encode_512=encode_512,
        weights=weights,
        dtype=settings.dtype,
        mesh=sharding.parse_mesh(settings.mesh),
    )
    folders = list(weights.items())
    for given in toolbox.encoders.values():
        if isinstance(given, Mapping) and given.get("weights"):
            folders.append((given["name"], given["weights"]))
    for name, url in folders:
        if card := find_card(name):
            card.check_folder(url)
    members = [*toolbox.names, *toolbox.encoders]
    groups = toolbox.groups or _default_groups(members)
    _check_groups(groups, members)
    return dataclasses.replace(toolbox, groups=groups)


def _read_groups(given: Any) -> tuple[Group, ...]:
    try:
        if all(isinstance(name, str) and not isinstance(some, str) for name, some in given):
            return tuple(Group(name, tuple(some)) for name, some in given)
    except (TypeError, ValueError):  # not of pairs
        pass
    raise TypeError(f"groups must be pairs, as [('rewards', ['clip', 'vqa'])]; got {given!r:.60}.")


def read_weights(settings: EngineSettings) -> dict[str, Any]:
    """Return the weights that are given, by reward; TypeError where they are no mapping."""
    try:
        return dict(settings.weights or {})
    except (TypeError, ValueError) as error:  # of text, or of a list of folders
        raise TypeError(
            f"weights must be {{name: folder or hub id}}; got {settings.weights!r:.60}."
        ) from error


def sign(pieces: Sequence[Piece]) -> dict[str, dict[str, Any]]:
    """Return what a request says of pieces, by id; see `storage.claim`."""
    prints = map_ahead(Piece.fingerprint, pieces)
    return {
        piece.id: {"bytes": piece.num_bytes, "images": piece.count, "digest": digest}
        for piece, digest in zip(pieces, prints, strict=True)
    }


def choose_pieces(settings: EngineSettings, source: Source) -> workers.Share:
    """Return the pieces of this process.

    Raises:
      ValueError: contradicting options, or a piece that the source does not have.
      TypeError: pieces are neither numbers nor text.
    """
    pieces, index, count = settings.pieces, settings.worker_index, settings.num_workers
    if settings.piece is not None:
        if pieces not in (SHARED, ALL):
            raise ValueError("--piece and --pieces must not both be given.")
        pieces = str(settings.piece)
    if settings.merge:
        if (index, count, settings.stages) != (None, None, ALL) or pieces not in (SHARED, ALL):
            raise ValueError("--merge is of all pieces and stages; it takes no choice of them.")
        pieces = ALL
    total = len(source.pieces)
    if not isinstance(pieces, str):
        try:
            pieces = [operator.index(number) for number in pieces]
        except TypeError as error:
            raise TypeError(
                f"pieces must be numbers, as [0, 3], or text, as '0-9,17'; got {pieces!r:.60}."
            ) from error
        if unknown := [n for n in pieces if not 0 <= n < total]:
            raise ValueError(f"pieces must be numbers in 0 .. {total - 1}; got {some(unknown)}.")
        return workers.Share(tuple(dict.fromkeys(pieces)), "pieces as requested")
    if settings.distributed and (pieces, index) == (SHARED, None):
        index, count = _ask_jax()
    requested = None if pieces == SHARED else pieces
    return workers.choose(total, os.environ, requested, index, count)


def _ask_jax() -> tuple[int, int]:
    """Return index and number of the processes of jax.distributed."""
    try:
        processes.start()
    except ValueError as error:
        raise ValueError(
            f"--distributed needs a cluster that jax knows; it reports: {error} Give "
            "--worker-index and --num-workers instead."
        ) from error
    return jax.process_index(), jax.process_count()


def select_groups(groups: Sequence[Group], stages: str) -> tuple[Group, ...]:
    """Return the groups that `stages` names, in their own order."""
    if stages == ALL:
        return tuple(groups)
    known = [group.name for group in groups]
    wanted = stages.split(",") if isinstance(stages, str) else [stages]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(
            f"stages must be {ALL} or some of {', '.join(known)}, as text with commas between; got "
            f"{', '.join(map(str, unknown))}."
        )
    return tuple(group for group in groups if group.name in wanted)


def check_rewards(rewards: Sequence[str | base.Reward], weights: Mapping[str, str]) -> None:
    """Raise unless there are rewards, all known and different, and weights are given for some.

    Raises:
      TypeError: see `check_kinds`.
      ValueError: anything else.
    """
    check_kinds(rewards)
    names = [r for r in rewards if isinstance(r, str)]
    check_names(names)
    check_weights(names, weights)
    everybody = [r if isinstance(r, str) else r.name for r in rewards]
    if not everybody or len(set(everybody)) < len(everybody):
        raise ValueError(
            f"There must be at least one reward, and none twice; got {', '.join(everybody)}."
        )


def check_kinds(rewards: Any) -> None:
    """Raise TypeError unless rewards is a sequence of names and of rewards that are built."""
    if isinstance(rewards, str) or not isinstance(rewards, Sequence):
        one = f"the one string {rewards!r}" if isinstance(rewards, str) else repr(rewards)
        raise TypeError(f"rewards must be a list of names or rewards; got {one}.")
    for reward in rewards:
        if not isinstance(getattr(reward, "identity", reward), str):
            what = f"the class {reward.__name__}" if isinstance(reward, type) else repr(reward)
            raise TypeError(
                f"A reward must be a name, or an object such as MyReward(); got {what}."
            )


def _read_encoder(given: Any) -> Any:
    read = parse_named(given) if isinstance(given, str) else given
    known = inspect.getattr_static(read, "identity", None)  # which might read weights
    if not ("name" in read if isinstance(read, Mapping) else known):
        raise TypeError(
            "An encoder must be text, as 'pixels:size=64', a mapping with its name, or an object "
            f"with an identity; got {given!r:.60}."
        )
    return read


def _default_groups(members: Sequence[str]) -> tuple[Group, ...]:
    """Split the models as they usually fit into memory: rewards, VQAScore, encoders."""
    encoders = tuple(name for name in members if name in ENCODERS)
    large = tuple(name for name in members if name.partition("@")[0] == "vqa")
    small = tuple(name for name in members if name not in encoders + large)
    groups = (Group("rewards", small), Group("vqa", large), Group("encode", encoders))
    return tuple(group for group in groups if group.members)


def _check_groups(groups: Sequence[Group], wanted: Sequence[str]) -> None:
    """Raise ValueError unless every model is in exactly one group, and groups have good names."""
    members = [name for group in groups for name in group.members]
    if sorted(members) != sorted(wanted):
        raise ValueError(
            f"The groups must hold each of {', '.join(wanted)} once; got {', '.join(members)}."
        )
    names = [group.name for group in groups]
    if len(set(names)) < len(names) or not all(
        name.isidentifier() and name != ALL for name in names
    ):
        raise ValueError(
            f"The groups must have names of letters that differ from each other and from 'all'; "
            f"got {', '.join(map(repr, names))}."
        )
