"""From rows of images to numbers with intervals: the group `result` of a manifest.

A suite's own score gives three numbers with three names, which papers confuse:

    overall            the suite's estimator: the mean of tags, or the mean of prompts
    correct_images     share of images that are correct
    correct_prompts    share of prompts with at least one correct image; of a text that several
                       prompts have, the share of these

each reward gives the mean over prompts of the means of their images, on the model's own scale.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.evaluate.suites.base import Suite
from miro_jax.report.clustered import (
    IMAGES,
    PROMPTS,
    RESAMPLES,
    SEED,
    Clusters,
    bootstrap,
    cluster,
    clustered_normal,
    intra_prompt_correlation,
    wilson_of_clusters,
)

OVERALL, CORRECT_IMAGES, CORRECT_PROMPTS = "overall", "correct_images", "correct_prompts"
STATISTICS = {
    "interval": "95 % percentile bootstrap over prompts with all their images, n - 1 of n",
    "stratified": "by tag where the estimator is the mean of tags",
    "resamples": RESAMPLES,
    "seed": SEED,
}
Row = Mapping[str, Any]


def measure(suite: Suite, rows: Sequence[Row]) -> dict[str, Any]:
    """Return metric -> value, low, high, `normal` (the closed form), rho, and the same by tag."""
    metrics: dict[str, Any] = {}
    if suite.score:
        metrics |= _measure_score(suite, rows)
    for name in rewards_of(rows):
        metrics[name] = describe(clusters_of(rows, name), PROMPTS)
        metrics[name]["tags"] = _by_tag(rows, name)
        if groups := _groups(suite):
            metrics[name]["groups"] = {
                key: _by_tag([{**row, "tag": of[row["key"]]} for row in rows], name)
                for key, of in groups.items()
            }
    return metrics


def describe_result(
    metrics: Mapping[str, Any],
    rows: Sequence[Row],
    missing: Sequence[tuple[str, int]],
    failed: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the group `result` of a manifest, but for the per-image file.

    unscored: number of images that lack a reward.
    """
    names = rewards_of(rows)
    blank = [row for row in rows if None in map(row.get("rewards", {}).get, names)]
    return {
        "metrics": metrics,
        "order": list(metrics),
        "prompts": len({row["key"] for row in rows}),
        "images": len(rows),
        "missing": [list(pair) for pair in missing],
        "failed": list(failed),
        "unscored": len(blank),
        "partial": bool(missing or failed or blank),
    }


def rewards_of(rows: Sequence[Row]) -> list[str]:
    """Return the identities of the rewards that any row has, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.get("rewards", ())))


def clusters_of(rows: Sequence[Row], metric: str, score: str = "") -> Clusters:
    """Return the clusters of a metric; see `report.clustered`.

    Prompts of one text are one prompt: their images resemble each other as those of one.

    Args:
      metric: its name in a result. score: name of the suite's own, where there is one.

    Returns:
      nothing where rows do not have it.
    """
    own = (OVERALL, CORRECT_IMAGES, CORRECT_PROMPTS) if score else ()
    if metric not in (*own, *rewards_of(rows)):
        return {}
    if metric == CORRECT_PROMPTS:
        return _any_of_prompt(rows, score)
    values = [
        float(row[score]) if metric in own else row.get("rewards", {}).get(metric) for row in rows
    ]
    return cluster(values, [row["prompt"] for row in rows], [row["tag"] for row in rows])


def describe(clusters: Clusters, estimator: str) -> dict[str, Any]:
    """Return a number with both intervals, rho and counts."""
    normal = clustered_normal(clusters, estimator)
    counts = [group[:, 1] for group in clusters.values()]
    return bootstrap(clusters, estimator) | {
        "estimator": estimator,
        "normal": [normal.get("low"), normal.get("high")],
        "rho": intra_prompt_correlation(clusters),
        "prompts": int(sum((count > 0).sum() for count in counts)),
        "images": int(sum(count.sum() for count in counts)),
    }


def _measure_score(suite: Suite, rows: Sequence[Row]) -> dict[str, Any]:
    clusters = clusters_of(rows, OVERALL, suite.score)
    overall = describe(clusters, suite.estimator)
    absent = [tag for tag in suite.tags if tag not in clusters]
    if absent:  # of a partial set: the mean of the other tags would be another number
        overall |= {"value": None, "low": None, "high": None}
    overall["tags"] = {}
    for tag in suite.tags:
        if tag in absent:
            continue
        one = describe({tag: clusters[tag]}, IMAGES)
        share = wilson_of_clusters(clusters[tag], one["rho"])
        overall["tags"][tag] = one | {"wilson": [share["low"], share["high"]]}
    return {
        OVERALL: overall,
        CORRECT_IMAGES: describe(clusters, IMAGES),
        CORRECT_PROMPTS: describe(_any_of_prompt(rows, suite.score), PROMPTS)
        | {"images": len(rows)},
    }


def _any_of_prompt(rows: Sequence[Row], score: str) -> Clusters:
    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        name = row["tag"], row["prompt"], row["key"]
        best[name] = max(best.get(name, 0.0), float(row[score]))
    return cluster(
        list(best.values()), [prompt for _, prompt, _ in best], [tag for tag, *_ in best]
    )


def _by_tag(rows: Sequence[Row], name: str) -> dict[str, Any]:
    clusters = clusters_of(rows, name)
    if list(clusters) == [""]:
        return {}
    return {tag: describe({tag: group}, PROMPTS) for tag, group in clusters.items()}


def _groups(suite: Suite) -> dict[str, dict[str, str]]:
    """Return what else prompts are grouped by: name -> key of a prompt -> group."""
    groups: dict[str, dict[str, str]] = {}
    for prompt in suite.prompts:
        for name, value in prompt.metadata.items():
            if isinstance(value, str):
                groups.setdefault(name, {})[prompt.key] = value
    return {name: of for name, of in groups.items() if len(of) == len(suite.prompts)}
