"""The prompts of GenEval and what an image of each must show.

553 prompts in six tags, in the benchmark's order. Classes are COCO's 80 by their index; three have
other names here (computer mouse, tv remote, computer keyboard).
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
SAMPLES_PER_PROMPT = 4
DATA = Path(__file__).parent / "data"


@dataclasses.dataclass(frozen=True)
class Clause:
    """Objects that an image must show, or must not.

    Attributes:
      name: of the class. count: how many of them.
      color: of each, or None.
      position: (relation, index of the clause it relates to), or None.
    """

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt. include: what an image must show. exclude: what it must not."""

    tag: str
    text: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Both kinds, first those that an image must show."""
        return self.include + self.exclude


@functools.cache
def class_names() -> tuple[str, ...]:
    """Return the 80 classes in the order of the detector's classes."""
    return tuple((DATA / "object_names.txt").read_text("utf-8").split("\n")[:80])


@functools.cache
def prompts() -> tuple[Prompt, ...]:
    """Return the 553 prompts in the benchmark's order."""
    lines = (DATA / "evaluation_metadata.jsonl").read_text("utf-8").splitlines()
    return tuple(map(_prompt, map(json.loads, lines)))


def _prompt(line: Mapping[str, Any]) -> Prompt:
    include, exclude = (tuple(map(_clause, line.get(name, ()))) for name in ("include", "exclude"))
    return Prompt(line["tag"], line["prompt"], include, exclude)


def _clause(value: Mapping[str, Any]) -> Clause:
    position = tuple(value["position"]) if "position" in value else None
    return Clause(value["class"], value["count"], value.get("color"), position)
