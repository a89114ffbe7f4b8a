"""What is drawn, read from files: numbers of a paper, evaluations of suites, or both together.

A source is `published`, a JSON file in the form of `published/miro_2510.25897.json`, the folder of
an evaluation, a folder of such folders, one for each checkpoint or each value of a target, or a
run, whose checkpoints were evaluated; `LABEL=SOURCE` names the model. A value of an evaluation is
brought to the scale of the published numbers: PickScore 0.22 where the reward says 22.

A measure is a reward by its identity, so that hpsv2@2.0 and hpsv2@2.1 never share an axis.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.data.json_file import read_json
from miro_jax.data.printable import some
from miro_jax.evaluate.suites import manifest
from miro_jax.evaluate.suites.manifest import Evaluation
from miro_jax.evaluate.suites.measure import (
    OVERALL,
    clusters_of,
)
from miro_jax.report import clustered
from miro_jax.report.suite_curves import EVALS, mark_of

PUBLISHED = "published"
PAPER = Path(__file__).parent / "published" / "miro_2510.25897.json"
IMAGES = "manifest.json"  # of `miro-jax sample`
_LEVELS = {str: (float, None)}
_IMAGE = {"file": str, "prompt": str, "seed": int, "guidance_scale": float} | {
    "targets": _LEVELS,
    "negative_targets": _LEVELS,
}
BARS = tuple(f"{name}?" for name in ("geneval", "image_reward", "parameters_billion", "tflop"))
_MODELS = {"axes": [str], "models": {str: {str: float}}}
SCHEMA = {
    "format": int,
    "name": str,
    "source": str,
    "prompts?": str,  # suite whose prompts the rewards are of
    "measures?": {str: {"label": str, "identity": str, "divisor": float, "ring?": [float]}},
    "convergence?": {"steps": [float], "curves": {str: {str: [float]}}},
    "test_time?": {"candidates": [int], "curves": {str: {str: [float]}}},
    "radar?": _MODELS,
    "geneval?": _MODELS,
    "synthetic?": {"rewards": _MODELS, "geneval": _MODELS},
    "sweep?": {"reward": str, "targets": [float], "columns": {str: [float]}},
    "bars?": {"models": [{"model": str} | dict.fromkeys(BARS, (float, None))], "note?": str},
}


@dataclasses.dataclass(frozen=True)
class Measure:
    """An axis. label: of a chart. divisor: of a reward's own scale. ring: ends of a radar's."""

    label: str
    identity: str = ""
    divisor: float = 1
    ring: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """What one argument names.

    Attributes:
      label: of the model. path: as it was given.
      facts: of a file of numbers, or None. evaluations: of a folder, in the order of their steps.
      folder, images: of a folder of `miro-jax sample`, the entries of its manifest.
    """

    label: str
    path: str
    facts: Mapping[str, Any] | None = None
    evaluations: tuple[Evaluation, ...] = ()
    folder: Path | None = None
    images: tuple[Mapping[str, Any], ...] = ()

    @property
    def latest(self) -> list[Evaluation]:
        """The last evaluation by each suite; ValueError where a suite has several of that step."""
        last = {suite_of(one): one for one in self.evaluations}
        for suite, chosen in last.items():
            own = [one for one in self.evaluations if suite_of(one) == suite]
            alike = [one.name for one in own if step_of(one) == step_of(chosen)]
            if len(alike) > 1:
                raise ValueError(
                    f"{self.path} must hold one evaluation by {suite} of its last step; it holds "
                    f"{len(alike)}: {some(alike, most=5)}. Give one of them as LABEL=FOLDER."
                )
        return list(last.values())

    def section(self, name: str) -> Mapping[str, Any] | None:
        """Return a section of a file of numbers, "a.b" for one in another; None: it has none."""
        found = self.facts
        for part in name.split("."):
            found = None if found is None else found.get(part)
        return found


def read_source(word: str) -> Source:
    """Read what an argument names.

    Raises:
      FileNotFoundError: there is nothing of that name. ValueError: it is something else.
    """
    label, path = _split(word)
    if path == PUBLISHED or path.endswith(".json") and not path.endswith(manifest.NAME):
        facts = read_json(PAPER if path == PUBLISHED else Path(path).expanduser(), SCHEMA)
        _check_lengths(facts, path)
        return Source(label or facts["name"], path, facts)
    folder = Path(path).expanduser()
    if (folder / IMAGES).is_file() and not (folder / manifest.NAME).is_file():
        images = read_json(folder / IMAGES, {"images": [_IMAGE]})["images"]
        return Source(
            folder.name if label is None else label, path, None, (), folder, tuple(images)
        )
    found: list[Path] = []
    of_run = tuple(f"{EVALS}/{pattern}" for pattern in ("*/", "*/*/"))
    is_run = (folder / "checkpoints").is_dir()  # its own file of that name is of no suite
    for pattern in of_run if is_run else ("", "*/", "*/*/", *of_run):
        found = found or sorted(one.parent for one in folder.glob(pattern + manifest.NAME))
    if not found:
        what = f"it has no {manifest.NAME}" if folder.exists() else "it is missing"
        what = f"it is a run, and no evaluation by a suite is in its {EVALS}" if is_run else what
        raise FileNotFoundError(
            f"{path} must be an evaluation, or a folder of evaluations; {what}. `miro-jax evaluate "
            "WHAT --suite=NAME` writes one."
        )
    evaluations = sorted(map(manifest.read, found), key=lambda one: step_of(one) or 0)
    return Source(folder.name if label is None else label, path, None, tuple(evaluations))


def _split(word: str) -> tuple[str | None, str]:
    """Return label and path of `LABEL=SOURCE`, None and the path where there is no label.

    Both may hold equals signs: the longest path that exists counts, else all after the first sign.
    """
    splits = [(word[:at], word[at + 1 :]) for at, letter in enumerate(word) if letter == "="]
    for label, path in ((None, word), *splits):
        if path == PUBLISHED or path and Path(path).expanduser().exists():
            return label, path
    return splits[0] if splits else (None, word)


def _check_lengths(facts: Mapping[str, Any], path: str) -> None:
    """Raise ValueError unless every curve of a file of numbers has a value at each ascending x."""
    for section, key in (
        ("convergence", "steps"),
        ("test_time", "candidates"),
        ("sweep", "targets"),
    ):
        found = facts.get(section)
        if found is None:
            continue
        xs = found[key]
        if len(xs) < 2 or sorted(set(xs)) != xs or min(xs) < 0:
            raise ValueError(f"{path}: {section}.{key} must ascend from 0 or more; got {xs}.")
        curves = found["columns"] if section == "sweep" else found["curves"]
        for name, one in curves.items():
            for model, row in one.items() if isinstance(one, dict) else ((name, one),):
                if len(row) != len(xs):
                    raise ValueError(
                        f"{path}: {section} must have {len(xs)} values of {name} of {model}, one "
                        f"for each of {key}; it has {len(row)}."
                    )


@functools.cache
def measures() -> dict[str, Measure]:
    """Return the measures that the paper's numbers name, by their short names."""
    listed = read_json(PAPER, SCHEMA)["measures"]
    return {
        name: Measure(**one | {"ring": tuple(one["ring"]) if "ring" in one else None})
        for name, one in listed.items()
    }


def measure(name: str) -> Measure:
    """Return a measure by its short name, or by an identity that the paper does not report."""
    return measures().get(name, Measure(name))


def suite_of(evaluation: Evaluation) -> str:
    """Return the name of the suite, with its version."""
    return evaluation.manifest["benchmark"]["name"]


def step_of(evaluation: Evaluation) -> int | None:
    """Return the training step of an evaluation's checkpoint, None where it is unknown."""
    step = evaluation.manifest["model"].get("step")
    return step if isinstance(step, int) else None


def values(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return measure -> value, low and high of one evaluation, on the published scale.

    A suite's own score is the measure of its name, such as `geneval`, its tags are measures, too.
    """
    found: dict[str, dict[str, float]] = {}
    for metric, value in evaluation.metrics.items():
        name = measure_name(evaluation, metric)
        if name is None or value.get("value") is None:
            continue
        found[name] = mark_of(value, measure(name).divisor)
        for tag, part in value.get("tags", {}).items() if metric == OVERALL else ():
            if part.get("value") is not None:
                found[tag] = mark_of(part, measure(tag).divisor)
    return found


def suite_for(name: str, sources: Sequence[Source]) -> str:
    """Return the suite that a measure is read of: the one of which all sources have it.

    Of several that all have, it is the one without a score of its own: its prompts are there for
    rewards.

    Raises:
      ValueError: there is none, or there are several.
    """
    having = [
        {suite_of(one): not one.manifest["benchmark"].get("score") for one in source.latest
         if name in values(one)}
        for source in sources
    ]  # fmt: skip
    having = [suites for suites in having if suites]
    shared = [suite for suite in having[0] if all(suite in suites for suites in having)]
    found = [suite for suite in shared if having[0][suite]] if len(shared) > 1 else shared
    if len(found) != 1:
        listed = sorted({suite for suites in having for suite in suites})
        raise ValueError(
            f"{name} on one axis must be of one suite's prompts; the sources have it of "
            f"{', '.join(listed)}. Give the folders of evaluations by one suite."
        )
    return found[0]


def without_single(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Return sources without evaluations by a suite that one checkpoint alone has, and what went.

    Where a source has no suite of several checkpoints, it stays as it is.
    """
    kept, texts = [], []
    for source in sources:
        counts = Counter(map(suite_of, source.evaluations))
        single = [suite for suite, count in counts.items() if count == 1]
        if len(single) < len(counts):
            own = tuple(one for one in source.evaluations if suite_of(one) not in single)
            source = dataclasses.replace(source, evaluations=own)
            texts += [
                f"{suite} of {source.label} is of one checkpoint alone: no curve."
                for suite in single
            ]
        kept.append(source)
    return kept, texts


def value_of(name: str, source: Source, sources: Sequence[Source]) -> dict[str, float] | None:
    """Return a measure of the last evaluation by the suite that it is read of; see `values`."""
    suite = suite_for(name, sources)
    own = [values(one) for one in source.latest if suite_of(one) == suite]
    return own[0].get(name) if own else None


def measure_name(evaluation: Evaluation, metric: str) -> str | None:
    """Return the measure that a metric is; None for other readings of a score, and for diversity.

    Of the latter more is not better: CMMD is a distance.
    """
    if metric == OVERALL:
        return suite_of(evaluation).partition("@")[0]
    if metric not in evaluation.manifest["rewards"]:
        return None
    return next((name for name, one in measures().items() if one.identity == metric), metric)


Prompts = Mapping[str, Mapping[str, Sequence[str]]]


def prompts_of(evaluations: Sequence[Evaluation]) -> Prompts:
    """Return suite -> tag -> the sorted prompts of which any evaluation by it has images."""
    found: dict[str, dict[str, set[str]]] = {}
    for one in evaluations:
        tags = found.setdefault(suite_of(one), {})
        for row in one.rows:
            tags.setdefault(row["tag"], set()).add(row["prompt"])
    return {suite: {tag: sorted(own) for tag, own in tags.items()} for suite, tags in found.items()}


def _draws(evaluation: Evaluation, name: str, prompts: Prompts) -> np.ndarray | None:
    """Return [1 + B]: a measure and its resamplings, which choose the same of all `prompts`.

    None where the per-image file does not hold it, or lacks so many prompts that they cannot vary,
    or that a resampling has none of its own.
    """
    metric = next((m for m in evaluation.metrics if measure_name(evaluation, m) == name), None)
    if metric is None or not evaluation.rows:
        return None
    benchmark = evaluation.manifest["benchmark"]
    clusters = clusters_of(evaluation.rows, metric, benchmark.get("score", ""))
    if not clusters:
        return None
    whole = {}
    for tag, texts in prompts[suite_of(evaluation)].items():
        whole[tag] = np.zeros((len(texts), 3))  # a prompt without images has no values
        own = {row["prompt"] for row in evaluation.rows if row["tag"] == tag}
        whole[tag][[text in own for text in texts]] = clusters.get(tag, np.zeros((0, 3)))
    estimator = evaluation.metrics[metric].get("estimator", clustered.PROMPTS)
    value = clustered.estimate(whole, estimator)
    if value is None or not clustered.has_interval(whole, estimator):
        return None
    drawn = clustered.resample(whole, estimator)
    if np.isnan(drawn).any():
        return None
    return np.concatenate([[value], drawn]) / measure(name).divisor


def by_measure(evaluations: Sequence[Evaluation], prompts: Prompts) -> dict[str, np.ndarray]:
    """Return measure -> [1 + B, evaluations]; B is 0 where images are not known."""
    known = [values(one) for one in evaluations]
    found = {}
    for name in (n for n in known[0] if all(n in one for one in known)):
        drawn = [_draws(one, name, prompts) for one in evaluations]
        whole = [one for one in drawn if one is not None]
        plain = np.array([[one[name]["mean"] for one in known]])
        found[name] = np.stack(whole, axis=1) if len(whole) == len(drawn) else plain
    return found


def check_alike(evaluations: Sequence[Evaluation]) -> None:
    """Raise ValueError unless evaluations may share axes: those of a suite are measured alike."""
    firsts: dict[str, Evaluation] = {}
    for one in evaluations:
        first = firsts.setdefault(suite_of(one), one)
        for key in ("prompts_sha256", "estimator"):
            mine, other = first.manifest["benchmark"].get(key), one.manifest["benchmark"].get(key)
            if mine != other:
                raise _differs(first, one, f"benchmark.{key}", mine, other)
        mine, other = first.manifest["judge"], one.manifest["judge"]
        for key in sorted(mine.keys() | other.keys()):
            if mine.get(key) != other.get(key):
                raise _differs(first, one, f"judge.{key}", mine.get(key), other.get(key))
        for key in sorted(first.manifest["rewards"].keys() & one.manifest["rewards"].keys()):
            mine, other = (e.manifest["rewards"][key] for e in (first, one))
            if mine != other:
                raise _differs(first, one, f"rewards.{key}", mine, other)


def check_labels(sources: Sequence[Source], section: str) -> None:
    """Raise ValueError where two sources have a model of one name: one would hide the other.

    section: of a file of numbers, whose models are drawn beside those of evaluations.
    """
    names: list[str] = []
    for source in sources:
        found = source.section(section) or {}
        models = [found.get("models", {}), *found.get("curves", {}).values()]
        names += {model: None for one in models for model in one}
        names += [source.label] if source.evaluations else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"The models of a figure must differ in their names; {twice[0]} stands there twice. "
            "Name one of them otherwise, with LABEL=SOURCE."
        )


def _differs(a: Evaluation, b: Evaluation, field: str, mine: Any, other: Any) -> ValueError:
    return ValueError(
        f"Numbers on one axis must be measured alike; {field} is {mine!r} in {a.name} and "
        f"{other!r} in {b.name}. Evaluate both in the same way, or draw them apart."
    )
