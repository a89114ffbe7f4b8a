"""The prompts of GenEval and what an image of each must show.

553 prompts in six tags, in the benchmark's order. Classes are COCO's 80 by their index; three have
other names here (computer mouse, tv remote, computer keyboard).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import parse_json
from miro_jax.evaluate.suites.geneval.relation import RELATIONS

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
_CLAUSE = {"class": str, "count": int, "color?": str, "position?": list}
_LINE = {"tag": str, "prompt": str, "include": [_CLAUSE], "exclude?": [_CLAUSE]}


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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Prompt":
        """Read a checked line of the prompt file or of a folder's `metadata.jsonl`."""
        include, exclude = (
            tuple(map(_clause, value.get(name, ()))) for name in ("include", "exclude")
        )
        return cls(value["tag"], value["prompt"], include, exclude)


@functools.cache
def class_names() -> tuple[str, ...]:
    """Return the 80 classes in the order of the detector's classes."""
    return tuple((DATA / "object_names.txt").read_text("utf-8").split("\n")[:80])


def parse_prompt(line: str | bytes, name: str) -> Prompt:
    """Read one line of metadata.

    Args:
      line: a JSON object. name: of the file and line, for messages.

    Raises:
      ValueError: it is no such object, or names an unknown tag, class, colour or relation.
    """
    value = parse_json(line, name, _LINE)
    prompt = Prompt.from_json(value)
    _require_known(name, "tag", TAGS, prompt.tag)
    for number, clause in enumerate(prompt.clauses):
        _require_known(name, "class", class_names(), clause.name)
        if clause.count < 1:
            raise ValueError(f"{name}: count must be at least 1; got {clause.count}.")
        if clause.color is not None:
            _require_known(name, "color", COLORS, clause.color)
        if clause.position is not None:
            relation, index = clause.position
            _require_known(name, "position", RELATIONS, relation)
            _require_known(name, "the clause of a position", range(number), index)
    return prompt


@functools.cache
def prompts() -> tuple[Prompt, ...]:
    """Return the 553 prompts in the benchmark's order."""
    path = DATA / "evaluation_metadata.jsonl"
    lines = path.read_text("utf-8").splitlines()
    return tuple(parse_prompt(line, f"{path}:{n}") for n, line in enumerate(lines, 1))


def _clause(value: dict[str, Any]) -> Clause:
    position = value.get("position")
    if position is not None and len(position) != 2:
        raise ValueError(f"position must be [relation, clause]; got {position!r}.")
    position = None if position is None else (position[0], position[1])
    return Clause(value["class"], value["count"], value.get("color"), position)


def _require_known(where: str, kind: str, known: Sequence[Any], value: Any) -> None:
    if value not in known:
        names = ", ".join(map(str, known)) or "none"
        raise ValueError(f"{where}: {kind} must be one of {names}; got {value!r}.")
