"""Evaluators by name. A new one is one file, one entry here, one test."""

from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from miro_jax.evaluate import base, conflict, dials, gallery, geneval, reward_scores

EVALUATORS: dict[str, Callable[..., base.Evaluator]] = {
    "gallery": gallery.make_evaluator,
    "geneval": geneval.make_evaluator,
    "reward_scores": reward_scores.make_evaluator,
    "dials": dials.make_evaluator,
    "conflict": conflict.make_evaluator,
}


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError unless names is a sequence of distinct known evaluators."""
    if isinstance(names, str):
        raise ValueError(
            f"config.evaluate.evaluators must be a tuple of names; got {names!r}. Write "
            "--config.evaluate.evaluators=\"('geneval','dials')\" with the quotes."
        )
    unknown = [name for name in names if name not in EVALUATORS]
    if unknown or len(set(names)) != len(names):
        raise ValueError(
            f"config.evaluate.evaluators must be different ones of {', '.join(EVALUATORS)}; got "
            f"{', '.join(map(repr, names))}."
        )


def build_evaluators(config, **data) -> dict[str, base.Evaluator]:
    """Build the evaluators of `config.evaluate.evaluators`, in order.

    Args:
      config: of the run.
      **data: what the builders take besides: `rewards` (all of the config, loaded), `bins` (of the
        records), `training` (reward name -> summary of the training data's scores), `folder` (where
        pictures may be written).
    """
    check_names(config.evaluate.evaluators)
    return {name: EVALUATORS[name](config, **data) for name in config.evaluate.evaluators}


def run_evaluators(evaluators: dict[str, base.Evaluator], pipeline, step: int) -> dict[str, Any]:
    """Run each evaluator; returns name -> its result.

    Raises:
      EvaluatorFailed: one of them raised; names it and the step.
    """
    results = {}
    pipeline = base.Remembering(pipeline)
    bar = tqdm(evaluators.items(), desc="evaluate", unit="evaluator", disable=None)
    for name, evaluator in bar:
        bar.set_postfix_str(name)
        with base.named_failure(name, step):
            results[name] = evaluator.run(pipeline)
    return results
