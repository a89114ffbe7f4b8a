"""Options of an evaluation: the keys of `config.evaluate`, and the flags of `miro-jax evaluate`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from miro_jax import evaluate
from miro_jax.cli import flags
from miro_jax.cli.flags import option
from miro_jax.data.near import near_name
from miro_jax.data.records.manifest import MANIFEST_NAME
from miro_jax.data.shapes import scene
from miro_jax.data.storage import LocalFolder
from miro_jax.evaluate.beside import find, recorded
from miro_jax.rewards.names import short_name

# Modules of this package, each with a class `Evaluator`.
EVALUATORS = ("gallery", "geneval", "reward_scores", "dials", "conflict")
NEGATIVE = ("conflict",)  # they request negative targets, which a student has built in
ALL, AUTO = "all", "auto"  # evaluators; prompts
_MADE = {"configuration?": {"source?": {"kind?": str}}}  # in a manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, and on how many images. Fields are documented by their help."""

    evaluators: tuple[str, ...] = option(
        (ALL,),
        help=f"{ALL}, those that can judge the run; or some of {', '.join(EVALUATORS)}",
    )
    prompts: str = option(
        AUTO,
        help="shapes, prompts of the shapes world; captions, of the run's records; a file, one "
        "prompt a line or JSON lines; auto is shapes for a run trained on it, else captions",
    )
    max_prompts: int = option(64, at_least=1, help="prompts taken from a file or from captions")
    levels: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        parse=lambda text: tuple(map(float, text.split(","))),
        help="requested levels of a dial",
    )
    batch_size: int = option(32, at_least=1, help="images sampled together, on all devices")
    images_per_level: int = option(
        32, at_least=1, help="images of a dial's point; cheapest at multiples of the batch size"
    )
    images_per_prompt: int = option(4, at_least=1, help="images of a prompt for means and shares")
    prompts_per_category: int = option(16, at_least=1, help="prompts of the shapes world")
    categories: tuple[str, ...] = option(
        ("single_object", "colors"), help=f"of the shapes world: {', '.join(scene.CATEGORIES)}"
    )
    conflict_reward: str = option(
        "beauty", help="reward that is chased at the cost of agreement with the prompt"
    )
    beside: str = option(
        "",
        help="shown beside the numbers: a run's folder, an evaluation.json, or a recorded one "
        f"({', '.join(recorded())}); empty is nothing",
    )


def validate(config: ml_collections.ConfigDict, records: str | Path = "") -> None:
    """Check `config.evaluate` without images or a device; ValueError names the key.

    Args:
      records: folder of the run's records, where it is known.
    """
    settings = Settings(**config.evaluate)
    flags.check(settings, "config.evaluate.")
    check_names(settings.evaluators)
    check_levels(settings.levels)
    if settings.beside:
        find(settings.beside)
    unknown = [name for name in settings.categories if name not in scene.CATEGORIES]
    near = near_name(str(unknown[0]), scene.CATEGORIES) if unknown else "."
    if isinstance(settings.categories, str) or unknown or not settings.categories:
        raise ValueError(
            f"config.evaluate.categories must be a tuple of names from "
            f"{', '.join(scene.CATEGORIES)}; got {settings.categories!r}{near}"
        )
    is_shapes = trained_on_shapes(config, records or config.data.records)
    names = choose(config, is_shapes)
    known = [short_name(name) for name in config.rewards]
    if "conflict" in names and short_name(settings.conflict_reward) not in known:
        raise ValueError(
            f"config.evaluate.conflict_reward must be one of config.rewards "
            f"{', '.join(known)}; got {settings.conflict_reward!r}."
        )
    evaluate.prompts.check(settings.prompts, is_shapes)


def check_levels(levels: Sequence[float]) -> list[float]:
    """Return the levels as ascending floats; ValueError unless two or more, distinct, in [0, 1]."""
    numbers = all(isinstance(level, int | float) for level in levels)
    ascending = sorted({float(level) for level in levels}) if numbers else []
    if not len(ascending) == len(levels) >= 2 or not all(0 <= level <= 1 for level in ascending):
        raise ValueError(
            "config.evaluate.levels must be two or more different numbers in [0, 1]; got "
            f"{tuple(levels)}."
        )
    return ascending


def evaluator_of(name: str) -> Any:
    """Return the class of an evaluator, see `base.Evaluator`."""
    return getattr(evaluate, name).Evaluator


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError unless names is `all` or a sequence of distinct known evaluators."""
    if isinstance(names, str):
        raise ValueError(
            f"config.evaluate.evaluators must be a tuple of names; got {names!r}. Write "
            "--config.evaluate.evaluators=\"('geneval','dials')\" with the quotes."
        )
    unknown = [name for name in names if name not in EVALUATORS and tuple(names) != (ALL,)]
    if unknown or len(set(names)) != len(names):
        near = near_name(str(unknown[0]), EVALUATORS) if unknown else "."
        raise ValueError(
            f"config.evaluate.evaluators must be ({ALL!r},) or different ones of "
            f"{', '.join(EVALUATORS)}; got {', '.join(map(repr, names))}{near}"
        )


def choose(config: ml_collections.ConfigDict, is_shapes: bool) -> list[str]:
    """Return the evaluators of a run, in order.

    Raises:
      ValueError: one of those named judges the shapes world only, and the run is of other images;
        or it requests negative targets, and the network is a student.
    """
    names = config.evaluate.evaluators
    student = "student" in config.model.rin and config.model.rin.student
    if tuple(names) == (ALL,):
        usable = [n for n in EVALUATORS if not (student and n in NEGATIVE)]
        return [n for n in usable if is_shapes or not evaluator_of(n).shapes_only]
    if student and (of_teacher := sorted(set(names) & set(NEGATIVE))):
        raise ValueError(
            f"config.evaluate.evaluators: {' and '.join(of_teacher)} requests negative targets, "
            "which a student has built in. Evaluate its teacher, or leave it out."
        )
    refused = [] if is_shapes else [name for name in names if evaluator_of(name).shapes_only]
    if refused:
        source = config.data.records or config.source.spec or "other images"
        others = tuple(name for name in names if name not in refused)
        raise ValueError(
            f"config.evaluate.evaluators: {' and '.join(refused)} can judge images of the shapes "
            f"world only; this run is trained on {source!r}. Set "
            f'--config.evaluate.evaluators="{others or (ALL,)!r}".'
        )
    return list(names)


def trained_on_shapes(config: ml_collections.ConfigDict, records: str | Path) -> bool:
    """Return whether a run is trained on the shapes world: by its records, else by its config."""
    made: Any = {}
    if records and (Path(records) / MANIFEST_NAME).is_file():
        made = LocalFolder(records).read_json(MANIFEST_NAME, _MADE).get("configuration", {})
    kind = made.get("source", {}).get("kind")  # the stages check what else is in a manifest
    return (kind or config.source.spec) == "shapes"
