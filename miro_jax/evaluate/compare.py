"""`miro-jax compare BEFORE AFTER`: what changed from one network to another.

Both draw the same prompts from the same noise, so that differences are paired. Rewards are
requested in four ways: all at the default targets; none; each at every level while the others are
at theirs (its dial); each at the lowest and highest level while the others are missing in both
branches of guidance. Extending a network and training with reward dropout are judged by this: what
a new dial does, and what it costs; what a reward does alone, and what that costs.

Letters: N images, R measured rewards, L levels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from miro_jax.cli import build, exit, run_folder
from miro_jax.cli.progress import Progress
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.evaluate import base
from miro_jax.evaluate.prompts import make_prompts
from miro_jax.evaluate.settings import Settings, check_levels, trained_on_shapes
from miro_jax.report import comparison
from miro_jax.report.statistics import Mean, bootstrap_mean, rank_correlation
from miro_jax.rewards.names import short_name
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import Trained, load, restore, use_all_devices

Scores = dict[str, np.ndarray]  # by reward or by request: [N, R], or [L, N, R]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Scores of one network. requests: [N, R] each. dials: [L, N, R]; alone: [2, N, R]."""

    requests: Scores
    dials: Scores
    alone: Scores


def run_here(before: str, config: ml_collections.ConfigDict, after: Path, out: Path) -> None:
    """Run on all devices of this machine; `before` is a run, a folder or a hub id. See `run`."""
    use_all_devices(config)
    run(load(before), config, after, out)


def run(before: Trained, config: ml_collections.ConfigDict, after: Path, out: Path) -> None:
    """Compare a network with a run; write `compare.json` and `compare.html` into a folder.

    Args:
      before: a trained network. config, after: of the run. out: the folder.

    Raises:
      FileNotFoundError: no checkpoint or no records. ValueError: the config does not fit.
    """
    settings = Settings(**config.evaluate)
    records, levels = run_folder.records_folder(config, after), check_levels(settings.levels)
    prompts = make_prompts(
        settings, trained_on_shapes(config, records), records, config.sample.seed
    )
    judges = base.Judges(build.load_rewards(config))
    networks = [before, restore(config, after)]
    known = [set(network.reward_names) for network in networks]
    new = [name for name in networks[1].reward_names if name not in known[0]]
    texts, sampling = prompts.per_level, base.make_sampling(config)
    each = [2 + bool(new) + (len(levels) + 2) * len(names) for names in known]
    measured = []
    silent = jax.process_index() != 0
    with Progress("compare", "images", sum(each) * len(texts), silent=silent) as progress:
        for network, name in zip(networks, ("before", "after"), strict=True):
            pipeline = base.Remembering(MiroPipeline(network, settings.batch_size))
            pipeline.on_images = functools.partial(progress.update, where=name)
            own = _known(sampling, network.reward_names)
            ask = functools.partial(_score, pipeline, judges, own, texts)
            measured.append(measure(ask, network.reward_names, levels, new))
    result = {
        **{
            side: {"name": network.name, "step": network.step}
            for side, network in zip(("before", "after"), networks, strict=True)
        },
        "new": new,
        "images": len(texts),
        "levels": levels,
        "prompts": prompts.to_json(),
        "sample": sampling.settings.to_json() | {"seed": sampling.seed},
        "rewards": [reward.identity for reward in judges.rewards],
        **describe(*measured, judges.names, texts),
    }
    if jax.process_index() == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "compare.json", to_json(result))  # first, see `suites.comparison`
        write_atomic(out / "compare.html", comparison.render(result))
        exit.say("\n".join([*comparison.lines(result), f"page: {out / 'compare.html'}"]))


def _known(sampling: base.Sampling, names: Sequence[str]) -> base.Sampling:
    """Return how a network is sampled: without usual levels of rewards that it does not know."""
    known = set(map(short_name, names))
    levels = (sampling.targets, sampling.negative_targets)
    targets, negative = (
        {name: level for name, level in one.items() if short_name(name) in known} for one in levels
    )
    return dataclasses.replace(sampling, targets=targets, negative_targets=negative)


def _score(
    pipeline: Any,
    judges: base.Judges,
    sampling: base.Sampling,
    prompts: Sequence[str],
    targets: Mapping[str, float | None],
    negative_targets: Mapping[str, float | None],
) -> np.ndarray:
    """Return the scores [N, R] of images with some targets; others are at the defaults."""
    images = sampling.sample(
        pipeline, prompts, targets=dict(targets), negative_targets=dict(negative_targets)
    )
    return judges.score(images, prompts)


def measure(
    ask: Any, names: Sequence[str], levels: Sequence[float], new: Sequence[str] = ()
) -> Measured:
    """Measure one network.

    Args:
      ask: (targets, negative targets) -> scores [N, R].
      names: rewards that the network knows. levels: [L], ascending.
      new: rewards that the other network does not know.
    """
    missing = dict.fromkeys(names)
    without = {name: None for name in names if name in new}
    requests = {"all": ask({}, {}), "none": ask(missing, missing)}
    if new:
        requests["old"] = ask(without, without)
    dials = {name: np.stack([ask({name: level}, {}) for level in levels]) for name in names}
    alone = {}
    for name in names:
        others = {other: None for other in names if other != name}
        ends = (levels[0], levels[-1])
        alone[name] = np.stack([ask({**others, name: level}, others) for level in ends])
    return Measured(requests, dials, alone)


def describe(
    before: Measured, after: Measured, names: Sequence[str], prompts: Sequence[str]
) -> dict[str, Any]:
    """Return the means with intervals, and those of paired differences.

    Args:
      names: [R], rewards that measure. prompts: [N], of the images.

    Returns:
      requests: request -> reward -> `before`, `after`, `difference`, a `Mean` each.
      dials, alone: reward -> the same of the rise from the lowest to the highest level, None for a
        network that does not know it; with `rank_before` and `rank_after` of dials.
    """
    pair = functools.partial(_pair, prompts)
    requests = {
        key: {
            name: pair(before.requests[key][:, column], after.requests[key][:, column])
            for column, name in enumerate(names)
        }
        for key in after.requests
    }
    result: dict[str, Any] = {"requests": requests}
    for key in ("dials", "alone"):
        sides = [getattr(network, key) for network in (before, after)]
        result[key] = {}
        for name in dict.fromkeys([*sides[1], *sides[0]]):
            own = [side[name][..., names.index(name)] if name in side else None for side in sides]
            rises = [None if scores is None else scores[-1] - scores[0] for scores in own]
            result[key][name] = pair(*rises)
            if key == "dials":
                ranks = [_rank(scores) for scores in own]
                result[key][name] |= dict(zip(("rank_before", "rank_after"), ranks, strict=True))
    return result


def _pair(
    prompts: Sequence[str], before: np.ndarray | None, after: np.ndarray | None
) -> dict[str, Mean | None]:
    both = before is not None and after is not None
    return {
        "before": None if before is None else bootstrap_mean(before, prompts),
        "after": None if after is None else bootstrap_mean(after, prompts),
        "difference": bootstrap_mean(after - before, prompts) if both else None,
    }


def _rank(scores: np.ndarray | None) -> float | None:
    """Return the rank correlation of levels with mean scores [L, N]."""
    if scores is None:
        return None
    means = np.nanmean(scores, axis=1)
    return rank_correlation(np.arange(len(means)), means)
