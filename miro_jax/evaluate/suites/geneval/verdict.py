"""GenEval's verdict of one image, from the objects that were detected in it.

An object counts if its score is above the threshold, 0.3, or 0.9 for the tag `counting`; of each
class the 16 best count. Nothing is suppressed: two detections of one object are two objects. For
each clause that the image must satisfy, in order, the `count` best objects of its class are taken:

    detection, count   there must be so many
    color              so many of those taken must have the colour: the arg-max of ten logits
    position           each of those taken must stand in the relation to each object of the group
                       that an earlier clause took; a clause that failed has no group (`target`)

The position is looked at only where the colour is right. For each clause of `exclude`, fewer than
`count` objects may be left (`count`). An image is correct if nothing failed; a clause that failed
does not spare the later ones.

Source: Ghosh et al. 2023 (arXiv 2310.11513), section 3 and the benchmark's code.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from miro_jax.evaluate.suites.geneval.prompts import COLORS, Clause, Prompt
from miro_jax.evaluate.suites.geneval.relation import LEAST, components

# class -> [n, 5] float32: x0, y0, x1, y1 in pixels, the maxima exclusive, and the score.
Objects = Mapping[str, np.ndarray]
# class -> [m, 10] float32: logits of COLORS of the m best objects of the class.
Logits = Mapping[str, np.ndarray]
_NONE = np.zeros((0, 5), np.float32)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which objects count.

    Attributes:
      score: threshold. counting: that of the tag `counting`. most: objects of a class.
    """

    score: float = 0.3
    counting: float = 0.9
    most: int = 16

    def threshold(self, tag: str) -> np.float32:
        """Return the threshold of a tag; a score must be above it."""
        return np.float32(self.counting if tag == "counting" else self.score)

    def keep(self, tag: str, objects: np.ndarray) -> np.ndarray:
        """Return those of `[n, 5]` objects of a class that count, the best first."""
        best = ranked(objects)
        return best[best[:, 4] > self.threshold(tag)][: self.most]


OFFICIAL = Rules()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What GenEval says of an image.

    Attributes:
      correct: whether nothing failed.
      reasons: what failed: clause (its index among `Prompt.clauses`), rule
        (detection, count, color, position or target), class, wanted, got.
      margins: how near the nearest decision was: `score` to its threshold, `color` in logits to
        the best other colour, `position` to 1/2; those that were decided.
    """

    correct: bool
    reasons: tuple[dict[str, Any], ...]
    margins: dict[str, float]


def ranked(objects: np.ndarray) -> np.ndarray:
    """Return objects `[n, 5]` by score, the best first; equal scores keep their order."""
    return objects[np.argsort(-objects[:, 4], kind="stable")]


def judge(prompt: Prompt, objects: Objects, colors: Logits, rules: Rules = OFFICIAL) -> Verdict:
    """Decide whether an image shows its prompt.

    Args:
      prompt: what it must show. objects: detected in it, in any order, with any scores.
      colors: logits of the best objects (see `colored`) of classes whose colour is requested.
      rules: the benchmark's own by default.

    Raises:
      ValueError: the colour of an object is needed and `colors` does not have it.
    """
    kept = {c.name: rules.keep(prompt.tag, objects.get(c.name, _NONE)) for c in prompt.clauses}
    reasons, groups, margins = [], [], {}
    for number, clause in enumerate(prompt.clauses):
        wanted = number < len(prompt.include)
        _keep_least(margins, "score", _score_margin(prompt, clause, objects, rules))
        if wanted:
            own = list(_include(clause, kept[clause.name], colors, groups, margins))
            groups.append(None if own else kept[clause.name][: clause.count])
        else:
            own = list(_exclude(clause, kept[clause.name]))
        reasons += [{"clause": number, "class": clause.name, **reason} for reason in own]
    return Verdict(not reasons, tuple(reasons), margins)


def colored(prompt: Prompt) -> dict[str, int]:
    """Return the classes whose colour a prompt requests, and of how many objects each."""
    return {clause.name: clause.count for clause in prompt.include if clause.color}


def _include(
    clause: Clause, kept: np.ndarray, colors: Logits, groups: list, margins: dict
) -> Iterator[dict[str, Any]]:
    """Give the reasons why the objects that count do not satisfy a clause, and note margins."""
    if len(kept) < clause.count:
        rule = "count" if clause.count > 1 and len(kept) else "detection"
        yield {"rule": rule, "wanted": clause.count, "got": len(kept)}
        return
    taken = kept[: clause.count]
    if clause.color:
        names, margin = _name_colors(clause, colors)
        _keep_least(margins, "color", margin)
        if names.count(clause.color) < clause.count:
            yield {"rule": "color", "wanted": clause.color, "got": names}
            return
    if clause.position:
        relation, index = clause.position
        if groups[index] is None:
            yield {"rule": "target", "wanted": relation, "got": None}
            return
        pairs = itertools.product(taken[:, :4], groups[index][:, :4])
        held = [components(box, target) for box, target in pairs]
        for one in held:
            _keep_least(margins, "position", abs(one[relation] - float(LEAST)))
        if wrong := [one for one in held if not one[relation] > LEAST]:
            got = [name for name, value in wrong[0].items() if value > LEAST]
            yield {"rule": "position", "wanted": relation, "got": got}


def _exclude(clause: Clause, kept: np.ndarray) -> Iterator[dict[str, Any]]:
    if len(kept) >= clause.count:
        yield {"rule": "count", "wanted": clause.count - 1, "got": len(kept)}


def _name_colors(clause: Clause, colors: Logits) -> tuple[list[str], float]:
    """Return the colours of the objects that a clause takes, and the least margin of the wanted."""
    logits = colors.get(clause.name, np.zeros((0, len(COLORS)), np.float32))[: clause.count]
    if len(logits) < clause.count:
        raise ValueError(
            f"the colours of {clause.count} objects of class {clause.name!r} must be known; got "
            f"{len(logits)}. Judge the images again."
        )
    wanted = COLORS.index(clause.color or "")
    others = np.delete(logits, wanted, axis=1).max(axis=1)
    margin = float(np.abs(logits[:, wanted] - others).min())
    return [COLORS[i] for i in logits.argmax(axis=1)], margin


def _score_margin(prompt: Prompt, clause: Clause, objects: Objects, rules: Rules) -> float | None:
    """Return how far the score that decides a clause's count is from the threshold."""
    best = ranked(objects.get(clause.name, _NONE))
    if len(best) < clause.count:
        return None
    return abs(float(best[clause.count - 1, 4] - rules.threshold(prompt.tag)))


def _keep_least(margins: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        margins[name] = min(value, margins.get(name, value))
