"""Rewards of a suite's images, by the engine of `miro-jax score`.

One reward stands in every report that nobody trains on: OpenAI's CLIP, where its weights are at
hand. An image that pleases the rewards and not its prompt is seen there.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from miro_jax.data.json_file import dump_lines, read_json
from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate.suites.find import SuiteImage
from miro_jax.rewards import card_of, check_names
from miro_jax.rewards.table import check_weights
from miro_jax.score import score_images
from miro_jax.score.summary import SCHEMA

UNTRAINED = "openai_clip"
INDEX, SCORES = "index.jsonl", "rewards.parquet"
_FACTS = SCHEMA | {"command": {"identities": [str], "towers": [str]}}


def choose(names: Sequence[str], weights: Mapping[str, str]) -> tuple[str, ...]:
    """Return the rewards to score: those named, and the one never trained on.

    The latter is added where others are scored and its weights are on this machine.

    Raises:
      ValueError: an unknown name, or weights for another reward.
    """
    names = tuple(names)
    if names and UNTRAINED not in names and _is_here(weights.get(UNTRAINED)):
        names = (*names, UNTRAINED)
    check_names(names)
    check_weights(names, weights)
    return names


def _is_here(weights: str | None) -> bool:
    card = card_of(UNTRAINED)
    return card is not None and card.repository(weights).is_here(card.stem)


def score_suite(
    folder: Path, images: Sequence[SuiteImage], names: Sequence[str], weights: Mapping[str, str]
) -> tuple[dict[str, dict[str, float | None]], dict[str, str]]:
    """Score images, resuming where it stopped.

    Args:
      folder: of the evaluation; the table of scores lies there. images: of it.
      names: rewards. weights: of some of them, folders or hub ids.

    Returns:
      (file of an image -> identity -> score, None where it has none; identity -> towers).
    """
    if not names:
        return {}, {}
    index, scores = folder / INDEX, folder / SCORES
    lines = [{"path": str(Path(i.path).absolute()), "caption": i.prompt.text} for i in images]
    data = dump_lines(lines)
    if not index.is_file() or index.read_bytes() != data:
        write_atomic(index, data)
    # The index is ours, so what it names may be read wherever it lies.
    score_images(index, list(names), scores, weights=dict(weights), allow_urls=True)
    made = read_json(Path(f"{scores}.summary.json"), _FACTS)["command"]
    table = pyarrow.parquet.read_table(scores).to_pylist()
    for row in table:  # NaN of a reward that may have none: JSON has null
        row |= {name: None for name in made["identities"] if not math.isfinite(row[name])}
    by_path = {row["key"]: {name: row[name] for name in made["identities"]} for row in table}
    blank: dict[str, Any] = dict.fromkeys(made["identities"])
    rows = {i.file: by_path.get(str(Path(i.path).absolute()), blank) for i in images}
    return rows, dict(zip(made["identities"], made["towers"], strict=True))


def remove_working_files(folder: Path) -> None:
    """Remove what the per-image file has taken over."""
    for path in (folder / INDEX, *folder.glob(f"{SCORES}*")):
        if path.is_dir():  # of a process that was killed when the table was complete
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
