"""Why two evaluations differ: fields of the manifest by their likely effect, then single images."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miro_jax.data.printable import counted
from miro_jax.evaluate.suites.identity import differing, shorten
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation
from miro_jax.evaluate.suites.measure import rewards_of

# What moves numbers most comes first; the rest in the order of the groups.
ORDER = (
    *("judge", "rewards", "benchmark", "post_selection.prompt_rewriting", "images.sizes"),
    *("images.formats", "model", "post_selection", "sampling.targets"),
    *("sampling.negative_targets", "sampling.guidance_scale", "sampling.num_steps"),
    *("sampling.seed", "sampling", "statistics", "machine.matmul_precision", "machine", "images"),
)
_SILENT = ("machine.date", "images.path", "benchmark.tag_order")
MOST_SHOWN, LEAST_SHOWN = 12, 3  # prompts of a score, and of each of many rewards
_WIDE = 80  # characters of a value
_IMAGES = {
    True: "the images are the same",
    False: "the images differ",
    None: "whether the images are the same is unknown",
}
Row = Mapping[str, Any]
Pair = tuple[Row, Row]


def diff(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Return what differs.

    Returns:
      fields: [path, first, second], by likely effect. same_images: whether the files are equal,
      None where that is unknown.
      changed: prompts whose score differs most, with key, prompt, tag, both scores, files and
      reasons; rewards: the same of each reward that both have; flips: tag -> images that were
      correct and are not (`lost`), and the other way round (`won`); rules: rule of a reason -> how
      often it came or went.
    """
    groups = dict.fromkeys(path.partition(".")[0] for path in ORDER)
    sides = ({group: one.manifest[group] for group in groups} for one in (first, second))
    fields = [list(found) for found in differing(*sides) if not found[0].startswith(_SILENT)]
    fields.sort(
        key=lambda found: next(n for n, p in enumerate((*ORDER, "")) if _is_of(found[0], p))
    )
    images = [one.manifest["images"].get("sha256") for one in (first, second)]
    result: dict[str, Any] = {"names": [first.name, second.name], "fields": fields}
    known = not {None, UNKNOWN} & set(images)  # of imported results the images are not
    result["same_images"] = images[0] == images[1] if known else None
    pairs = _pairs(first, second)
    score = first.manifest["benchmark"].get("score", "")
    if score and score == second.manifest["benchmark"].get("score"):
        result |= _verdicts(pairs, score)
        result["changed"] = _changed(first, second, pairs, lambda row: float(row[score]))
    if shared := [name for name in rewards_of(first.rows) if name in rewards_of(second.rows)]:
        most = max(MOST_SHOWN // len(shared), LEAST_SHOWN)
        result["rewards"] = {
            name: _changed(
                first, second, pairs, lambda row, name=name: row.get("rewards", {}).get(name), most
            )
            for name in shared
        }
    return result


def _is_of(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(f"{prefix}.")


def _pairs(first: Evaluation, second: Evaluation) -> list[Pair]:
    """Return the rows of the images that both have; keys tell prompts of one text apart."""
    keys: dict[str, list[set[str]]] = {}
    for side, one in enumerate((first, second)):
        for row in one.rows:
            keys.setdefault(row["prompt"], [set(), set()])[side].add(row["key"])
    repeated = {prompt for prompt, own in keys.items() if max(map(len, own)) > 1}
    sides = [
        {
            (row["prompt"], row["key"] if row["prompt"] in repeated else "", row["sample"]): row
            for row in one.rows
        }
        for one in (first, second)
    ]
    return [(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]


def _verdicts(pairs: Sequence[Pair], score: str) -> dict[str, Any]:
    """Return whose score flipped by tag, and which reasons came or went."""
    flips: dict[str, dict[str, int]] = {}
    rules: collections.Counter[str] = collections.Counter()
    for before, after in pairs:
        change = float(after[score]) - float(before[score])
        if change:
            tag = flips.setdefault(before["tag"], {"won": 0, "lost": 0})
            tag["won" if change > 0 else "lost"] += 1
        rules.update(_rules(before) ^ _rules(after))
    return {"flips": flips, "rules": dict(rules.most_common())}


def _changed(
    first: Evaluation,
    second: Evaluation,
    pairs: Sequence[Pair],
    value: Callable[[Row], float | None],
    most: int = MOST_SHOWN,
) -> list[dict[str, Any]]:
    """Return the prompts whose mean value changed most, each with the images that did."""
    by_prompt: dict[str, list[tuple[float, float, Pair]]] = {}
    for pair in pairs:
        before, after = map(value, pair)
        if before is not None and after is not None:
            by_prompt.setdefault(pair[0]["prompt"], []).append((before, after, pair))
    means = {
        prompt: [sum(one[side] for one in own) / len(own) for side in (0, 1)]
        for prompt, own in by_prompt.items()
    }
    worst = sorted(means, key=lambda prompt: (-abs(means[prompt][1] - means[prompt][0]), prompt))
    shown = []
    for prompt in worst[:most]:
        *_, pair = max(by_prompt[prompt], key=lambda one: abs(one[1] - one[0]))
        if means[prompt][0] != means[prompt][1]:
            shown.append(_shown(first, second, pair, means[prompt]))
    return shown


def _shown(first: Evaluation, second: Evaluation, pair: Pair, means: list[float]) -> dict[str, Any]:
    """Return a prompt with a pair of its images."""
    return {
        "key": pair[0]["key"],
        "prompt": pair[0]["prompt"],
        "tag": pair[0]["tag"],
        "scores": means,
        "files": [str(one.path_of(row)) for one, row in zip((first, second), pair, strict=True)],
        "reasons": [row.get("reasons", []) for row in pair],
    }


def _rules(row: Mapping[str, Any]) -> set[str]:
    return {
        str(one.get("rule", one)) if isinstance(one, Mapping) else str(one)
        for one in row.get("reasons", [])
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the differences as lines of text."""
    number = len(result["fields"])
    differ = f"{counted(number, 'field')} {'differs' if number == 1 else 'differ'}"
    text = [f"{' and '.join(result['names'])}: {differ}"]
    text += [
        f"  {path}: {shorten(a, _WIDE)} -> {shorten(b, _WIDE)}" for path, a, b in result["fields"]
    ]
    text.append(_IMAGES[result["same_images"]])
    for tag, flip in result.get("flips", {}).items():
        text.append(f"  {tag or 'all'}: {counted(flip['won'], 'image')} won, {flip['lost']} lost")
    if rules := result.get("rules"):
        counts = ", ".join(f"{rule} {count}" for rule, count in rules.items())
        text.append(f"  reasons that came or went: {counts}")
    text += _lines_of(result.get("changed", []))
    for name, changed in result.get("rewards", {}).items():
        text.append(f"  {name}: " + ("what changed most" if changed else "no image changed"))
        text += _lines_of(changed)
    return text


def _lines_of(changed: Sequence[Mapping[str, Any]]) -> list[str]:
    text = []
    for one in changed:
        before, after = one["scores"]
        text.append(f"  {one['key']} {one['prompt'][:60]!r}: {before:.4g} -> {after:.4g}")
        for file, reasons in zip(one["files"], one["reasons"], strict=True):
            text.append(f"    {file}" + (f"  {shorten(reasons, _WIDE)}" if reasons else ""))
    return text
