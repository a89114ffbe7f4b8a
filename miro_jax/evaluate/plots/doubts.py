"""What a reader must know of the numbers on one axis: it stands in the figure and is printed."""

from collections.abc import Mapping, Sequence

from miro_jax.evaluate.plots.facts import Source, measure, measure_name, suite_for, suite_of
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation


def of_evaluations(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what a reader must know of evaluations on one axis: what they lack, unknown judges."""
    texts = [
        f"{one.name} is PARTIAL: it lacks images or scores of its suite."
        for one in evaluations
        if one.manifest["result"].get("partial")
    ]
    unknown: dict[tuple[str, str], int] = {}
    for one in evaluations:
        for group in ("judge", "rewards"):
            for key, value in one.manifest[group].items():
                name = suite_of(one), f"{group}.{key}"
                unknown[name] = unknown.get(name, 0) + (value == UNKNOWN)
    if fields := dict.fromkeys(field for (_, field), count in unknown.items() if count > 1):
        texts.append(
            f"{', '.join(fields)}: unknown in several evaluations. Whether these are measured "
            "alike, and may share an axis, is not known."
        )
    return texts


def of_prompts(sources: Sequence[Source], section: str) -> list[str]:
    """Return which rewards of a file of numbers and of evaluations are of different prompts.

    section: of the file, whose values share axes with those of evaluations.
    """
    texts = []
    for given in sources:
        found = given.section(section) or {}
        models, own = found.get("models", ()), (given.facts or {}).get("prompts", UNKNOWN)
        rows = models.values() if isinstance(models, Mapping) else models
        known = {name for row in rows for name in row} | {*found.get("curves", ())}
        for source in sources:
            others: dict[str, list[str]] = {}
            for name, suite in dict.fromkeys(
                (measure_name(one, metric), suite_of(one))
                for one in source.evaluations
                for metric in one.manifest["rewards"]
            ):
                if name in known and own != suite == suite_for(name, sources):
                    others.setdefault(suite, []).append(measure(name).label)
            texts += [
                f"{', '.join(labels)}: of {given.label} over the prompts of {own}, of "
                f"{source.label} over those of {suite}. They differ by their prompts, too."
                for suite, labels in others.items()
            ]
    return texts
