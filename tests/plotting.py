"""Evaluations of a suite as files, made from scores."""

import hashlib

import numpy as np

from miro_jax.evaluate.suites import manifest, rows
from miro_jax.report import clustered


def write_evaluation(
    folder,
    rewards,
    step=None,
    targets=None,
    verdicts=None,
    benchmark="bench@1",
    judge=None,
    lacks=None,
    tags=("one", "two"),
):
    """Write one.

    Args:
      rewards: identity -> scores [P, N]. step: of the checkpoint. targets: of the sampling.
      verdicts: [P, N] bool, of a suite with two tags; None for a suite of rewards alone.
      judge: its identity. lacks: number of a prompt without images. tags: of a suite with verdicts.
    """
    some = np.array(next(iter(rewards.values())) if rewards else verdicts)
    tags = tags[:1] if verdicts is None else tags
    tags = [tags[p * len(tags) // len(some)] for p in range(len(some))]
    table = [
        {
            "key": f"{p:05d}",
            "sample": n,
            "file": f"{p}/{n}.png",
            "sha256": "0",
            "prompt": f"prompt {p}",
            "tag": tags[p],
            **({} if verdicts is None else {"correct": bool(verdicts[p][n])}),
            "rewards": {name: float(scores[p][n]) for name, scores in rewards.items()},
        }
        for p in range(some.shape[0])
        if p != lacks
        for n in range(some.shape[1])
    ]
    data = rows.dump_rows(table)
    metrics = {name: _metric(table, name) for name in rewards}
    if verdicts is not None:
        metrics["overall"] = _metric(table, "correct", clustered.TAGS)
        metrics["overall"]["tags"] = {
            tag: _metric([row for row in table if row["tag"] == tag], "correct")
            for tag in dict.fromkeys(tags)
        }
        metrics["correct_images"] = _metric(table, "correct", clustered.IMAGES)
    groups = dict.fromkeys(manifest.GROUPS, {}) | {
        "benchmark": {
            "name": benchmark,
            "prompts": len(some),
            "prompts_sha256": hashlib.sha256(f"{len(some)}".encode()).hexdigest(),
            "tags": {tag: tags.count(tag) for tag in dict.fromkeys(tags)},
            "score": "" if verdicts is None else "correct",
            "estimator": clustered.PROMPTS if verdicts is None else clustered.TAGS,
        },
        "judge": judge or {},
        "rewards": dict.fromkeys(rewards, "tower"),
        "model": {} if step is None else {"step": step},
        "sampling": {} if targets is None else {"targets": targets},
        "result": {
            "metrics": metrics,
            "images": len(table),
            "file": {"name": rows.ROWS_NAME, "sha256": hashlib.sha256(data).hexdigest()},
        },
    }
    folder.mkdir(parents=True)
    (folder / rows.ROWS_NAME).write_bytes(data)
    (folder / manifest.NAME).write_bytes(manifest.dump(groups))
    return folder


def _metric(table, name, estimator=clustered.PROMPTS):
    of_rewards = [row["rewards"].get(name) for row in table]
    values = [row.get(name) for row in table] if name == "correct" else of_rewards
    clusters = clustered.cluster(
        [float(value) for value in values],
        [row["prompt"] for row in table],
        [row["tag"] for row in table],
    )
    return clustered.bootstrap(clusters, estimator, 50) | {"estimator": estimator}
