"""What is to be scored, with what, into what: every argument checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from miro_jax.annotate.loading import default_threads
from miro_jax.data.sources import KINDS, tables
from miro_jax.models import sharding
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    base,
    check_names,
    check_weights,
    has_weights,
    label,
    why_not_commercial,
)
from miro_jax.rewards.names import is_own
from miro_jax.score import output, parts
from miro_jax.score.inputs import FolderSource, PieceSource, Source, TableSource

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `plan`, checked.

    rewards: names and rewards, those left out not among them. left_out: name -> why.
    command: JSON values that say what the scores depend on, as far as it is known.
    """

    source: Source
    captions: tables.Table | None
    rewards: tuple[str | base.Reward, ...]
    left_out: dict[str, str]
    out: Path
    weights: dict[str, str]
    dtype: str | None
    mesh: tuple[int | None, int]
    batch_size: int
    num_threads: int
    limit: int | None
    stored: bool
    max_failure_rate: float
    command: dict

    def beside(self, ending: str) -> Path:
        """Return the path of what stands beside the output, such as OUT.summary.json."""
        return self.out.with_name(self.out.name + ending)

    @property
    def summary_path(self) -> Path:
        """OUT.summary.json, written last of all."""
        return self.beside(".summary.json")

    @property
    def parts_folder(self) -> Path:
        """OUT.parts, there until the output is complete."""
        return self.beside(".parts")


def plan(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    rewards: Sequence[str | base.Reward],
    out: str | os.PathLike,
    *,
    captions: str | os.PathLike | None = None,
    weights: Mapping[str, str | os.PathLike] | None = None,
    commercial_only: bool = False,
    dtype: str | None = None,
    mesh: str = "all",
    batch_size: int = 64,
    num_threads: int | None = None,
    limit: int | None = None,
    stored: bool = False,
    max_failure_rate: float = 1.0,
    path_column: str | None = None,
    caption_column: str | None = None,
) -> Plan:
    """Check everything that can be checked before a weight is read or a device is touched.

    Args:
        path: a folder of pictures, a table of paths (see `sources.tables`), tar files, or a source
            such as `tar:PATTERN` (see `sources`); several where they are tar files or sources.
        rewards: names of `rewards.REWARDS` and `rewards.VERSIONS`, and rewards of your own.
        out: .parquet, .csv or .jsonl file to be written.
        captions: a table that gives the captions; None takes those of the table or tar, or the
            files KEY.txt beside KEY.jpg.
        weights: name -> folder or hub id, for some of the rewards.
        commercial_only: leave out rewards whose weights are not known to allow commercial use.
        dtype: of the networks, one of DTYPES; None leaves each its own.
        mesh: of the devices: "all" shares pictures and parameters among them; "4x2" uses
            eight, of which pairs share each matrix; see `sharding.parse_mesh`.
        batch_size: pictures scored at a time.
        num_threads: that read, decode and prepare pictures; None is one for each processor.
        limit: score the first so many pictures alone.
        stored: scores are on the scale that records keep, in place of the models' own.
        max_failure_rate: share of pictures in [0, 1] that may fail before the run stops.
        path_column, caption_column: of the tables, see `sources.tables.open_table`.

    Raises:
        ValueError: a bad argument, or the output belongs to another command.
        TypeError: rewards is one string.
        OSError: something is not there, or cannot be read or written.
    """
    num_threads = default_threads() if num_threads is None else num_threads
    _check_numbers(batch_size, num_threads, limit, max_failure_rate)
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    weights = {name: str(value) for name, value in (weights or {}).items()}
    chosen, left_out = _choose(rewards, weights, commercial_only)
    out = Path(out)
    output.check_ending(out)
    words = [os.fspath(p) for p in ([path] if isinstance(path, str | os.PathLike) else path)]
    rows = _open_rows(words, path_column, None if captions is not None else caption_column)
    texts = None
    if captions is not None:
        # With two tables, the path column is that of the first.
        texts = _open_captions(captions, path_column if rows is None else None, caption_column)
    elif rows is None and (path_column, caption_column) != (None, None):
        raise ValueError("--path-column and --caption-column must come with a table; got none.")
    source = _open_source(words, rows, texts)
    command = {
        "input": source.description,
        "captions": None if texts is None else [texts.sha256, texts.caption_column],
        "rewards": [_label(r) for r in chosen],
        "weights": {name: value for name, value in weights.items() if name in chosen},
        "dtype": dtype,
        "limit": limit,
        "stored": stored,
    }
    todo = Plan(
        source=source,
        captions=texts,
        rewards=tuple(chosen),
        left_out=left_out,
        out=out,
        weights=command["weights"],
        dtype=dtype,
        mesh=sharding.parse_mesh(mesh),
        batch_size=batch_size,
        num_threads=num_threads,
        limit=limit,
        stored=stored,
        max_failure_rate=max_failure_rate,
        command=command,
    )
    _check_output(todo)
    return todo


def finished(todo: Plan) -> dict | None:
    """Return the summary of an output that the same command has completed, or None."""
    if todo.out.exists() and todo.summary_path.exists():
        return json.loads(todo.summary_path.read_bytes())
    return None


def _check_numbers(batch_size, num_threads, limit, max_failure_rate) -> None:
    counts = {"batch_size": batch_size, "num_threads": num_threads, "limit": limit}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    if not 0 <= max_failure_rate <= 1:
        raise ValueError(f"max_failure_rate must be in [0, 1]; got {max_failure_rate}.")


def _choose(
    rewards: Sequence[str | base.Reward], weights: Mapping[str, str], commercial_only: bool
) -> tuple[list[str | base.Reward], dict[str, str]]:
    """Return the rewards that take part, and why the others do not."""
    if isinstance(rewards, str):
        raise TypeError(f"rewards must be a list; got the one string {rewards!r}.")
    names = [r for r in rewards if isinstance(r, str)]
    check_names(names)
    check_weights(names, weights)
    for source in weights.values():
        hub.open(source)  # an existing folder or a hub id; nothing is fetched yet
    chosen, left_out = [], {}
    for reward in rewards:
        label = reward if isinstance(reward, str) else reward.identity
        free = not commercial_only or (reward in names and not has_weights(label))
        if not free and (why := why_not_commercial(label)):
            left_out[label] = why
        else:
            chosen.append(reward)
    if not chosen:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(f"At least one reward is needed; got none. {reasons}".strip())
    return chosen, left_out


def _label(reward: str | base.Reward) -> str:
    if isinstance(reward, str):
        return label(reward) if is_own(reward) else reward
    return reward.identity


def _open_rows(
    words: Sequence[str], path_column: str | None, caption_column: str | None
) -> tables.Table | None:
    """Open PATH where it is a table."""
    place = Path(words[0]) if len(words) == 1 else None
    if place is None or _is_source(words[0]) or place.is_dir() or not tables.is_table(place):
        return None
    return tables.open_table(words[0], path_column, caption_column)


def _open_captions(
    path: str | os.PathLike, path_column: str | None, caption_column: str | None
) -> tables.Table:
    table = tables.open_table(path, path_column, caption_column)
    if table.caption_column is None:
        raise ValueError(
            f"{path} must have a column of captions named one of "
            f"{', '.join(tables.CAPTION_COLUMNS)}. Name it with --caption-column."
        )
    return table


def _open_source(
    words: Sequence[str], rows: tables.Table | None, captions: tables.Table | None
) -> Source:
    if rows is not None:
        return TableSource(rows, captions is not None)
    if words and all(_is_tar(word) or _is_source(word) for word in words):
        return PieceSource([word if _is_source(word) else f"tar:{word}" for word in words])
    if len(words) == 1 and Path(words[0]).is_dir():
        return FolderSource(words[0])
    raise ValueError(
        f"PATH must be one folder of pictures, one table ({', '.join(tables.ENDINGS)}), tar files, "
        f"or sources such as tar:PATTERN ({', '.join(KINDS)}); got {' '.join(words) or 'nothing'}."
        + "".join(f" {word} is not there." for word in words if not os.path.exists(word))
    )


def _is_tar(word: str) -> bool:
    return word.endswith(".tar")


def _is_source(word: str) -> bool:
    return word.partition(":")[0] in KINDS and ":" in word


def _check_output(todo: Plan) -> None:
    """Raise unless the output can be written and belongs to nobody else."""
    summary = finished(todo)
    if summary is not None:
        parts.check_same(summary["command"], todo.command, todo.out)
        return
    if todo.out.is_dir() or (todo.out.exists() and not todo.parts_folder.exists()):
        raise ValueError(
            f"{todo.out} is there already and was not written by a run that could go on. "
            "Delete it or give another --out."
        )
    parts.check_command(todo.parts_folder, todo.command)
    folder = todo.out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} must be a folder that can be written; got: {error.strerror}. "
            "Give another --out."
        ) from error
