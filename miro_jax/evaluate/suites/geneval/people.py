"""Verdicts of people about images of GenEval, from the benchmark's own annotation files.

`annotations_sdv2.csv` and its siblings (MIT, in the benchmark's repository) have a row for each
rater of an image: how many there are of each object, in which colours, and where the second lies
from the first. They hold answers, no verdicts; here a rater's verdict applies GenEval's clauses:

    detection, count   as many as the clause counts, or more; in `counting` exactly so many
    color              the colour is among those that were named
    position           the answer across or down is the relation of the clause

An image is correct if more than half of its raters find it so; else its rule is the one that failed
most of them first. The files do not hold the images: whoever compares must have judged those that
`Input.image_url` names.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax.data.sources.tables import damaged, records
from miro_jax.evaluate.suites.geneval.prompts import Prompt, prompts

ENDING = ".csv"
_PROMPT, _IMAGE, _URL, _CAPTION = (
    f"Input.{name}" for name in ("prompt_id", "image_id", "image_url", "caption")
)
_COUNT, _COLOR = "Answer.task-count-{}", "Answer.task-color-{}"
_PLACES = ("Answer.task-position-x", "Answer.task-position-y")
_COLUMNS = (
    *(_PROMPT, _IMAGE, _URL, _CAPTION, *_PLACES),
    *(column.format(number) for column in (_COUNT, _COLOR) for number in (0, 1)),
)
_RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_FILE = re.compile(r"\d+/samples/(\d+)[^/]*")  # of GenEval's layout
Row = Mapping[str, Any]


def is_labels(path: str | Path) -> bool:
    """Return whether a path names a file of annotations, by its ending."""
    return str(path).lower().endswith(ENDING)


def read(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of annotations.

    Returns:
      A row for each image: key, sample (the number of the image), tag, correct, reasons, and votes,
      [raters who find it correct, raters].

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is something else; the text names the line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"labels of people must be a file; there is no file {path}.")
    lines = records(str(path), ",")
    _, header = next(lines, (0, []))
    if missing := [name for name in _COLUMNS if name not in header]:
        raise ValueError(
            f"{path} must be a file of GenEval's annotations, such as annotations_sdv2.csv; it has "
            f"no column {missing[0]}."
        )
    failed: dict[tuple[int, int], list[str]] = {}
    for line, fields in lines:
        if len(fields) != len(header):
            raise damaged(str(path), line, f"must have {len(header)} fields; got {len(fields)}")
        answers = dict(zip(header, fields, strict=True))
        try:
            number, image = int(answers[_PROMPT]), int(answers[_IMAGE])
            if not 0 <= number < len(prompts()):
                raise ValueError(f"GenEval has {len(prompts())} prompts; got number {number}")
            prompt = prompts()[number]
            rule = _failed(prompt, answers)
        except ValueError as error:
            raise damaged(str(path), line, error) from error
        if answers[_CAPTION] != prompt.text:
            reason = f"prompt {number} is {prompt.text!r}; got {answers[_CAPTION][:60]!r}"
            raise damaged(str(path), line, reason)
        failed.setdefault((number, image), []).append(rule)
    if not failed:
        raise ValueError(f"{path} must hold answers of raters; it has none.")
    return [_row(*image, rules) for image, rules in sorted(failed.items())]


def _failed(prompt: Prompt, answers: Mapping[str, str]) -> str:
    """Return the rule that fails first by a rater's answers, "" where the image is correct."""
    for number, clause in enumerate(prompt.include):
        count = float(answers[_COUNT.format(number)] or 0)
        if count < clause.count:
            return "count" if count else "detection"
        if any(one.name == clause.name and count >= one.count for one in prompt.exclude):
            return "count"
        if clause.color and clause.color not in answers[_COLOR.format(number)].split("|"):
            return "color"
        # The question is where the second object lies from the first, as in every clause.
        places = [_RELATIONS.get(answers[column]) for column in _PLACES]
        if clause.position and clause.position[0] not in places:
            return "position"
    return ""


def _row(number: int, image: int, rules: Sequence[str]) -> dict[str, Any]:
    counts = collections.Counter(filter(None, rules))
    right = rules.count("")
    correct = 2 * right > len(rules)
    return {
        "key": f"{number:05d}",
        "sample": image,
        "tag": prompts()[number].tag,
        "correct": correct,
        "reasons": [] if correct else [{"rule": counts.most_common(1)[0][0]}],
        "votes": [right, len(rules)],
    }


def pair(
    rows: Sequence[Row], labels: Sequence[Row]
) -> tuple[list[dict[str, Any]], list[Row], dict[str, Any]]:
    """Choose the images that were judged and labelled.

    Args:
      rows: of a judge. An image is known by its prompt and by the number in its file's name, in
        GenEval's layout, else by its sample. labels: of `read`.

    Returns:
      (rows, labels) of the same images, and facts: images that are labelled, images that are judged
      of these, and raters, the share of pairs of an image's raters that agree about it.

    Raises:
      ValueError: there is none.
    """
    known = {(one["key"], one["sample"]): one for one in labels}
    judged = {}
    for row in rows:
        file = _FILE.fullmatch(row.get("file", ""))
        name = row["key"], int(file[1]) if file else row["sample"]
        if name in known:
            judged[name] = {**row, "sample": name[1]}
    if not judged:
        raise ValueError(
            f"the images must be those that people labelled; none of {len(labels)} is among the "
            f"{len(rows)} that were judged."
        )
    kept = [known[name] for name in judged]
    facts = {"labelled": len(labels), "judged": len(judged), "raters": _agreement(kept)}
    return list(judged.values()), kept, facts


def _agreement(labels: Sequence[Row]) -> float | None:
    """Return the share of pairs of raters of one image that agree, over all images."""
    same = every = 0
    for right, count in (one["votes"] for one in labels):
        wrong = count - right
        same += right * (right - 1) + wrong * (wrong - 1)
        every += count * (count - 1)
    return same / every if every else None
