"""What is to be scored, with what, into what: checked before a weight is read."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from miro_jax.annotate import parts
from miro_jax.annotate.models import noted_name
from miro_jax.annotate.plan import (
    Job,
    check_kinds,
    make_job,
    make_toolbox,
    read_weights,
    sign,
)
from miro_jax.data.sources import Source, Tables, tables
from miro_jax.data.sources.captions import TextIndex, index_captions
from miro_jax.data.sources.tables import Table
from miro_jax.data.storage import Folder, check_writable, open_folder
from miro_jax.data.storage.claim import PARTIAL_NAME, Claim
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    base,
    card_of,
    check_names,
    has_weights,
    load_reward,
    own,
    why_not_commercial,
)
from miro_jax.rewards.names import is_own, is_process
from miro_jax.rewards.process import hello_of
from miro_jax.rewards.side_process import Scorer
from miro_jax.score import inputs
from miro_jax.score.settings import ENDINGS, Settings
from miro_jax.score.summary import SCHEMA
from miro_jax.score.table import FOLDER, TableRows

_OLD_COMMAND = "command.json"  # of unfinished tables that older versions wrote


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableJob(Job):
    """A job whose pieces become one table.

    home, name: folder and name of OUT. dropped: rewards that do not take part -> why. scorers: that
    were started to ask for what they need; they run until the rewards are loaded, which use them.
    """

    rate_flag = "--max-failure-rate"

    home: Folder
    name: str
    dropped: dict[str, str]
    scorers: list[Scorer]

    @property
    def out(self) -> str:
        """The table, for messages."""
        return _place(self.home, self.name)

    @property
    def is_complete(self) -> bool:
        """Whether the table is there, with its summary, which is written last."""
        return self.home.exists(self.name) and self.home.exists(self.claim.manifest)


def plan(settings: Settings) -> TableJob:
    """Check everything that can be checked before a weight is read or a device is touched.

    Raises:
      ValueError: a bad argument, or the output belongs to another request.
      TypeError: a value of a wrong kind, as rewards that are one string.
      OSError: something is missing, or cannot be read or written.
    """
    home, name = _open_out(settings.out)
    rewards, dropped = _choose(settings)
    weights = {n: str(url) for n, url in read_weights(settings).items() if n in rewards}
    settings = dataclasses.replace(settings, weights=weights)
    toolbox = make_toolbox(settings, rewards)
    path = settings.path
    several = isinstance(path, Iterable) and not isinstance(path, str | bytes)
    words = [_as_path("path", p) for p in (path if several else [path])]
    rows, captions = _open_tables(settings, words)
    index = None if captions is None else index_captions(captions)
    source = inputs.open_input(words, rows, Tables(captions=index), settings.allow_urls)
    if captions is not None and index is not None:
        _check_captions(captions, index, source)
    scorers: list[Scorer] = []
    needing = [r if isinstance(r, str) else r.name for r in rewards if _needs_caption(r, scorers)]
    _check_need(source, needing)
    if settings.limit is not None:
        pieces = inputs.first_images(source.pieces, settings.limit)
        source = dataclasses.replace(source, pieces=pieces)
    request = {
        "input": source.facts,
        "captions": captions and {**captions.facts, "column": captions.caption_column},
        "rewards": [noted_name(r) if isinstance(r, str) else r.identity for r in rewards],
        "weights": weights,
        "dtype": settings.dtype,
        "limit": settings.limit,
        "stored": settings.stored,
        "raw_csv": settings.raw_csv,
    }
    job = make_job(
        TableJob,
        settings,
        source,
        toolbox,
        request,
        sign(source.pieces),
        folder=open_folder(home / f"{name}.parts"),
        claim=_make_claim(home, name),
        # An image without a caption is of use where a reward needs none.
        sink=TableRows(needs_caption=len(needing) == len(rewards)),
        stored=settings.stored,
        home=home,
        name=name,
        dropped=dropped,
        scorers=scorers,
    )
    _check_output(job)
    return job


def _place(home: Folder, name: str) -> str:
    return name if str(home) == "." else home / name


def _make_claim(home: Folder, name: str) -> Claim:
    partial = f"{name}.parts/{PARTIAL_NAME}"
    there = f"{_place(home, name)}.parts" if home.exists(partial) else "it"
    return Claim(
        folder=home,
        manifest=f"{name}.summary.json",
        partial=partial,
        request_of=_request_of,
        schema=SCHEMA,
        scratch=f"{name}.parts",
        subject=_place(home, name),
        remedy=f"Give another --out, or delete {there}.",
    )


def _open_out(out: str | os.PathLike) -> tuple[Folder, str]:
    """Return the folder and the name of the output."""
    text = os.path.expanduser(_as_path("out", out))
    if not text.lower().endswith(ENDINGS):
        raise ValueError(f"--out must end in one of {', '.join(ENDINGS)}; got {text}.")
    home, _, name = text.rpartition("/")
    if name.lower() in ENDINGS:
        raise ValueError(f"--out must be a name that ends in {name}; got {text}.")
    return open_folder(home or ("/" if text.startswith("/") else ".")), name


def _as_path(name: str, given: Any) -> str:
    """Return a path as text; TypeError, which names the argument, where it is none."""
    if not isinstance(given, str | os.PathLike):
        raise TypeError(
            f"{name} must be a path; got {given!r:.60}. Images and captions that are in memory are "
            "scored by load_reward(NAME).score(IMAGES, CAPTIONS)."
        )
    return os.fspath(given)


def _choose(settings: Settings) -> tuple[list[str | base.Reward], dict[str, str]]:
    """Return the rewards that take part, and why the others do not."""
    check_kinds(settings.rewards)
    names = [r for r in settings.rewards if isinstance(r, str)]
    check_names(names)
    for url in read_weights(settings).values():
        hub.open(url)  # an existing folder or a hub id; nothing is fetched yet
    chosen, dropped = [], {}
    for reward in settings.rewards:
        label = reward if isinstance(reward, str) else reward.identity
        free = not settings.commercial_only or (
            reward in names and not has_weights(label) and not is_process(label)
        )
        if not free and (why := why_not_commercial(label)):
            dropped[label] = why
        else:
            chosen.append(reward)
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in dropped.items())
        raise ValueError(f"At least one reward is needed; got none. {reasons}".strip())
    return chosen, dropped


def _open_tables(settings: Settings, words: list[str]) -> tuple[Table | None, Table | None]:
    """Open the table of paths and the table of captions, where there are any."""
    path_column, caption_column = settings.path_column, settings.caption_column
    given = settings.captions
    rows = inputs.open_rows(words, path_column, None if given is not None else caption_column)
    if given is None:
        if rows is None and (path_column, caption_column) != (None, None):
            raise ValueError("--path-column and --caption-column must come with a table; got none.")
        return rows, None
    _as_path("captions", given)
    # With two tables, the path column is that of the first.
    captions = tables.open_table(given, path_column if rows is None else None, caption_column)
    if captions.caption_column is None:
        raise ValueError(
            f"{given} must have a column of captions named one of "
            f"{', '.join(tables.CAPTION_COLUMNS)}. Name it with --caption-column."
        )
    return rows, captions


def _check_captions(captions: Table, index: TextIndex, source: Source) -> None:
    """Raise ValueError where an image has two captions, or where none of the images has one."""
    if clash := index.first_clash():
        raise ValueError(
            f"{captions.path} must give an image one caption; it gives {clash[0]!r} two, in lines "
            f"{clash[1]} and {clash[2]}. Score the table itself to score every row."
        )
    names = inputs.names_of(source)
    first = next(names, None)
    if first is not None and not any(map(index.find, itertools.chain([first], names))):
        raise ValueError(
            f"{captions.path} must name images of {source.spec}; of its rows "
            f"({captions.count}) none does: its first is for {index.first_name!r}, the first image "
            f"is {first[0]!r}. Its paths may begin at the folder of the images or at its own."
        )


def _request_of(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the request of a finished table; older ones are brought into today's form."""
    request = dict(summary["command"])
    given, captions = dict(request["input"]), request["captions"]
    if isinstance(captions, list):
        request["captions"] = {"digest": captions[0], "column": captions[1]}
    if "names" in given:
        given = {"kind": "folder", "images": given["count"], "digest": given["names"]}
    elif "sha256" in given:
        given["digest"] = given.pop("sha256")
    elif "pieces" in given:
        given["digest"] = given.pop("pieces")
    return request | {"input": given}


def _check_output(job: TableJob) -> None:
    """Raise unless the output can be written and belongs to this request."""
    job.claim.check(job.request)
    if job.is_complete:
        return
    if not job.home.exists(job.claim.partial):
        if job.folder.exists(_OLD_COMMAND):
            raise ValueError(
                f"{job.folder} was begun by an older version, and this one cannot resume it. "
                "Finish it with that version, delete it, or give another --out."
            )
        if job.folder.is_used(parts.FOLDER) or job.folder.is_used(FOLDER) or job.folder.names():
            raise ValueError(
                f"{job.folder} must hold {PARTIAL_NAME}, which says what is scored there; it does "
                "not. Delete the folder or give another --out."
            )
        if job.home.exists(job.name):
            raise ValueError(
                f"{job.out} is there already and was not written by a run that can resume. Delete "
                "it or give another --out."
            )
    check_writable(str(job.home))


def _needs_caption(reward: str | base.Reward, scorers: list[Scorer]) -> bool:
    """Return whether a reward needs captions; none with weights is loaded for that.

    scorers: gets the program that is started for it, see `hello_of`.
    """
    if not isinstance(reward, str):
        return reward.needs_caption
    if is_own(reward):
        return own.needs_caption(reward)
    if is_process(reward):
        return hello_of(reward, scorers).needs_caption
    return (card_of(reward) or load_reward(reward)).needs_caption


def _check_need(source: Source, needing: list[str]) -> None:
    """Raise ValueError where rewards need captions and a table can have none."""
    if needing and not any(p.has_captions or p.tables.captions for p in source.pieces):
        if any(piece.keys_repeat for piece in source.pieces):
            raise ValueError(
                f"captions are needed for {', '.join(needing)}; the table has no column of them. "
                "Give --captions or --caption-column."
            )
