"""Published values that a result is held against: `miro-jax check EXPECTED RESULT`.

A file of expected values, such as `expected/miro_2510.25897.json` which comes with the package, is

    {"models": {NAME: {BENCHMARK: {"samples_per_prompt": 4, "metrics": {METRIC:
        {"value": 0.677, "tolerance": 0.025, "tags": {TAG: {...}}}}}}}}

"unknown" where the source does not say. A value that cannot be compared is no failure and no
success: the field that prevents it is named. Published curves stand with the plots of them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import read_json
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation

FOLDER = Path(__file__).parent / "expected"
PASS, FAIL, NOT_COMPARABLE = "pass", "fail", "not comparable"
_VALUE = {"value": float, "tolerance": float}
SCHEMA = {
    "models": {
        str: {
            str: {
                "samples_per_prompt": (int, str),
                "metrics": {str: _VALUE | {"tags?": {str: _VALUE}}},
            }
        }
    }
}


def names() -> list[str]:
    """Return the names of the files that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(source: str) -> dict[str, Any]:
    """Read expected values, by the path of a file or the name of one that comes with the package.

    Raises:
      FileNotFoundError: there is none; the names are listed. ValueError: it holds something else.
    """
    path = FOLDER / f"{source}.json" if source in names() else Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"EXPECTED must be a file of expected values, or one of {', '.join(names())}; got "
            f"{source!r}."
        )
    return read_json(path, SCHEMA)


def check(expected: Mapping[str, Any], evaluation: Evaluation, model: str) -> list[dict[str, Any]]:
    """Hold a result against the expected values of a model.

    Returns:
      For each expected value: metric, tag, expected, tolerance, got, verdict and why.

    Raises:
      ValueError: the model is unknown, or has no values of this benchmark; the known are listed.
    """
    models, benchmark = expected["models"], evaluation.manifest["benchmark"]
    if model not in models:
        raise ValueError(f"--model must be one of {', '.join(sorted(models))}; got {model!r}.")
    own = models[model]
    if benchmark["name"] not in own:
        raise ValueError(
            f"{model} has expected values of {', '.join(sorted(own))}; the result is of "
            f"{benchmark['name']}."
        )
    wanted = own[benchmark["name"]]
    problem = _problem(wanted, evaluation)
    return [_check(evaluation, problem, *value) for value in _values(wanted["metrics"])]


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for metric, value in metrics.items():
        yield metric, "", value
        for tag, one in value.get("tags", {}).items():
            yield metric, tag, one


def _problem(wanted: Mapping[str, Any], evaluation: Evaluation) -> str:
    """Return why no value of a result can be compared, or an empty string."""
    samples = evaluation.manifest["benchmark"].get("samples_per_prompt")
    if wanted["samples_per_prompt"] not in (UNKNOWN, samples):
        return f"benchmark.samples_per_prompt is {samples}, not {wanted['samples_per_prompt']}"
    return "result.partial is true" if evaluation.manifest["result"].get("partial") else ""


def _check(
    evaluation: Evaluation, problem: str, metric: str, tag: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    found = evaluation.metrics.get(metric, {})
    found = found.get("tags", {}).get(tag, {}) if tag else found
    got, why = found.get("value"), problem
    if got is None:
        why = why or f"result.metrics has no {metric}{f' of {tag}' if tag else ''}"
    judge = evaluation.manifest["judge"]
    if not why and metric not in evaluation.manifest["rewards"] and judge.get("name") == UNKNOWN:
        why = "judge.name is unknown"
    verdict = NOT_COMPARABLE if why else FAIL
    if not why and got is not None and abs(got - value["value"]) <= value["tolerance"]:
        verdict = PASS
    return {
        "metric": metric,
        "tag": tag,
        "expected": value["value"],
        "tolerance": value["tolerance"],
        "got": got,
        "verdict": verdict,
        "why": why,
    }
