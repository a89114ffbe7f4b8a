"""What a study measures: for each run, step and setting the verdict and the scores of each image.

    STUDY/measured.json                     prompts, categories, rewards, batch size; sealed
    STUDY/cells/miro-0-002500.cells         a group of cells, behind a digest of them

A setting names the targets, and with them the set of prompts: see `prompt_set`. Images of one
prompt start from the same noise in every cell of one setting's set. Letters: P prompts, N images of
a prompt, R rewards.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.annotate.parts import seal, unseal
from miro_jax.data.storage import Damaged, open_folder
from miro_jax.data.storage.files import parse_ours, to_json, to_sealed_json

FILE, CELLS, ENDING = "measured.json", "cells", ".cells"
DEFAULT = "default"  # setting: targets are the study's defaults
REPORT, SEARCH, BEST_OF, DIAL = "report", "search", "best_of", "dial"  # sets of prompts
_SCHEMA = {
    "rewards": [str],
    "batch_size": int,
    "prompts": {str: [str]},
    "categories": {str: [str]},
    "conflict_reward": str,
}
_KEYS = ("variant", "seed", "step", "setting")


@dataclasses.dataclass(frozen=True)
class Cell:
    """Images of one run, at one step, under one setting.

    Attributes:
      variant: "baseline", "miro", "only_beauty", "no_beauty", "synth", "synth_baseline".
      seed: of training.
      step: updates done.
      setting: "default"; "sweep:0.25", the conflict reward's target on the prompts of "report";
        "search:0.25", the same on those of "search"; "dial:NAME=0.25"; "best_of", all at 1.
      right: [P] bool, the detector's GenEval-like verdict; [P, N] for "best_of".
      scores: [P, R] float32, rewards in the order of the study; [P, N, R] for "best_of".
    """

    variant: str
    seed: int
    step: int
    setting: str
    right: np.ndarray
    scores: np.ndarray

    @property
    def name(self) -> str:
        """Say which cell it is, for messages."""
        return f"{self.variant}, seed {self.seed}, step {self.step}, {self.setting}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that was measured, or its frame alone where there are no cells.

    Attributes:
      rewards: [R]. batch_size: of training, so that updates can be written as images.
      prompts: by set, "report", "search", "best_of"; perhaps "dial", else dials use "report".
      categories: of those prompts, by the same sets.
      cells: in any order; none stands twice.
      conflict_reward: whose target the sweeps vary.

    Raises:
      ValueError: shapes do not fit each other, or a score is not finite.
    """

    rewards: tuple[str, ...]
    batch_size: int
    prompts: dict[str, tuple[str, ...]]
    categories: dict[str, tuple[str, ...]]
    cells: tuple[Cell, ...] = ()
    conflict_reward: str = "beauty"

    def __post_init__(self):
        sizes = {name: len(texts) for name, texts in self.prompts.items()}
        if sizes != {name: len(texts) for name, texts in self.categories.items()}:
            raise ValueError("each prompt of a study must have its category; got other numbers.")
        seen = set()
        for cell in self.cells:
            _check(cell, sizes.get(self.prompt_set(cell.setting), 0), len(self.rewards))
            if cell.name in seen:
                raise ValueError(f"a cell must stand once in a study; got twice: {cell.name}.")
            seen.add(cell.name)

    def prompt_set(self, setting: str) -> str:
        """Return the name of the set of prompts of a setting."""
        kind = setting.partition(":")[0]
        own = kind in (SEARCH, BEST_OF) or kind == DIAL and DIAL in self.prompts
        return kind if own else REPORT


def _check(cell: Cell, num_prompts: int, num_rewards: int) -> None:
    """Raise ValueError unless the arrays of a cell fit its prompts and the rewards."""
    rank = 2 if cell.setting == BEST_OF else 1
    right, scores = cell.right, cell.scores
    fits = right.ndim == rank and right.dtype == np.bool_ and right.size
    if not fits or len(right) != num_prompts or scores.shape != (*right.shape, num_rewards):
        wanted = "[P, N] and [P, N, R]" if rank == 2 else "[P] and [P, R]"
        raise ValueError(
            f"verdicts (bool) and scores of a cell must be {wanted} with P = {num_prompts} and "
            f"R = {num_rewards}; got {right.dtype} {right.shape} and {scores.shape} for "
            f"{cell.name}."
        )
    if scores.dtype != np.float32 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite float32; they are not for {cell.name}.")


def save_frame(folder: str | os.PathLike, measured: Measured) -> None:
    """Write all but the cells, whole or not at all.

    Args:
      folder: of the study; a path or a URL.
    """
    open_folder(folder).write(FILE, to_sealed_json(_frame(measured)))


def save_cells(
    folder: str | os.PathLike, group: str, measured: Measured, cells: Sequence[Cell]
) -> None:
    """Write a group of cells as one file, whole or not at all; equal cells give equal bytes.

    Args:
      group: name of the file. measured: the frame that they belong to.
    """
    dataclasses.replace(measured, cells=tuple(cells))  # checks them
    arrays = {}
    for index, cell in enumerate(cells):
        arrays |= {f"{index}.scores": cell.scores, f"{index}.right": cell.right}
    facts = {
        "name": _path(group),
        "frame": _digest(measured),
        "cells": [[getattr(cell, key) for key in _KEYS] for cell in cells],
    }
    open_folder(folder).write(_path(group), seal(arrays, facts))


def load_cells(folder: str | os.PathLike, group: str, measured: Measured) -> tuple[Cell, ...]:
    """Read the file of a group.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or was made for another frame; one line that names the file.
    """
    place = open_folder(folder)
    path = f"{place}/{_path(group)}"
    try:
        arrays, facts = unseal(place.read(_path(group)), _path(group))
    except Damaged as error:
        raise ValueError(f"{path} is damaged: {error} Delete it and run the study again.") from None
    if facts.get("frame") != _digest(measured):
        raise ValueError(
            f"{path} must be of the prompts and rewards in {FILE}; it is of others. Delete it, or "
            "give the study another folder."
        )
    return tuple(
        Cell(*keys, right=arrays[f"{index}.right"], scores=arrays[f"{index}.scores"])
        for index, keys in enumerate(facts["cells"])
    )


def load(folder: str | os.PathLike) -> Measured:
    """Read the frame and all cells of a study; raises as `load_cells`."""
    place = open_folder(folder)
    frame = parse_ours(place.read(FILE), f"{place}/{FILE}", _SCHEMA)
    measured = Measured(
        rewards=tuple(frame["rewards"]),
        batch_size=frame["batch_size"],
        prompts={name: tuple(texts) for name, texts in frame["prompts"].items()},
        categories={name: tuple(texts) for name, texts in frame["categories"].items()},
        conflict_reward=frame["conflict_reward"],
    )
    groups = [n.removesuffix(ENDING) for n in place.names(CELLS) if n.endswith(ENDING)]
    cells = [cell for group in groups for cell in load_cells(folder, group, measured)]
    return dataclasses.replace(measured, cells=tuple(cells))


def _path(group: str) -> str:
    return f"{CELLS}/{group}{ENDING}"


def _frame(measured: Measured) -> dict[str, Any]:
    fields = dataclasses.fields(measured)
    return {field.name: getattr(measured, field.name) for field in fields if field.name != "cells"}


def _digest(measured: Measured) -> str:
    return hashlib.sha256(to_json(_frame(measured))).hexdigest()
