"""Why two evaluations differ: fields of the manifest by their likely effect, then single images."""

import collections
from collections.abc import Mapping
from typing import Any

from miro_jax.evaluate.suites.identity import differing, shorten
from miro_jax.evaluate.suites.manifest import Evaluation

# What moves numbers most comes first; the rest in the order of the groups.
ORDER = (
    *("judge", "rewards", "benchmark", "post_selection.prompt_rewriting", "images.sizes"),
    *("images.formats", "model", "post_selection", "sampling.targets"),
    *("sampling.negative_targets", "sampling.guidance_scale", "sampling.num_steps"),
    *("sampling.seed", "sampling", "statistics", "machine.matmul_precision", "machine", "images"),
)
_SILENT = ("machine.date", "images.path", "benchmark.tag_order")
MOST_SHOWN = 12
_WIDE = 80  # characters of a value


def diff(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """Return what differs.

    Returns:
      fields: [path, first, second], by likely effect. same_images: whether the files are equal.
      changed: prompts whose score differs most, with key, prompt, tag, both scores, files and
      reasons; flips: tag -> images that were correct and are not (`lost`), and the other way round
      (`won`); rules: rule of a reason -> how often it came or went.
    """
    fields = [
        list(found)
        for found in differing(
            *({g: one.manifest[g] for g in _groups()} for one in (first, second))
        )
        if not found[0].startswith(_SILENT)
    ]
    fields.sort(
        key=lambda found: next(n for n, p in enumerate((*ORDER, "")) if _is_of(found[0], p))
    )
    images = [one.manifest["images"].get("sha256") for one in (first, second)]
    result: dict[str, Any] = {"names": [first.name, second.name], "fields": fields}
    result["same_images"] = images[0] is not None and images[0] == images[1]
    score = first.manifest["benchmark"].get("score", "")
    if score and score == second.manifest["benchmark"].get("score"):
        result |= _changes(first, second, score)
    return result


def _groups() -> tuple[str, ...]:
    return tuple(dict.fromkeys(path.partition(".")[0] for path in ORDER))


def _is_of(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(f"{prefix}.")


def _changes(first: Evaluation, second: Evaluation, score: str) -> dict[str, Any]:
    sides = [{(row["prompt"], row["sample"]): row for row in one.rows} for one in (first, second)]
    pairs = [(sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]]
    by_prompt = collections.defaultdict(list)
    flips: dict[str, dict[str, int]] = {}
    rules: collections.Counter[str] = collections.Counter()
    for before, after in pairs:
        by_prompt[before["prompt"]].append((before, after))
        change = float(after[score]) - float(before[score])
        if change:
            tag = flips.setdefault(before["tag"], {"won": 0, "lost": 0})
            tag["won" if change > 0 else "lost"] += 1
        rules.update(_rules(before) ^ _rules(after))
    means = {
        prompt: [sum(float(pair[side][score]) for pair in own) / len(own) for side in (0, 1)]
        for prompt, own in by_prompt.items()
    }
    worst = sorted(means, key=lambda prompt: (-abs(means[prompt][1] - means[prompt][0]), prompt))
    changed = [
        _shown(first, second, by_prompt[prompt], means[prompt], score)
        for prompt in worst[:MOST_SHOWN]
        if means[prompt][0] != means[prompt][1]
    ]
    return {"changed": changed, "flips": flips, "rules": dict(rules.most_common())}


def _shown(
    first: Evaluation, second: Evaluation, own: list[Any], means: list[float], score: str
) -> dict[str, Any]:
    """Return a prompt with the pair of images that changed most."""
    before, after = max(own, key=lambda pair: abs(float(pair[1][score]) - float(pair[0][score])))
    return {
        "key": before["key"],
        "prompt": before["prompt"],
        "tag": before["tag"],
        "scores": means,
        "files": [str(one.path_of(row)) for one, row in ((first, before), (second, after))],
        "reasons": [row.get("reasons", []) for row in (before, after)],
    }


def _rules(row: Mapping[str, Any]) -> set[str]:
    return {
        str(one.get("rule", one)) if isinstance(one, Mapping) else str(one)
        for one in row.get("reasons", [])
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the differences as lines of text."""
    text = [f"{' and '.join(result['names'])}: {len(result['fields'])} fields differ"]
    text += [
        f"  {path}: {shorten(a, _WIDE)} -> {shorten(b, _WIDE)}" for path, a, b in result["fields"]
    ]
    text.append("the images are the same" if result["same_images"] else "the images differ")
    for tag, flip in result.get("flips", {}).items():
        text.append(f"  {tag or 'all'}: {flip['won']} images won, {flip['lost']} lost")
    if rules := result.get("rules"):
        counts = ", ".join(f"{rule} {count}" for rule, count in rules.items())
        text.append(f"  reasons that came or went: {counts}")
    for one in result.get("changed", []):
        before, after = one["scores"]
        text.append(f"  {one['key']} {one['prompt'][:60]!r}: {before:.3g} -> {after:.3g}")
        for file, reasons in zip(one["files"], one["reasons"], strict=True):
            text.append(f"    {file}" + (f"  {shorten(reasons, _WIDE)}" if reasons else ""))
    return text
